import type { Fault } from "../../shared/errors.ts";
import { axisSize } from "../../shared/mesh/mesh.ts";
import { isShard, type Placement, shard, shardDim } from "../../shared/mesh/placement.ts";
import type { CompileRequest } from "../compile.ts";
import type { TrainingGraph } from "../ir/training-graph.ts";
import { hasOp, opDefinition } from "../ops/index.ts";
import { matchStyles } from "../plan/match.ts";
import { type PinContext, pinLayer } from "./pin-layer.ts";

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
export function layersWithInputLayout({ graph, axes }: CompileRequest): Set<string> {
  const isLayer = (op: string): boolean => hasOp(op) && opDefinition(op).layer !== undefined;
  const layers = new Set(graph.nodes.filter(({ op }) => isLayer(op)).map(({ layer }) => layer));
  const found = new Set<string>();
  for (const axis of axes) {
    for (const [layer, { style }] of matchStyles(axis.styles, [...layers], axis.stylesPath, [])) {
      if (style.input !== undefined) found.add(layer);
    }
  }
  return found;
}

/**
 * Pins of every axis: parameters, state and updated parameters by style and state sharding, layer outputs by style,
 * inputs and the loss. Faults of the plan and of sizes that do not divide are added to `faults`,
 * what an optional style leaves off to `notes`.
 */
export function pinAxes(
  request: CompileRequest,
  training: TrainingGraph,
  faults: Fault[],
  notes: string[],
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
    const owners: PinContext["owners"] = new Map();
    const leftWhole: PinContext["leftWhole"] = new Map();
    const failures: PinContext["failures"] = new Map();
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
      const matched = styles[a]?.get(layer.path);
      const followsInput = follows[a];
      if (matched !== undefined)
        pinLayer(
          { request, training, faults, failures, leftWhole, axis: a, pin, owners },
          layer,
          matched,
        );
      else for (const call of layer.calls) followsInput?.set(call.product, call.input);
    }
    for (const { path, what, layers, problem } of failures.values())
      faults.push({ path, message: `${what} ${listed(layers)}: ${problem}` });
    for (const [reason, layers] of leftWhole)
      notes.push(`${listed(layers)} left whole on ${mesh.axes[a]?.name}: ${reason}`);
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
}

/** `"layers.0.norm" and 3 more layers`. */
function listed([first, ...others]: readonly string[]): string {
  const more = others.length === 1 ? " and 1 more layer" : ` and ${others.length} more layers`;
  return `"${first}"${others.length === 0 ? "" : more}`;
}
