// Times single kernels of the cpu backend beside what this machine's memory gives in the same run:
//   node dist/bench/kernels.js [ROWS] [THREADS,...]
// Medians; memory-bound ops as bytes that must move per second. Not part of `npm run bench`, which times whole steps.
import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { stepScalars } from "../shared/optimizer/step-scalars.ts";
import type { ComputeInstruction, Program, Slot } from "../shared/program/program.ts";
import { CpuBackend } from "../worker/backend/cpu/cpu-backend.ts";
import { sourcePath } from "./repository.ts";
import { median } from "./statistics.ts";

const DIM = 8192;
/** Rows at which a GEMM runs. */
const MANY_ROWS = 1024;
const REPEATS = 9;
/** Bytes between tensors: powers of two apart, their streams would fall on the same banks of memory. */
const APART = 8448;

const OPTIMIZER = {
  kind: "adamw",
  lr: 1e-3,
  betas: [0.9, 0.999],
  eps: 1e-8,
  weightDecay: 0.01,
} as const;

interface Kernel {
  readonly title: string;
  readonly instruction: ComputeInstruction;
  /** Bytes of weights and moments that it must read and write. */
  readonly bytes: number;
  readonly flops: number;
}

const compute = (
  op: string,
  inputs: readonly number[],
  outputs: readonly number[],
  attrs: Readonly<Record<string, number>> = {},
): ComputeInstruction => ({ kind: "compute", op, inputs, outputs, attrs });

/** Three weights' worth of state, and activations of `rows` and MANY_ROWS rows. */
function programOf(rows: number): { program: Program; kernels: readonly Kernel[] } {
  const slots: Slot[] = [];
  let at = 0;
  const add = (name: string, ...shape: number[]): number => {
    const sizeBytes = 4 * shape.reduce((product, n) => product * n, 1);
    slots.push({ name, dtype: "float32", shape, offsetBytes: at, sizeBytes });
    at += sizeBytes + APART;
    return slots.length - 1;
  };
  const [w, m, v] = [add("w", DIM, DIM), add("m", DIM, DIM), add("v", DIM, DIM)];
  const [x, y, dx] = [add("x", rows, DIM), add("y", rows, DIM), add("dx", rows, DIM)];
  const [many, result] = [add("many", MANY_ROWS, DIM), add("result", MANY_ROWS, DIM)];
  const weight = 4 * DIM * DIM;
  const product = 2 * rows * DIM * DIM;
  const large = 2 * MANY_ROWS * DIM * DIM;
  const direct = { hasFactor: 0, tileRows: 0 };
  const kernels: Kernel[] = [
    {
      title: `linear, ${rows} rows`,
      instruction: compute("linear", [x, w], [y]),
      bytes: weight,
      flops: product,
    },
    {
      title: `linearDx, ${rows} rows`,
      instruction: compute("linearDx", [y, w], [dx]),
      bytes: weight,
      flops: product,
    },
    {
      title: `adamwFromFactors, ${rows} rows`,
      instruction: compute("adamwFromFactors", [y, x, w, m, v], [w, m, v], direct),
      bytes: 6 * weight,
      flops: product,
    },
    {
      title: "adamw",
      instruction: compute("adamw", [w, w, m, v], [w, m, v], { hasFactor: 0 }),
      bytes: 6 * weight,
      flops: 0,
    },
    {
      title: `linear, ${MANY_ROWS} rows`,
      instruction: compute("linear", [many, w], [result]),
      bytes: 0,
      flops: large,
    },
    {
      title: `linearDx, ${MANY_ROWS} rows`,
      instruction: compute("linearDx", [many, w], [result]),
      bytes: 0,
      flops: large,
    },
    {
      title: `linearDw, ${MANY_ROWS} rows`,
      instruction: compute("linearDw", [many, result], [m]),
      bytes: 0,
      flops: large,
    },
  ];
  const program: Program = {
    formatVersion: 1,
    name: "kernels",
    mesh: { axes: [{ name: "tensorParallel", size: 1 }] },
    arenaBytes: at,
    memoryByKind: { weights: at },
    slots,
    stored: [w, m, v, x, y, many, result].map((slot) => ({
      name: slots[slot]?.name ?? "",
      role: "parameter",
      globalShape: slots[slot]?.shape ?? [],
      layout: ["R"],
      slot,
      // The second moment stays positive.
      init: slot === v ? { kind: "constant", value: 1 } : { kind: "uniform", bound: 0.1 },
    })),
    inputs: [],
    microbatches: 1,
    body: kernels.map(({ instruction }) => instruction),
    epilogue: [],
    collectives: [],
    lossSlot: 0,
    gradNormSlot: -1,
    optimizer: OPTIMIZER,
    schedule: { kind: "constant" },
  };
  return { program, kernels };
}

/** Bytes per second of the patterns of bench/native/stream.c. */
function measureMemory(
  program: string,
  threads: number,
): { read: number; triad: number; update: number } {
  const said = JSON.parse(
    execFileSync(program, [`${threads}`, "256", `${REPEATS}`], { encoding: "utf8" }),
  ) as Record<"read" | "triad" | "update", { bytes: number; seconds: number }>;
  const rate = ({ bytes, seconds }: { bytes: number; seconds: number }): number => bytes / seconds;
  return { read: rate(said.read), triad: rate(said.triad), update: rate(said.update) };
}

const say = (line: string): unknown => process.stdout.write(`${line}\n`);
const giga = (x: number): string => (x / 1e9).toFixed(1);

function timeAll(threads: number, rows: number, stream: string): void {
  const before = measureMemory(stream, threads);
  const backend = new CpuBackend({ threads });
  const { program, kernels } = programOf(rows);
  const loaded = backend.load(program, 0);
  say(`\n${backend.device}`);
  const start = performance.now();
  for (const tensor of program.stored) loaded.initialize(tensor, 1);
  say(
    `initial values: ${(performance.now() - start).toFixed(0)} ms for ${giga(program.arenaBytes)} GB, first touch included`,
  );
  const scalars = stepScalars(OPTIMIZER, { kind: "constant" }, 3);
  const lines = kernels.map(({ title, instruction, bytes, flops }) => {
    loaded.run([instruction], scalars);
    const seconds = median(
      Array.from({ length: REPEATS }, () => {
        const begin = performance.now();
        loaded.run([instruction], scalars);
        return (performance.now() - begin) / 1e3;
      }),
    );
    const memory = bytes === 0 ? "" : `${giga(bytes / seconds)} GB/s`;
    return [
      title,
      `${(seconds * 1e3).toFixed(2)} ms`,
      memory,
      `${giga(flops / seconds)} GFLOP/s`,
    ] as const;
  });
  loaded.dispose();
  const after = measureMemory(stream, threads);
  const both = (key: "read" | "triad" | "update"): string =>
    `${giga(before[key])} and ${giga(after[key])}`;
  say(
    `memory before and after, GB/s: read ${both("read")}, triad ${both("triad")}, update in place ${both("update")}`,
  );
  for (const [title, time, memory, rate] of lines) {
    say(`${title.padEnd(28)} ${time.padStart(10)} ${memory.padStart(11)} ${rate.padStart(15)}`);
  }
}

const [rowsText = "8", threadsText = "1,2"] = process.argv.slice(2);
const folder = mkdtempSync(join(tmpdir(), "rankmesh-kernels-"));
try {
  const stream = join(folder, "stream");
  const flags = ["-O3", "-march=native", "-std=gnu11", "-pthread"];
  execFileSync(process.env["CC"] ?? "cc", [
    ...flags,
    sourcePath("bench/native/stream.c"),
    "-o",
    stream,
  ]);
  for (const threads of threadsText.split(",").map(Number))
    timeAll(threads, Number(rowsText), stream);
} finally {
  rmSync(folder, { recursive: true, force: true });
}
