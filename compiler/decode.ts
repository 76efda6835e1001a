import { type Fault, InternalError, InvalidArgumentError } from "../shared/errors.ts";
import type { ForwardGraph, GraphNode } from "../shared/graph/graph.ts";
import type { Mesh } from "../shared/mesh/mesh.ts";
import { isShard, type Placement, shard } from "../shared/mesh/placement.ts";
import { type AxisRole, type CompileRequest, type CompileResult, place } from "./compile.ts";
import { addForwardPass } from "./ir/forward-pass.ts";
import { Graph } from "./ir/graph.ts";
import type { TrainedParameter, TrainingGraph } from "./ir/training-graph.ts";
import { opDefinition } from "./ops/index.ts";
import type { Choice } from "./spmd/choose.ts";
import { layersWithInputLayout } from "./spmd/pins.ts";

export interface DecodeRequest {
  readonly name: string;
  /** A model of sequences of any length: its one input is a row of token ids (int32), its output each next token's logits. */
  readonly graph: ForwardGraph;
  readonly mesh: Mesh;
  /** One per mesh axis; none splits the batch, which is one sequence. */
  readonly axes: readonly AxisRole[];
  /** Tokens that the model looks back on at most: positions that the caches have room for. */
  readonly context: number;
  /** 0: always the likeliest token. */
  readonly temperature: number;
  /** How many of the likeliest tokens may be drawn; 0: all. */
  readonly topK: number;
  /** Of the draws. */
  readonly seed: number;
}

/**
 * Compiles a model into the program that continues a text: step s takes the token at position s mod context and returns,
 * where a training step returns its loss, the id of a token drawn for the position after it. Keys and values of earlier
 * positions are kept in caches, so that a step costs one token whatever the length. At position 0 a sequence begins anew.
 *
 * @throws InvalidArgumentError with all faults of model, plan and sizes, each with its field path
 */
export function compileDecoder(request: DecodeRequest): CompileResult {
  const faults: Fault[] = [];
  const step = asStep(request);
  const decoder = buildDecoder(request, step, faults);
  if (decoder === undefined) throw new InvalidArgumentError(faults);
  return place(step, decoder.training, faults, (chosen) => {
    for (const attention of decoder.attentions)
      useCaches(decoder.training.graph, attention, chosen);
  });
}

/** The request in the words of training, as far as placements and lowering read it: one row, nothing updated. */
function asStep({ name, graph, mesh, axes }: DecodeRequest): CompileRequest {
  return {
    name,
    graph,
    mesh,
    axes,
    loss: "sum",
    batchSize: 1,
    microbatches: 1,
    optimizer: { kind: "sgd", lr: 0, momentum: 0 },
    schedule: { kind: "constant" },
    clipGradNorm: 0,
    reportGradNorm: false,
  };
}

/** An attention of the graph, and the leaves that will hold its keys and values. */
interface CachedAttention {
  readonly value: number;
  readonly caches: readonly [keys: number, values: number];
}

interface Decoder {
  readonly training: TrainingGraph;
  readonly attentions: readonly CachedAttention[];
}

/** The graph of one step, its attentions still without caches: they are placed as in training first. */
function buildDecoder(
  request: DecodeRequest,
  step: CompileRequest,
  faults: Fault[],
): Decoder | undefined {
  const { context, temperature, topK, seed } = request;
  const [input, ...others] = request.graph.inputs;
  const [tracedTokens] = input?.dims ?? [];
  if (input?.dtype !== "int32" || input.dims.length !== 1 || others.length > 0) {
    const found = request.graph.inputs
      .map(({ name, dims, dtype }) => `${name} [${dims.join(", ")}] ${dtype}`)
      .join(", ");
    const message = `generates text only where its one input is a row of token ids (int32); this one takes ${found || "nothing"}`;
    faults.push({ path: "model", message });
    return undefined;
  }
  const graph = new Graph();
  const tokens = graph.leaf(
    { kind: "input", index: 0 },
    { shape: [1, 1], dtype: "int32" },
    input.name,
  );
  const leaves = request.graph.parameters.map((p, index) =>
    graph.leaf({ kind: "parameter", index }, { shape: p.dims, dtype: "float32" }, p.name),
  );
  const caches: { name: string; leaf: number }[] = [];
  const attentions: CachedAttention[] = [];
  const forward = addForwardPass(
    {
      graph,
      model: request.graph,
      inputs: [tokens],
      parameterUses: leaves,
      copiedInputs: layersWithInputLayout(step),
      random: { seed: 0, microbatches: 1 },
      replace: decoded,
    },
    faults,
  );
  if (forward === undefined) return undefined;
  if (attentions.length === 0) {
    const message =
      "has no attention, so that a token depends on no other; there is no text to go on with";
    faults.push({ path: "model", message });
    return undefined;
  }
  const { shape } = graph.node(forward.output).type;
  if (shape.length !== 3 || shape[0] !== 1 || shape[1] !== 1) {
    const message = `must return logits [1, 1, vocabulary] for one token to generate text, not [${shape.join(", ")}]`;
    faults.push({ path: "model", message });
    return undefined;
  }
  const draw = { temperature, topK, seedLow: seed >>> 0, seedHigh: Math.floor(seed / 2 ** 32) };
  const parameters = leaves.map(
    (leaf): TrainedParameter => ({
      name: graph.node(leaf).layer,
      leaf,
      forwardUse: leaf,
      backwardUse: leaf,
      gradient: undefined,
      moment1: undefined,
      moment2: undefined,
      updated: undefined,
    }),
  );
  const training: TrainingGraph = {
    graph,
    inputs: [{ name: input.name, leaf: tokens }],
    parameters,
    layers: forward.layers,
    gradients: { accumulated: new Map(), sumOf: new Map() },
    loss: graph.add("sampleToken", [forward.output], draw, "sample"),
    gradNorm: undefined,
    squares: [],
    inputCopies: forward.inputCopies,
    parameterOf: new Map(leaves.map((leaf, index) => [leaf, index])),
    clones: new Map(),
    caches,
  };
  return { training, attentions };

  /** What takes a node's place when a sequence is seen token by token. */
  function decoded(
    { op, attrs, layer }: GraphNode,
    operands: readonly number[],
  ): number | undefined {
    switch (op) {
      case "dropout":
        return operands[0];
      case "reshape": {
        // Dim 1 counts tokens, where it stays as it is.
        const keepsTokens = attrs["d1"] === tracedTokens && sizeOf(operands[0], 1) === 1;
        return keepsTokens ? graph.add(op, operands, { ...attrs, d1: 1 }, layer) : undefined;
      }
      case "rope":
        return graph.add(op, operands, { ...attrs, context }, layer);
      case "addPosition": {
        const rows = sizeOf(operands[1], 0);
        if (rows >= context) return graph.add(op, operands, { ...attrs, context }, layer);
        throw new InvalidArgumentError(
          `a context of ${context} tokens, and the model was made for ${rows}; look back on no more than those`,
        );
      }
      case "attention":
        return addAttention(operands, attrs, layer);
      default:
        return undefined;
    }
  }

  function sizeOf(value: number | undefined, dim: number): number {
    return graph.node(value ?? -1).type.shape[dim] ?? 0;
  }

  function addAttention(
    operands: readonly number[],
    attrs: GraphNode["attrs"],
    layer: string,
  ): number {
    if (attrs["causal"] !== 1) {
      throw new InvalidArgumentError(
        "tokens see those after them (causal: 0); only causal attention can go on with a text",
      );
    }
    const cache = (what: string, of: number | undefined): number => {
      const name = `${layer}.${what}${attentions.length}`;
      const type = { shape: [context, sizeOf(of, 2)], dtype: "float32" } as const;
      const leaf = graph.leaf({ kind: "cache", index: caches.length }, type, name);
      caches.push({ name, leaf });
      return leaf;
    };
    const [, k, v] = operands;
    const pair = [cache("keys", k), cache("values", v)] as const;
    const value = graph.add("attention", operands, attrs, layer);
    attentions.push({ value, caches: pair });
    return value;
  }
}

/** Gives an attention its caches, each placed as the keys and values that go into it. */
function useCaches(
  graph: Graph,
  { value, caches }: CachedAttention,
  chosen: readonly Choice[][],
): void {
  const node = graph.node(value);
  const inputs = [...node.inputs, ...caches];
  const types = inputs.map((input) => graph.node(input).type);
  const type = opDefinition("attentionCached").infer(types, node.attrs);
  graph.nodes[value] = { ...node, op: "attentionCached", inputs, type };
  for (const choices of chosen) {
    const choice = choices[value];
    if (choice === undefined) throw new InternalError(`attention %${value} has no placement`);
    const placements = caches.map((_, i) => placementOfCache(choice.inputs[1 + i] ?? "R"));
    choices[value] = { ...choice, inputs: [...choice.inputs, ...placements] };
    caches.forEach((cache, i) => {
      const placement = placements[i] ?? "R";
      choices[cache] = { inputs: [], output: placement, canonical: placement };
    });
  }
}

/** Of a cache [positions, features] for keys [1, 1, features] that are placed so. */
function placementOfCache(keys: Placement): Placement {
  if (!isShard(keys)) return keys;
  if (keys !== shard(2)) throw new InternalError(`keys of one token are split as ${keys}`);
  return shard(1);
}
