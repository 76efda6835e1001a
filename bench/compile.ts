import { type CompileRequest, compile, trace } from "../compiler/compile.ts";
import { OneDevice } from "../compiler/interpret/run-graph.ts";
import { VirtualRanks } from "../compiler/interpret/run-program.ts";
import { compileRequest } from "../coordinator/planning/plan-job.ts";
import { feedForwardGraph } from "../models/built-in.ts";
import type { ForwardGraph } from "../shared/graph/graph.ts";
import type { JobSpecInput } from "../shared/job/job-spec.ts";
import { requireJobSpec } from "../shared/job/resolve.ts";
import type { Program } from "../shared/program/program.ts";
import { fillStandardNormals } from "../shared/random/normal.ts";
import {
  type BenchContext,
  type Benchmark,
  type BenchResult,
  checkClose,
  VerificationError,
} from "./benchmark.ts";
import { deepStackGraph } from "./deep-stack.ts";
import { megabytes, milliseconds } from "./numbers.ts";
import { median, p90 } from "./statistics.ts";

const REPEATS = 10;
const BLOCKS = 32;
/** Budgets of a 32-layer Llama on 8 ranks. */
const SECONDS_BUDGET = 2;
const PROGRAM_BYTES_BUDGET = 1e6;
/** Virtual ranks and the one device both compute in float64. */
const FLOAT64_TOLERANCE = 1e-9;

interface Case {
  readonly name: string;
  readonly dataParallel: number;
  readonly tensorParallel: number;
  /** Model at full size, and small enough to be run by plain loops. */
  readonly graph: ForwardGraph;
  readonly small: ForwardGraph;
}

export const compiling: Benchmark = { name: "compile", run };

function run({ progress, signal }: BenchContext): Promise<BenchResult> {
  const cases: Case[] = [
    {
      name: "FeedForward(8192, 8192)",
      dataParallel: 1,
      tensorParallel: 8,
      graph: feedForwardGraph({ dim: 8192, hidden: 8192 }),
      small: feedForwardGraph({ dim: 16, hidden: 32 }),
    },
    ...[
      { dataParallel: 1, tensorParallel: 8 },
      { dataParallel: 2, tensorParallel: 4 },
    ].map((mesh) => ({
      ...mesh,
      name: `${BLOCKS} residual feed-forward blocks`,
      graph: deepStackGraph(BLOCKS, 4096, 14336),
      small: deepStackGraph(BLOCKS, 8, 16),
    })),
  ];
  const rows = cases.map((c) => {
    signal.throwIfAborted();
    progress(`${c.name} on ${c.dataParallel} x ${c.tensorParallel}`);
    const request = requestOf(c, c.graph);
    const began = performance.now();
    compile(request);
    const firstSeconds = (performance.now() - began) / 1000;
    checkComputesTheSame(c);
    return { ...measure(c, request), firstSeconds };
  });
  const deep = rows.filter((row) => row.linears > 3);
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
          `${row.dataParallel} x ${row.tensorParallel}`,
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
    budgets: deep.flatMap((row) => {
      const where = `${row.name}, ${row.dataParallel} x ${row.tensorParallel}`;
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
      `the budgets speak of a 32-layer Llama; this is ${BLOCKS} blocks of three linear layers with residuals, without attention, ` +
        "norms and embeddings",
    ],
    data: { rows },
  });
}

function requestOf({ dataParallel, tensorParallel }: Case, graph: ForwardGraph): CompileRequest {
  const spec: JobSpecInput = {
    model: { graph },
    mesh: { dataParallel, tensorParallel },
    loss: "sum",
    data: { batchSize: 8, random: {} },
  };
  return compileRequest(requireJobSpec(spec), graph, { dataParallel, tensorParallel });
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
    dataParallel: c.dataParallel,
    tensorParallel: c.tensorParallel,
    linears: c.graph.nodes.filter((node) => node.op === "linear").length,
    medianSeconds: median(seconds),
    p90Seconds: p90(seconds),
    instructions: program.body.length + program.epilogue.length,
    collectives: program.collectives.length,
    programBytes: Buffer.byteLength(json),
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
    program.inputs.map((input) => [input.name, normals(input.name, input.globalShape, 1)]),
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
