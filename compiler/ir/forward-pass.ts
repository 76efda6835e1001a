import { type Fault, InternalError, InvalidArgumentError } from "../../shared/errors.ts";
import type { ForwardGraph, GraphNode } from "../../shared/graph/graph.ts";
import { didYouMean } from "../../shared/nearest.ts";
import { hasOp, opDefinition, opNames } from "../ops/index.ts";
import type { Attrs } from "../ops/op.ts";
import type { Graph } from "./graph.ts";

/** A layer as plans see it: an op called with parameters and, when a bias follows, the value after it; one pair per call. */
export interface PlannedLayer {
  readonly path: string;
  /** Op that makes the layer's product: what its styles are looked up by. */
  readonly op: string;
  /** Parameters that the op takes, the weight first. */
  readonly weights: readonly number[];
  readonly bias: number | undefined;
  readonly calls: readonly {
    readonly input: number;
    readonly product: number;
    readonly output: number;
  }[];
}

export interface ForwardPassOptions {
  /** Grows by the model's nodes. */
  readonly graph: Graph;
  readonly model: ForwardGraph;
  /** Values of the graph that are the model's inputs. */
  readonly inputs: readonly number[];
  /** Values that stand for its parameters. */
  readonly parameterUses: readonly number[];
  /** Layers whose input gets a copy to be pinned. */
  readonly copiedInputs: ReadonlySet<string>;
  /** Casts what an op reads in another precision than it takes; absent: everything is float32. */
  readonly cast?: (value: number, op: string, input: number) => number;
  /** What ops that draw at random must know of the step. */
  readonly random: { readonly seed: number; readonly microbatches: number };
  /** Another value for a node's where it gives one. */
  readonly replace?: (node: GraphNode, operands: readonly number[]) => number | undefined;
}

const cast =
  (op: string, of: (value: number, op: string, input: number) => number) =>
  (value: number, input: number): number =>
    of(value, op, input);

export interface ForwardPass {
  readonly output: number;
  readonly layers: readonly PlannedLayer[];
  /** Layer inputs that a style wants in a layout of its own: input copy to (layer path). */
  readonly inputCopies: ReadonlyMap<number, string>;
}

/**
 * Adds a model's nodes to a graph. Faults of the model itself (unknown op, shapes that do not fit) are added to `faults`;
 * undefined is returned then.
 */
export function addForwardPass(
  options: ForwardPassOptions,
  faults: Fault[],
): ForwardPass | undefined {
  const { graph, model, copiedInputs, random } = options;
  const values: number[] = [...options.inputs, ...options.parameterUses];
  const usesOf = new Set(options.parameterUses);
  const inputCopies = new Map<number, string>();
  const calls = new Map<string, LayerUnderConstruction>();
  const useCounts = countUses(model);
  const tracedAs = new Map<number, number>();
  for (const [index, node] of model.nodes.entries()) {
    const traced = node.inputs.map((v) => values[v] ?? -1);
    const where = `${node.layer === "" ? "model" : `layer "${node.layer}"`}, op ${node.op}`;
    const definition = hasOp(node.op) ? opDefinition(node.op) : undefined;
    const { numInputs, modelAttrs = [] } = definition ?? {};
    if (numInputs === undefined) {
      faults.push({
        path: `model.graph.nodes[${index}]`,
        message: `${where}: not an op that models may use${didYouMean(node.op, modelOps())}`,
      });
      return undefined;
    }
    const unknown = Object.keys(node.attrs).find((name) => !modelAttrs.includes(name));
    if (unknown !== undefined) {
      const may = modelAttrs.length === 0 ? "it takes none" : `it takes ${modelAttrs.join(", ")}`;
      faults.push({
        path: `model.graph.nodes[${index}].attrs`,
        message: `${where}: unknown attribute "${unknown.slice(0, 60)}"; ${may}`,
      });
      return undefined;
    }
    if (traced.length !== numInputs) {
      faults.push({
        path: `model.graph.nodes[${index}].inputs`,
        message: `${where}: has ${traced.length} inputs; must have ${numInputs}`,
      });
      return undefined;
    }
    try {
      const operands =
        options.cast === undefined ? traced : traced.map(cast(node.op, options.cast));
      if (
        definition?.layer !== undefined &&
        copiedInputs.has(node.layer) &&
        operands[0] !== undefined
      ) {
        operands[0] = graph.add("identity", [operands[0]], {}, node.layer);
        inputCopies.set(operands[0], node.layer);
      }
      const value = options.replace?.(node, operands) ?? addNode(node, operands);
      tracedAs.set(value, values.length);
      values.push(value);
      recordLayer(node.op, node.layer, [operands[0] ?? -1, ...traced.slice(1)], value);
    } catch (error) {
      if (!(error instanceof InvalidArgumentError)) throw error;
      faults.push({ path: "model", message: `${where}: ${error.message}` });
      return undefined;
    }
  }
  const output = values[model.output];
  if (output === undefined) throw new InternalError(`graph output ${model.output} does not exist`);
  return { output, layers: [...calls].map(([path, layer]) => ({ path, ...layer })), inputCopies };

  function addNode(node: GraphNode, operands: readonly number[]): number {
    const gated = gatedUnit(node.op, operands, (value) => useCounts[tracedAs.get(value) ?? -1]);
    return gated === undefined
      ? graph.add(node.op, operands, attrsOf(node), node.layer)
      : graph.add("swiglu", gated, {}, node.layer);
  }

  function recordLayer(
    op: string,
    layer: string,
    operands: readonly number[],
    value: number,
  ): void {
    const [input = -1, ...weights] = operands;
    const found = calls.get(layer);
    if (opDefinition(op).layer !== undefined && weights.every((w) => usesOf.has(w))) {
      const call = { input, product: value, output: value };
      if (found === undefined) calls.set(layer, { op, weights, bias: undefined, calls: [call] });
      else if (found.op === op) found.calls.push(call);
    } else if (op === "bias") {
      const call = found?.calls.find((c) => c.product === input);
      if (found === undefined || call === undefined) return;
      call.output = value;
      found.bias = weights[0];
    }
  }

  /** Attributes of a node, with what random ops must know of the step. */
  function attrsOf(node: GraphNode): Attrs {
    if (opDefinition(node.op).drawsRandom !== true) return node.attrs;
    return {
      ...node.attrs,
      microbatches: random.microbatches,
      seedLow: random.seed >>> 0,
      seedHigh: Math.floor(random.seed / 2 ** 32) >>> 0,
    };
  }

  /** Operands of silu(a) * b as one gated unit, where the activation has no other use: it is then never kept. */
  function gatedUnit(
    op: string,
    operands: readonly number[],
    uses: (value: number) => number | undefined,
  ): readonly number[] | undefined {
    const [left = -1, right = -1] = operands;
    if (op !== "mul" || left === right) return undefined;
    for (const [gate, other] of [
      [left, right],
      [right, left],
    ] as const) {
      const node = graph.nodes[gate];
      if (node?.op === "silu" && uses(gate) === 1) return [node.inputs[0] ?? -1, other];
    }
    return undefined;
  }
}

interface LayerUnderConstruction {
  readonly op: string;
  readonly weights: readonly number[];
  bias: number | undefined;
  readonly calls: { input: number; product: number; output: number }[];
}

/** Ops that a traced model may hold. */
const modelOps = (): string[] => opNames().filter((op) => opDefinition(op).numInputs !== undefined);

/** How often each value of a traced graph is read; its result counts as one reading. */
function countUses(graph: ForwardGraph): number[] {
  const counts = new Array<number>(
    graph.inputs.length + graph.parameters.length + graph.nodes.length,
  ).fill(0);
  const count = (value: number): void => {
    counts[value] = (counts[value] ?? 0) + 1;
  };
  for (const node of graph.nodes) node.inputs.forEach(count);
  count(graph.output);
  return counts;
}
