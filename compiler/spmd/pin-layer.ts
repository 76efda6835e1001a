import type { Fault } from "../../shared/errors.ts";
import { axisSize } from "../../shared/mesh/mesh.ts";
import { isShard, type Placement, shard, shardDim } from "../../shared/mesh/placement.ts";
import type { CompileRequest } from "../compile.ts";
import type { PlannedLayer } from "../ir/forward-pass.ts";
import type { Node } from "../ir/graph.ts";
import type { TrainingGraph } from "../ir/training-graph.ts";
import type { LayerStyle, Unit } from "../ops/op.ts";
import { opDefinition } from "../ops/registry.ts";
import type { MatchedStyle } from "../plan/match.ts";
import type { StyleLayout } from "../plan/style.ts";

/** Pins of one axis under construction. */
export interface PinContext {
  readonly request: CompileRequest;
  readonly training: TrainingGraph;
  readonly faults: Fault[];
  /** What does not divide, alike layers together. */
  readonly failures: Map<
    string,
    {
      readonly path: string;
      readonly what: string;
      readonly layers: string[];
      readonly problem: string;
    }
  >;
  /** Why something was left whole, to the layers that it befell. */
  readonly leftWhole: Map<string, string[]>;
  readonly axis: number;
  readonly pin: (value: number | undefined, placement: Placement) => void;
  /** Parameter's leaf to the layer that settled its placement: a shared weight must lie as all its layers want it. */
  readonly owners: Map<number, { readonly layer: string; readonly placement: Placement }>;
}

/**
 * Pins parameters, products and outputs of one layer by its style. What does not divide is a fault, or a note where the
 * style is optional.
 */
export function pinLayer(context: PinContext, layer: PlannedLayer, matched: MatchedStyle): void {
  const { request, training, faults, pin } = context;
  const { style, pattern } = matched;
  const role = request.axes[context.axis];
  const size = axisSize(request.mesh, context.axis);
  const path =
    role === undefined || role.stylesAreOwn
      ? `${role?.stylesPath ?? "plan"}[${JSON.stringify(pattern.slice(0, 80))}]`
      : role.sizePath;
  const definition = opDefinition(layer.op).layer;
  const known = definition?.styles ?? {};
  const wanted = known[style.name];
  if (wanted === undefined) {
    const names = Object.keys(known).join(", ");
    faults.push({
      path,
      message: `"${layer.path}" is a layer of kind ${definition?.kind ?? layer.op}, which style "${style.name}" is not for; use ${names}`,
    });
    return;
  }
  const whole = known["replicate"] ?? wanted;
  const problem = weightProblem(wanted);
  if (problem !== undefined) {
    if (!style.optional) {
      fail(path, style.name, layer.path.replace(/(?<=^|\.)\d+(?=\.|$)/g, "#"), problem);
      return;
    }
    noteLeftWhole(problem);
  }
  const used = problem === undefined ? wanted : whole;
  layer.weights.forEach((weight) => {
    pinParameter(weight, used.weight);
  });
  if (layer.bias !== undefined) pinParameter(layer.bias, used.bias);
  for (const call of layer.calls) {
    const { shape } = training.graph.node(call.product).type;
    const last = shard(shape.length - 1);
    const asked = resolve(style.output, shape.length);
    const byStyle = used.output === "last" ? last : used.output;
    const output = divisible(asked ?? byStyle, call.output, "output") ?? "R";
    // A colwise bias is split like the product's last dim and added before anything is gathered; a rowwise bias is whole
    // and added once, after the partial products are reduced.
    pin(call.product, used.product === "last" ? last : output);
    pin(call.output, output);
    if (!training.inputCopies.has(call.input)) continue;
    const rank = training.graph.node(call.input).type.shape.length;
    const input = resolve(style.input, rank);
    if (input !== undefined) pin(call.input, divisible(input, call.input, "input") ?? "R");
  }

  /** What keeps the layer's weight from being split so, if anything. */
  function weightProblem({ weight, output }: LayerStyle): string | undefined {
    if (!isShard(weight)) return undefined;
    const dim = shardDim(weight);
    const length = training.graph.node(layer.weights[0] ?? -1).type.shape[dim] ?? 0;
    const what = features(definition?.kind, dim);
    const unit =
      output === "last" ? layer.calls.map((c) => unitOf(training, c.output))[0] : undefined;
    const count = unit === undefined ? length : length / unit.size;
    if (count % size === 0) return undefined;
    if (unit === undefined)
      return `${length} ${what} are not divisible by ${size} ranks; use ${divisors(length)}, or a multiple of ${size}`;
    return `${count} ${unit.name} of ${unit.size} features are not divisible by ${size} ranks; use ${divisors(count)}, ${count < size ? "" : `a multiple of ${size} ${unit.name}, `}or style "replicate" for layers whose heads can't be split`;
  }

  function fail(at: string, what: string, alike: string, problem: string): void {
    const key = `${at} ${what} ${alike} ${problem}`;
    const known = context.failures.get(key);
    if (known === undefined)
      context.failures.set(key, { path: at, what, layers: [layer.path], problem });
    else known.layers.push(layer.path);
  }

  function noteLeftWhole(reason: string): void {
    const layers = context.leftWhole.get(reason);
    if (layers === undefined) context.leftWhole.set(reason, [layer.path]);
    else layers.push(layer.path);
  }

  /** A parameter that two layers share must lie as both want it. */
  function pinParameter(value: number, placement: Placement): void {
    const parameter = training.parameters[training.parameterOf.get(value) ?? -1];
    if (parameter === undefined) return;
    const other = context.owners.get(parameter.leaf);
    if (other !== undefined && other.placement !== placement && size > 1) {
      faults.push({
        path,
        message: `"${layer.path}" and "${other.layer}" share the weight "${parameter.name}", but ${style.name} wants it split ${describe(placement)} and "${other.layer}" ${describe(other.placement)}; give them styles that agree, such as rowwise for an embedding and colwise for the layer tied to it`,
      });
      return;
    }
    context.owners.set(parameter.leaf, { layer: layer.path, placement });
    pin(parameter.leaf, placement);
  }

  function resolve(layout: StyleLayout | undefined, rank: number): Placement | undefined {
    if (layout === undefined) return undefined;
    if (layout.kind === "replicate") return "R";
    const dim = layout.dim < 0 ? layout.dim + rank : layout.dim;
    if (dim >= 0 && dim < rank) return shard(dim);
    faults.push({
      path,
      message: `shard(${layout.dim}) of a tensor with ${rank} dims; use a dim from ${-rank} to ${rank - 1}`,
    });
    return "R";
  }

  /** The placement if the value divides so; else a fault, or a note where the style is optional. */
  function divisible(placement: Placement, value: number, what: string): Placement | undefined {
    if (!isShard(placement)) return placement;
    const { shape } = training.graph.node(value).type;
    const dim = shardDim(placement);
    const length = shape[dim] ?? 0;
    const batchParts =
      dim === 0
        ? request.axes.reduce(
            (p, axis, b) => p * (axis.splitsBatch ? axisSize(request.mesh, b) : 1),
            1,
          )
        : 1;
    if (length % (size * batchParts) === 0) return placement;
    const problem = `dim ${dim} of [${shape.join(", ")}] is not divisible by ${size * batchParts} ranks`;
    if (style.optional) noteLeftWhole(`${what}: ${problem}`);
    else {
      const outputs = role?.stylesAreOwn === false ? role.outputs : undefined;
      const advice = outputs?.advice ?? `use ${divisors(length)}`;
      fail(outputs?.path ?? path, `${what} of`, "", `${problem}; ${advice}`);
    }
    return undefined;
  }
}

const describe = (placement: Placement): string =>
  isShard(placement) ? `along dim ${shardDim(placement)}` : "not at all";

function features(kind: string | undefined, dim: number): string {
  if (kind === "embedding") return dim === 0 ? "rows of the vocabulary" : "features";
  return dim === 0 ? "out-features" : "in-features";
}

/** The units in which a value's last dim is used: heads, where it goes to an op that takes whole heads. */
function unitOf(training: TrainingGraph, value: number): Unit | undefined {
  const { graph } = training;
  let found: { readonly unit: Unit; readonly value: number } | undefined;
  for (let reader = firstReader(value); reader !== undefined; reader = firstReader(reader.id)) {
    const { op, attrs, inputs, type } = reader;
    const last = type.shape.length - 1;
    const from = inputs.findIndex((input) => input === value || input === found?.value);
    const unit = opDefinition(op).unit?.(from, last, attrs);
    if (unit === undefined) break;
    found = { unit, value: reader.id };
    if (inputs.length > 1) break;
  }
  return found?.unit;

  function firstReader(of: number): Node | undefined {
    for (let id = of + 1; id < graph.nodes.length; id++) {
      const node = graph.nodes[id];
      if (node?.inputs.includes(of)) return node.phase === "forward" ? node : undefined;
    }
    return undefined;
  }
}

/** `1, 2, 4, 5 or 10 ranks`, `1 rank`: at most the eight largest divisors up to 64. */
function divisors(n: number): string {
  const all: number[] = [];
  for (let d = 1; d <= Math.min(n, 64); d++) if (n % d === 0) all.push(d);
  const shown = all.slice(-8);
  if (shown.length === 1) return `${shown[0]} rank${shown[0] === 1 ? "" : "s"}`;
  return `${shown.slice(0, -1).join(", ")} or ${shown.at(-1)} ranks`;
}
