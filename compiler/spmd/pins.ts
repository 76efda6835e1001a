import type { Fault } from "../../shared/errors.ts";
import { axisSize } from "../../shared/mesh/mesh.ts";
import { isShard, type Placement, shard, shardDim } from "../../shared/mesh/placement.ts";
import type { AxisRole, CompileRequest } from "../compile.ts";
import type { LinearLayer, TrainingGraph } from "../ir/training-graph.ts";
import { type MatchedStyle, matchStyles } from "../plan/match.ts";
import type { StyleLayout } from "../plan/style.ts";

/** What is settled about values on one axis before anything is chosen. */
export interface AxisPins {
  /** Placement that a value must have once it is computed. */
  readonly fixed: ReadonlyMap<number, Placement>;
  /**
   * Outputs of layers that no style names: they follow their input where that is whole or split along a leading dim,
   * else they are whole.
   */
  readonly followsInput: ReadonlyMap<number, number>;
}

/** Layers whose input a style wants in a layout of its own, on any axis. */
export function layersWithInputLayout(
  request: CompileRequest,
  layers: readonly string[],
): Set<string> {
  const found = new Set<string>();
  for (const axis of request.axes) {
    for (const [layer, { style }] of matchStyles(axis.styles, layers, axis.stylesPath, [])) {
      if (style.input !== undefined) found.add(layer);
    }
  }
  return found;
}

/**
 * Pins of every axis: parameters, state and updated parameters by style and state sharding, layer outputs by style,
 * inputs and the loss. Faults of the plan and of sizes that do not divide are added to `faults`.
 */
export function pinAxes(
  request: CompileRequest,
  training: TrainingGraph,
  faults: Fault[],
): AxisPins[] {
  const { mesh } = request;
  const layerNames = training.layers.map((layer) => layer.path);
  const styles = request.axes.map((axis) =>
    matchStyles(axis.styles, layerNames, axis.stylesPath, faults),
  );
  const fixed = request.axes.map(() => new Map<number, Placement>());
  const follows = request.axes.map(() => new Map<number, number>());

  request.axes.forEach((role, a) => {
    const pins = fixed[a] ?? new Map<number, Placement>();
    const size = axisSize(mesh, a);
    const pin = (value: number | undefined, placement: Placement): void => {
      if (value !== undefined) pins.set(value, size === 1 ? "R" : placement);
    };
    for (const input of training.inputs) {
      pin(input.leaf, role.splitsBatch ? "S0" : "R");
    }
    pin(training.loss, "R");
    pin(training.gradNorm, "R");
    for (const square of training.squares) pin(square, "P");
    for (const parameter of training.parameters) pin(parameter.leaf, "R");
    for (const layer of training.layers) {
      pinLayer(
        layer,
        styles[a]?.get(layer.path),
        size,
        role,
        pin,
        follows[a] ?? new Map<number, number>(),
      );
    }
    for (const parameter of training.parameters) {
      const compute = pins.get(parameter.leaf) ?? "R";
      for (const value of [parameter.forwardUse, parameter.backwardUse]) pin(value, compute);
    }
  });

  // State may be stored in finer shards than parameters compute in; that needs every style settled first.
  request.axes.forEach((role, a) => {
    const pins = fixed[a] ?? new Map<number, Placement>();
    const size = axisSize(mesh, a);
    for (const parameter of training.parameters) {
      const compute = pins.get(parameter.leaf) ?? "R";
      const stored =
        role.stateSharding === "none" || size === 1 || isShard(compute)
          ? compute
          : storedPlacement(parameter.leaf, a, size);
      for (const value of [parameter.gradient, parameter.moment1, parameter.moment2]) {
        if (value !== undefined) pins.set(value, stored);
      }
      const kept = role.stateSharding === "full" ? stored : compute;
      pins.set(parameter.leaf, kept);
      if (parameter.updated !== undefined) pins.set(parameter.updated, kept);
    }
  });
  return fixed.map((pins, a) => ({ fixed: pins, followsInput: follows[a] ?? new Map() }));

  /** First dim that divides by the axis within what the other axes leave; whole where none does. */
  function storedPlacement(leaf: number, axis: number, size: number): Placement {
    const { shape } = training.graph.node(leaf).type;
    for (const [dim, length] of shape.entries()) {
      let parts = size;
      fixed.forEach((pins, other) => {
        if (other !== axis && shardDim(pins.get(leaf) ?? "R") === dim)
          parts *= axisSize(mesh, other);
      });
      if (length % parts === 0) return shard(dim);
    }
    return "R";
  }

  function pinLayer(
    layer: LinearLayer,
    matched: MatchedStyle | undefined,
    size: number,
    role: AxisRole,
    pin: (value: number | undefined, placement: Placement) => void,
    followsInput: Map<number, number>,
  ): void {
    const weight = training.parameters[training.parameterOf.get(layer.weight) ?? -1];
    const bias =
      layer.bias === undefined
        ? undefined
        : training.parameters[training.parameterOf.get(layer.bias) ?? -1];
    if (matched === undefined) {
      for (const call of layer.calls) followsInput.set(call.product, call.input);
      return;
    }
    const { style, pattern } = matched;
    const path = role.stylesAreOwn
      ? `${role.stylesPath}[${JSON.stringify(pattern.slice(0, 80))}]`
      : role.sizePath;
    const [out = 0, into = 0] = training.graph.node(layer.weight).type.shape;
    const cut = style.name === "colwise" ? out : style.name === "rowwise" ? into : size;
    if (cut % size !== 0) {
      const features = style.name === "colwise" ? "out-features" : "in-features";
      faults.push({
        path,
        message: `${style.name} "${layer.path}": ${cut} ${features} are not divisible by ${size} ranks; use ${divisors(cut)} ranks, or a multiple of ${size}`,
      });
      return;
    }
    pin(weight?.leaf, style.name === "colwise" ? "S0" : style.name === "rowwise" ? "S1" : "R");
    pin(bias?.leaf, style.name === "colwise" ? "S0" : "R");
    for (const call of layer.calls) {
      const rank = training.graph.node(call.product).type.shape.length;
      const output =
        resolve(style.output, rank, path) ?? (style.name === "colwise" ? shard(rank - 1) : "R");
      // A colwise bias is split like the product's last dim and added before anything is gathered; a rowwise bias
      // is whole and added once, after the partial products are reduced.
      pin(call.product, style.name === "colwise" ? shard(rank - 1) : output);
      pin(call.output, output);
      checkShard(output, call.output, size, path, layer.path, "output");
      if (training.inputCopies.has(call.input)) {
        const input = resolve(style.input, training.graph.node(call.input).type.shape.length, path);
        if (input !== undefined) {
          pin(call.input, input);
          checkShard(input, call.input, size, path, layer.path, "input");
        }
      }
    }
  }

  function resolve(
    layout: StyleLayout | undefined,
    rank: number,
    path: string,
  ): Placement | undefined {
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

  function checkShard(
    placement: Placement,
    value: number,
    size: number,
    path: string,
    layer: string,
    what: string,
  ): void {
    if (!isShard(placement)) return;
    const { shape } = training.graph.node(value).type;
    const length = shape[shardDim(placement)] ?? 0;
    const batchParts =
      shardDim(placement) === 0
        ? request.axes.reduce((p, axis, b) => p * (axis.splitsBatch ? axisSize(mesh, b) : 1), 1)
        : 1;
    if (length % (size * batchParts) !== 0) {
      faults.push({
        path,
        message: `${what} of "${layer}": dim ${shardDim(placement)} of [${shape.join(", ")}] is not divisible by ${size * batchParts} ranks`,
      });
    }
  }
}

/** `1, 2, 4, 5 or 10`: at most the eight largest divisors up to 64. */
function divisors(n: number): string {
  const all: number[] = [];
  for (let d = 1; d <= Math.min(n, 64); d++) if (n % d === 0) all.push(d);
  const shown = all.slice(-8);
  return shown.length === 1 ? `${shown[0]}` : `${shown.slice(0, -1).join(", ")} or ${shown.at(-1)}`;
}
