import type { AxisRole, CompileRequest } from "../../compiler/compile.ts";
import { compile, trace } from "../../compiler/compile.ts";
import { OneDevice } from "../../compiler/interpret/run-graph.ts";
import { VirtualRanks } from "../../compiler/interpret/run-program.ts";
import type { ForwardGraph, GraphNode, GraphParameter } from "../../shared/graph/graph.ts";
import type { DType, Program } from "../../shared/program/program.ts";

/** A request in the words of a job: two axes, of which the first splits the batch and the second takes the plan. */
export interface Case {
  readonly graph: ForwardGraph;
  readonly dp?: number;
  readonly tp?: number;
  readonly sharding?: "none" | "optimizer" | "full";
  readonly plan?: Readonly<Record<string, string>>;
  readonly batch?: number;
  readonly microbatches?: number;
  readonly loss?: CompileRequest["loss"];
  readonly clip?: number;
  readonly norm?: boolean;
  readonly exchangeFactors?: boolean;
  readonly flopsPerByte?: number;
  readonly optimizer?: CompileRequest["optimizer"];
  readonly recompute?: CompileRequest["recompute"];
  readonly seed?: number;
  readonly evaluation?: boolean;
  readonly precision?: CompileRequest["precision"];
  readonly mixedBackends?: boolean;
}

export function requestOf(c: Case): CompileRequest {
  const dp: AxisRole = {
    styles: {},
    stylesPath: "plan",
    stylesAreOwn: true,
    splitsBatch: true,
    stateSharding: c.sharding ?? "none",
    sizePath: "mesh.dataParallel",
  };
  const tp: AxisRole = {
    styles: c.plan ?? c.graph.defaultPlan,
    stylesPath: "plan",
    stylesAreOwn: true,
    splitsBatch: false,
    stateSharding: "none",
    sizePath: "mesh.tensorParallel",
  };
  return {
    name: "test",
    graph: c.graph,
    mesh: {
      axes: [
        { name: "dataParallel", size: c.dp ?? 1 },
        { name: "tensorParallel", size: c.tp ?? 1 },
      ],
    },
    axes: [dp, tp],
    loss: c.loss ?? "sum",
    batchSize: c.batch ?? 6,
    microbatches: c.microbatches ?? 1,
    optimizer: c.optimizer ?? {
      kind: "adamw",
      lr: 1e-2,
      betas: [0.9, 0.999],
      eps: 1e-8,
      weightDecay: 0.01,
    },
    schedule: { kind: "constant" },
    clipGradNorm: c.clip ?? 0,
    reportGradNorm: c.norm ?? false,
    exchangeFactors: c.exchangeFactors ?? true,
    ...(c.flopsPerByte === undefined ? {} : { flopsPerByte: c.flopsPerByte }),
    recompute: c.recompute ?? "none",
    seed: c.seed ?? 0,
    evaluation: c.evaluation ?? false,
    ...(c.precision === undefined ? {} : { precision: c.precision }),
    mixedBackends: c.mixedBackends ?? false,
  };
}

const uniform = (bound: number) => ({ kind: "uniform" as const, bound });

/** w2(silu(w1 x) * w3 x), as the reference program; `front` puts a trainable layer before it. */
export function feedForwardGraph(dim: number, hidden: number, front = false): ForwardGraph {
  const builder = new GraphBuilder([dim]);
  const x = front ? builder.linear("front", 0, dim) : 0;
  const a = builder.node("silu", [builder.linear("w1", x, hidden)], "");
  const h = builder.node("mul", [a, builder.linear("w3", x, hidden)], "");
  return builder.build(builder.linear("w2", h, dim), {
    w1: "colwise",
    w3: "colwise",
    w2: "rowwise",
  });
}

/** Writes forward graphs by hand; `build` renumbers nodes behind the parameters. */
export class GraphBuilder {
  private readonly parameters: GraphParameter[] = [];
  private readonly nodes: GraphNode[] = [];
  private readonly widths = new Map<number, number>();
  private readonly dims: readonly number[];
  private readonly dtype: "float32" | "int32";

  /** `dims`: of the one input, without the batch. Ids (int32) are below ID_LIMIT. */
  constructor(dims: readonly number[], dtype: "float32" | "int32" = "float32") {
    this.dims = dims;
    this.dtype = dtype;
    this.widths.set(0, dims.at(-1) ?? 0);
  }

  /** Values: 0 is the input, -1 - p is parameter p, 1 + n is node n. */
  linear(layer: string, x: number, out: number, bias = false): number {
    const into = this.widths.get(x) ?? 0;
    this.parameters.push({
      name: `${layer}.weight`,
      dims: [out, into],
      init: uniform(1 / Math.sqrt(into)),
    });
    let y = this.node("linear", [x, -this.parameters.length], layer, {}, out);
    if (bias) {
      this.parameters.push({
        name: `${layer}.bias`,
        dims: [out],
        init: uniform(1 / Math.sqrt(into)),
      });
      y = this.node("bias", [y, -this.parameters.length], layer, {}, out);
    }
    return y;
  }

  /** A parameter of its own: an embedding, a gain. */
  parameter(name: string, ...dims: number[]): number {
    this.parameters.push({ name, dims, init: uniform(1) });
    return -this.parameters.length;
  }

  node(
    op: string,
    inputs: readonly number[],
    layer: string,
    attrs: Record<string, number> = {},
    width?: number,
  ): number {
    this.nodes.push({ op, inputs, attrs, layer });
    const id = this.nodes.length;
    this.widths.set(id, width ?? this.widths.get(inputs[0] ?? 0) ?? 0);
    return id;
  }

  width(value: number): number {
    return this.widths.get(value) ?? 0;
  }

  build(output: number, defaultPlan: Record<string, string> = {}): ForwardGraph {
    const number = (v: number): number => (v === 0 ? 0 : v < 0 ? -v : this.parameters.length + v);
    return {
      inputs: [{ name: "x", dtype: this.dtype, dims: this.dims }],
      parameters: this.parameters,
      nodes: this.nodes.map((n) => ({ ...n, inputs: n.inputs.map(number) })),
      output: number(output),
      defaultPlan,
    };
  }
}

/** Small deterministic numbers in [-1, 1). */
export function numbers(count: number, seed: number): Float64Array {
  let state = (seed * 2654435761 + 12345) >>> 0;
  return Float64Array.from({ length: count }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 31 - 1;
  });
}

/** Token ids and targets of batches are below this. */
export const ID_LIMIT = 5;

/** Values of a batch tensor: as `numbers`, or ids. */
export function batchValues(dtype: DType, count: number, seed: number): Float64Array {
  const drawn = numbers(count, seed);
  return dtype === "int32" ? drawn.map((x) => Math.floor(((x + 1) / 2) * ID_LIMIT)) : drawn;
}

export interface Comparison {
  readonly program: Program;
  /** Largest relative difference of any loss and gradient norm. */
  readonly lossError: number;
  /** Largest difference of any weight's change from its start, relative to the largest change of that weight. */
  readonly updateError: number;
  /** Weights that did not move. */
  readonly unmoved: readonly string[];
  readonly replicasEqual: boolean;
}

/** Trains `steps` steps on one device and on the case's mesh, both in float64. */
export function compareWithOneDevice(c: Case, steps = 2): Comparison {
  const request = requestOf(c);
  const one = requestOf({ ...c, dp: 1, tp: 1, microbatches: 1, sharding: "none" });
  const faults: never[] = [];
  const training = trace(one, faults);
  if (training === undefined) throw new Error("case does not trace");
  const start = new Map(
    c.graph.parameters.map((p, i) => {
      const bound = p.init.kind === "uniform" ? p.init.bound : 1;
      const centre = p.init.kind === "constant" ? p.init.value : 0;
      return [
        p.name,
        numbers(
          p.dims.reduce((a, b) => a * b, 1),
          i + 1,
        ).map((x) => centre + x * (centre === 0 ? bound : 0.1)),
      ] as const;
    }),
  );
  const { program } = compile(request);
  const device = new OneDevice(one, training, start);
  const ranks = new VirtualRanks(program, start);
  let lossError = 0;
  for (let s = 0; s < steps; s++) {
    const batch = new Map(
      program.inputs.map(
        (input, i) =>
          [
            input.name,
            batchValues(
              input.dtype,
              input.globalShape.reduce((a, b) => a * b, 1),
              100 + 10 * s + i,
            ),
          ] as const,
      ),
    );
    // What an evaluation says before the step is the step's loss: nothing random, nothing updated.
    const evaluated = c.evaluation === true ? ranks.evaluate(batch) : undefined;
    const [want, got] = [device.runStep(batch), ranks.runStep(batch)];
    if (evaluated !== undefined && !hasDropout(c.graph))
      lossError = Math.max(lossError, relative(evaluated, want.loss));
    lossError = Math.max(
      lossError,
      relative(got.loss, want.loss),
      relative(got.gradNorm ?? 0, want.gradNorm ?? 0),
    );
  }
  let updateError = 0;
  const unmoved: string[] = [];
  for (const [name, initial] of start) {
    const [want, got] = [device.parameter(name), ranks.stored(name)];
    let [largest, worst] = [0, 0];
    want.forEach((w, i) => {
      largest = Math.max(largest, Math.abs(w - (initial[i] ?? 0)));
      const difference = Math.abs((got[i] ?? Number.NaN) - w);
      worst = Number.isNaN(difference) ? Number.POSITIVE_INFINITY : Math.max(worst, difference);
    });
    if (largest === 0) unmoved.push(name);
    else updateError = Math.max(updateError, worst / largest);
  }
  return { program, lossError, updateError, unmoved, replicasEqual: ranks.replicasEqual() };
}

function hasDropout(graph: ForwardGraph): boolean {
  return graph.nodes.some((node) => node.op === "dropout");
}

function relative(got: number, want: number): number {
  if (got === want) return 0;
  const error = Math.abs(got - want) / Math.max(Math.abs(want), 1e-3);
  return Number.isNaN(error) ? Number.POSITIVE_INFINITY : error;
}
