import { type CompileRequest, compile, trace } from "../compiler/compile.ts";
import { OneDevice } from "../compiler/interpret/run-graph.ts";
import { VirtualRanks } from "../compiler/interpret/run-program.ts";
import { idLimits } from "../coordinator/planning/id-limits.ts";
import { compileRequest } from "../coordinator/planning/plan-job.ts";
import { feedForwardGraph } from "../models/built-in.ts";
import { llamaGraph } from "../models/llama.ts";
import type { ForwardGraph, LossKind } from "../shared/graph/graph.ts";
import type { DataParallelSharding, JobSpecInput, LlamaModel } from "../shared/job/job-spec.ts";
import { requireJobSpec } from "../shared/job/resolve.ts";
import type { Program } from "../shared/program/program.ts";
import { encodeProgram } from "../shared/program/wire.ts";
import { fillStandardNormals } from "../shared/random/normal.ts";
import { PhiloxStream } from "../shared/random/philox.ts";
import {
  type BenchContext,
  type Benchmark,
  type BenchResult,
  checkClose,
  VerificationError,
} from "./benchmark.ts";
import { megabytes, milliseconds } from "./numbers.ts";
import { median, p90 } from "./statistics.ts";

const REPEATS = 10;
const BATCH = 8;
/** Llama 3 8B. */
const LLAMA: LlamaModel = {
  dim: 4096,
  layers: 32,
  heads: 32,
  kvHeads: 8,
  hidden: 14336,
  vocab: 128_256,
  ropeTheta: 500_000,
  normEps: 1e-5,
  dropout: 0,
  tied: false,
};
const SEQ_LEN = 2048;
/** As deep, and else small enough to be run by plain loops on 8 ranks. */
const SMALL_LLAMA: LlamaModel = { ...LLAMA, dim: 32, heads: 16, hidden: 64, vocab: 48 };
const SMALL_SEQ_LEN = 8;
/** Budgets of a 32-layer Llama on 8 ranks. */
const SECONDS_BUDGET = 2;
const PROGRAM_BYTES_BUDGET = 1e6;
/** Virtual ranks and the one device both compute in float64. */
const FLOAT64_TOLERANCE = 1e-9;

interface Case {
  readonly name: string;
  readonly mesh: { readonly dataParallel: number; readonly tensorParallel: number };
  readonly sharding: DataParallelSharding;
  readonly loss: LossKind;
  /** Model at full size, and a small one of the same layers. */
  readonly graph: ForwardGraph;
  readonly small: ForwardGraph;
  readonly budgeted: boolean;
}

const FEED_FORWARD: Omit<Case, "mesh" | "sharding"> = {
  name: "FeedForward(8192, 8192)",
  loss: "sum",
  graph: feedForwardGraph({ dim: 8192, hidden: 8192 }),
  small: feedForwardGraph({ dim: 16, hidden: 32 }),
  budgeted: false,
};

const LLAMA_3_8B: Omit<Case, "mesh" | "sharding"> = {
  name: "Llama 3 8B",
  loss: "cross_entropy",
  graph: llamaGraph(LLAMA, SEQ_LEN, "auto"),
  small: llamaGraph(SMALL_LLAMA, SMALL_SEQ_LEN, "auto"),
  budgeted: true,
};

const CASES: readonly Case[] = [
  { ...FEED_FORWARD, mesh: { dataParallel: 1, tensorParallel: 8 }, sharding: "none" },
  { ...LLAMA_3_8B, mesh: { dataParallel: 1, tensorParallel: 8 }, sharding: "none" },
  { ...LLAMA_3_8B, mesh: { dataParallel: 2, tensorParallel: 4 }, sharding: "full" },
];

export const compiling: Benchmark = { name: "compile", run };

function run({ progress, signal }: BenchContext): Promise<BenchResult> {
  const rows = CASES.map((c) => {
    signal.throwIfAborted();
    progress(`${c.name} on ${meshName(c)}`);
    const request = requestOf(c, c.graph);
    const began = performance.now();
    compile(request);
    const firstSeconds = (performance.now() - began) / 1000;
    checkComputesTheSame(c);
    return { ...measure(c, request), firstSeconds };
  });
  return Promise.resolve({
    title: "Compiling a job for 8 ranks",
    verified: [
      "the same model at small sizes, run by the reference interpreter on all ranks, gives the losses of the unpartitioned " +
        `graph within ${FLOAT64_TOLERANCE.toExponential()} (float64, 2 steps)`,
      "repeated compilations give the same bytes",
    ],
    tables: [
      {
        header: [
          "model",
          "dp x tp",
          "sharding",
          "linears",
          "median ms",
          "p90 ms",
          "first ms",
          "instructions",
          "collectives",
          "program MB",
        ],
        rows: rows.map((row) => [
          row.name,
          row.mesh,
          row.sharding,
          String(row.linears),
          milliseconds(row.medianSeconds),
          milliseconds(row.p90Seconds),
          milliseconds(row.firstSeconds),
          String(row.instructions),
          String(row.collectives),
          megabytes(row.programBytes),
        ]),
      },
    ],
    budgets: rows
      .filter((row) => row.budgeted)
      .flatMap((row) => {
        const where = `${row.name}, ${row.mesh}`;
        return [
          {
            what: `compile seconds, ${where}`,
            measured: row.medianSeconds,
            limit: SECONDS_BUDGET,
          },
          {
            what: `program MB, ${where}`,
            measured: row.programBytes / 1e6,
            limit: PROGRAM_BYTES_BUDGET / 1e6,
          },
        ];
      }),
    notes: [
      `from the traced model to the program, in one thread; median of ${REPEATS}, and the first one of that model, when the process has compiled little before; the program's ` +
        "size is that of its JSON, as workers get it",
      `Llama 3 8B: ${LLAMA.layers} layers, ${BATCH} rows of ${SEQ_LEN} tokens, sequence parallel`,
    ],
    data: { rows },
  });
}

function meshName({ mesh }: Case): string {
  return `${mesh.dataParallel} x ${mesh.tensorParallel}`;
}

function requestOf({ mesh, sharding, loss }: Case, graph: ForwardGraph): CompileRequest {
  const spec: JobSpecInput = {
    model: { graph },
    mesh,
    dataParallelSharding: sharding,
    loss,
    data: { batchSize: BATCH, random: {} },
  };
  return compileRequest(requireJobSpec(spec), graph, mesh);
}

function measure(c: Case, request: CompileRequest) {
  const { program } = compile(request);
  const json = JSON.stringify(program);
  const seconds = Array.from({ length: REPEATS }, () => {
    const began = performance.now();
    const again = compile(request).program;
    const elapsed = (performance.now() - began) / 1000;
    if (JSON.stringify(again) !== json) {
      throw new VerificationError(`${c.name}: two compilations of one request differ`);
    }
    return elapsed;
  });
  return {
    name: c.name,
    mesh: meshName(c),
    sharding: c.sharding,
    budgeted: c.budgeted,
    linears: c.graph.nodes.filter((node) => node.op === "linear").length,
    medianSeconds: median(seconds),
    p90Seconds: p90(seconds),
    instructions: program.body.length + program.epilogue.length,
    collectives: program.collectives.length,
    programBytes: encodeProgram(program).length,
  };
}

/** @throws VerificationError unless all ranks together compute what one device computes */
function checkComputesTheSame(c: Case): void {
  const request = requestOf(c, c.small);
  const training = trace(request, []);
  if (training === undefined) throw new VerificationError(`${c.name} cannot be traced`);
  const { program } = compile(request);
  const parameters = new Map(
    program.stored
      .filter((tensor) => tensor.role === "parameter")
      .map((tensor) => [tensor.name, normals(tensor.name, tensor.globalShape, 0.1)]),
  );
  const batch = new Map(
    program.inputs.map((input) => [input.name, batchOf(input, c.small, c.loss)]),
  );
  const device = new OneDevice(request, training, parameters);
  const ranks = new VirtualRanks(program, parameters);
  for (let step = 0; step < 2; step++) {
    const expected = device.runStep(batch).loss;
    const what = `${c.name}: loss of step ${step} on all ranks`;
    checkClose(what, [ranks.runStep(batch).loss], [expected], FLOAT64_TOLERANCE);
  }
}

function normals(name: string, shape: Program["stored"][number]["globalShape"], scale: number) {
  const values = new Float32Array(shape.reduce((product, size) => product * size, 1));
  fillStandardNormals(values, { seed: 0, name });
  return Float64Array.from(values, (value) => value * scale);
}

/** Random numbers, or random ids that the model takes. */
function batchOf(
  { name, dtype, globalShape }: Program["inputs"][number],
  graph: ForwardGraph,
  loss: LossKind,
): Float64Array {
  if (dtype !== "int32") return normals(name, globalShape, 1);
  const ids = idLimits(graph, loss)[name] ?? 1;
  const stream = new PhiloxStream(0, name);
  const values = new Float64Array(globalShape.reduce((product, size) => product * size, 1));
  return values.map((_, index) => stream.word(index) % ids);
}
