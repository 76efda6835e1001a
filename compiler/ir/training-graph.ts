import type { Fault } from "../../shared/errors.ts";
import type { DType } from "../../shared/program/program.ts";
import { differentiate, type Gradients } from "../autodiff/differentiate.ts";
import type { CompileRequest } from "../compile.ts";
import { elements } from "../ops/shapes.ts";
import { Casts, HALF } from "./casts.ts";
import { addForwardPass, type PlannedLayer } from "./forward-pass.ts";
import { Graph } from "./graph.ts";

/** A parameter of the training graph and everything that belongs to it. */
export interface TrainedParameter {
  readonly name: string;
  readonly leaf: number;
  /** Copies that the forward and the backward pass read; the leaf itself where the parameter is stored as it computes. */
  readonly forwardUse: number;
  readonly backwardUse: number;
  /** Final gradient, or undefined for a parameter that the loss does not depend on. */
  readonly gradient: number | undefined;
  readonly moment1: number | undefined;
  readonly moment2: number | undefined;
  /** The updated parameter. */
  readonly updated: number | undefined;
}

/** Forward, backward and update of one optimizer step in global shapes; nothing is placed yet. */
export interface TrainingGraph {
  readonly graph: Graph;
  readonly inputs: readonly { readonly name: string; readonly leaf: number }[];
  readonly parameters: readonly TrainedParameter[];
  readonly layers: readonly PlannedLayer[];
  readonly gradients: Gradients;
  /** Scalar loss over the global batch. */
  readonly loss: number;
  /** Float64 norm of the gradient, when the job needs it. */
  readonly gradNorm: number | undefined;
  /** Squared norms per parameter, summed partial by partial before one reduction. */
  readonly squares: readonly number[];
  /** Layer inputs that a style wants in a layout of its own: input copy to (layer path). */
  readonly inputCopies: ReadonlyMap<number, string>;
  /** Leaf or use of a parameter, to the parameter's index. */
  readonly parameterOf: ReadonlyMap<number, number>;
  /** Values computed again for the backward pass, to the values that they repeat. */
  readonly clones: ReadonlyMap<number, number>;
  /** What a decoder keeps of the tokens so far. */
  readonly caches?: readonly { readonly name: string; readonly leaf: number }[];
}

/**
 * Builds the step. `separateUses` makes a copy of every parameter for each phase, so that a parameter stored in shards
 * is gathered once per phase; `copiedInputs` names layers whose input gets a copy to be pinned.
 * Faults of the model itself (unknown op, shapes that do not fit) are added to `faults`; undefined is returned then.
 */
export function buildTrainingGraph(
  request: CompileRequest,
  separateUses: boolean,
  copiedInputs: ReadonlySet<string>,
  faults: Fault[],
): TrainingGraph | undefined {
  const graph = new Graph();
  const { microbatches } = request;
  const inputs: { name: string; leaf: number }[] = [];
  const addInput = (name: string, dims: readonly number[], dtype: DType): number => {
    const leaf = graph.leaf(
      { kind: "input", index: inputs.length },
      { shape: [request.batchSize, ...dims], dtype },
      name,
    );
    inputs.push({ name, leaf });
    return microbatches === 1 ? leaf : graph.add("takeRows", [leaf], { parts: microbatches }, name);
  };

  const modelInputs = request.graph.inputs.map((i) => addInput(i.name, i.dims, i.dtype));
  const leaves = request.graph.parameters.map((p, index) =>
    graph.leaf({ kind: "parameter", index }, { shape: p.dims, dtype: "float32" }, p.name),
  );
  const casts = new Casts(graph, request);
  const copy = (leaf: number): number => {
    const { layer } = graph.node(leaf);
    if (casts.isHalf(leaves.indexOf(leaf))) return graph.add("cast", [leaf], HALF, layer);
    return separateUses ? graph.add("identity", [leaf], {}, layer) : leaf;
  };
  // A cast is made where it is first read, so that it lives no longer than it must.
  const parameterUses = leaves.map((leaf, p) => (casts.isHalf(p) ? leaf : copy(leaf)));

  const forward = addForwardPass(
    {
      graph,
      model: request.graph,
      inputs: modelInputs,
      parameterUses,
      copiedInputs,
      ...(casts.needed && { cast: casts.operand }),
      random: { seed: request.seed ?? 0, microbatches },
    },
    faults,
  );
  if (forward === undefined) return undefined;
  const { output, layers, inputCopies } = forward;
  const forwardUses = parameterUses.map((use) => casts.known(use) ?? use);
  const partLoss = addLoss(output);
  const needsGradient = reachedFrom(graph, new Set(forwardUses));
  if (!needsGradient.has(partLoss)) {
    faults.push({
      path: "model",
      message: "the loss depends on no parameter, so there is nothing to train",
    });
    return undefined;
  }

  const isSaved = savedValues(graph);
  const clones = new Map<number, number>();
  const cloneOf = new Map<number, number>();
  const backwardUses = new Map<number, number>();
  const roots = new Map<number, number>();
  forwardUses.forEach((use, p) => {
    const leaf = leaves[p];
    if (leaf !== undefined && use !== leaf) roots.set(use, leaf);
  });
  /** What backward ops read in place of a forward value: a parameter's own copy for the phase, or a value computed again. */
  const backwardInput = (value: number): number => {
    const leaf = roots.get(value);
    if (leaf !== undefined) {
      const known = backwardUses.get(value);
      if (known !== undefined) return known;
      const use = copy(leaf);
      backwardUses.set(value, use);
      return use;
    }
    if (request.recompute !== "block" || isSaved(value)) return value;
    const known = cloneOf.get(value);
    if (known !== undefined) return known;
    const { op, inputs: operands, attrs, layer, type } = graph.node(value);
    const clone = graph.add(op, operands.map(backwardInput), attrs, layer, type);
    cloneOf.set(value, clone);
    clones.set(clone, value);
    return clone;
  };
  const gradients = differentiate(graph, partLoss, needsGradient, roots, backwardInput);
  const loss = total(partLoss, "loss");

  const finals = leaves.map((leaf) => {
    const gradient = gradients.accumulated.get(leaf);
    return gradient === undefined ? undefined : total(gradient, graph.node(leaf).layer);
  });
  graph.phase = "optimizer";
  const squares: number[] = [];
  let gradNorm: number | undefined;
  if (request.clipGradNorm > 0 || request.reportGradNorm) {
    for (const gradient of finals) {
      if (gradient !== undefined)
        squares.push(graph.add("sumSquares", [gradient], {}, graph.node(gradient).layer));
    }
    gradNorm = graph.add("sqrt", [graph.add("addN", squares, {}, "gradNorm")], {}, "gradNorm");
  }
  const factor =
    request.clipGradNorm > 0 && gradNorm !== undefined
      ? graph.add("clipFactor", [gradNorm], { maxNorm: request.clipGradNorm }, "clip")
      : undefined;

  const parameters = leaves.map((leaf, p): TrainedParameter => {
    const name = graph.node(leaf).layer;
    const forwardUse = forwardUses[p] ?? leaf;
    const backwardUse = backwardUses.get(forwardUse) ?? leaf;
    return { name, leaf, forwardUse, backwardUse, ...update(leaf, p, finals[p]) };
  });

  const parameterOf = new Map<number, number>();
  parameters.forEach(({ leaf, forwardUse, backwardUse }, p) => {
    for (const value of [leaf, forwardUse, backwardUse]) parameterOf.set(value, p);
  });
  return {
    graph,
    inputs,
    parameters,
    layers,
    gradients,
    loss,
    gradNorm,
    squares,
    inputCopies,
    parameterOf,
    clones,
  };

  function addLoss(result: number): number {
    const value = casts.needed ? casts.operand(result, LOSS_OPS[request.loss], 0) : result;
    const { shape } = graph.node(value).type;
    const count = elements(shape) * microbatches;
    switch (request.loss) {
      case "sum":
        return graph.add("sum", [value], {}, "loss");
      case "mean":
        return graph.add("mean", [value], { count }, "loss");
      case "mse":
        return graph.add(
          "mseLoss",
          [value, addInput("y", shape.slice(1), "float32")],
          { count },
          "loss",
        );
      case "cross_entropy": {
        const classes = shape.at(-1) ?? 1;
        const targets = addInput("targets", shape.slice(1, -1), "int32");
        const statistics = graph.add("ceStats", [value, targets], { classes }, "loss");
        return graph.add("ceLoss", [statistics], { count: count / classes, classes }, "loss");
      }
    }
  }

  /** Sum over the microbatches; read by the epilogue, so that it is reduced once a step. */
  function total(value: number, layer: string): number {
    if (microbatches === 1) return value;
    graph.phase = "backward";
    const sum = graph.add("accumulate", [value], {}, layer);
    graph.phase = "optimizer";
    return graph.add("identity", [sum], {}, layer);
  }

  function update(
    leaf: number,
    index: number,
    gradient: number | undefined,
  ): Pick<TrainedParameter, "gradient" | "moment1" | "moment2" | "updated"> {
    if (gradient === undefined) {
      return { gradient, moment1: undefined, moment2: undefined, updated: undefined };
    }
    const { type, layer } = graph.node(leaf);
    const extra = factor === undefined ? [] : [factor];
    const hasFactor = factor === undefined ? 0 : 1;
    if (request.optimizer.kind === "adamw") {
      const moment1 = graph.leaf({ kind: "moment1", index }, type, layer);
      const moment2 = graph.leaf({ kind: "moment2", index }, type, layer);
      const updated = graph.add(
        "adamw",
        [leaf, gradient, moment1, moment2, ...extra],
        { hasFactor },
        layer,
      );
      return { gradient, moment1, moment2, updated };
    }
    const hasMomentum = request.optimizer.momentum > 0 ? 1 : 0;
    const moment1 =
      hasMomentum === 1 ? graph.leaf({ kind: "moment1", index }, type, layer) : undefined;
    const state = moment1 === undefined ? [] : [moment1];
    const updated = graph.add(
      "sgd",
      [leaf, gradient, ...state, ...extra],
      { hasMomentum, hasFactor },
      layer,
    );
    return { gradient, moment1, moment2: undefined, updated };
  }
}

const LOSS_OPS = { sum: "sum", mean: "mean", mse: "mseLoss", cross_entropy: "ceStats" } as const;

/** The block that a layer belongs to: its path up to the first number (`layers.3`), or nothing outside of one. */
function blockOf(layer: string): string | undefined {
  return /^(?:[^.]*\.)*?\d+(?=\.|$)/.exec(layer)?.[0];
}

/**
 * Which forward values are kept for the backward pass where blocks are computed again: leaves and what lies outside
 * of blocks, what leaves its block, and sums: behind a residual sum lies a layer's reduction, which would be repeated.
 */
function savedValues(graph: Graph): (value: number) => boolean {
  const leaves = new Set<number>();
  for (const node of graph.nodes) {
    const block = blockOf(node.layer);
    for (const input of node.inputs)
      if (blockOf(graph.node(input).layer) !== block) leaves.add(input);
  }
  const count = graph.nodes.length;
  return (value) => {
    const node = graph.node(value);
    return (
      value >= count ||
      node.leaf !== undefined ||
      node.op === "add" ||
      blockOf(node.layer) === undefined ||
      leaves.has(value)
    );
  };
}

/** All values that depend on one of `sources`, sources included. */
function reachedFrom(graph: Graph, sources: ReadonlySet<number>): Set<number> {
  const reached = new Set(sources);
  for (const node of graph.nodes) {
    if (node.inputs.some((i) => reached.has(i))) reached.add(node.id);
  }
  return reached;
}
