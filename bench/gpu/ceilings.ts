import { toBfloat16 } from "../../shared/bfloat16.ts";
import { stepScalars } from "../../shared/optimizer/step-scalars.ts";
import type { Precision } from "../../shared/program/program.ts";
import { PhiloxStream } from "../../shared/random/philox.ts";
import { DeviceScalars } from "../../worker/backend/cuda/scalars.ts";
import { type Address, NULL } from "../../worker/backend/kernels.ts";
import type { Benchmark, BenchResult } from "../benchmark.ts";
import { gigabytes, milliseconds } from "../numbers.ts";
import type { GpuContext } from "./context.ts";
import type { OpenGpu } from "./gpu.ts";
import { timeOnDevice } from "./timing.ts";

/** The most that this GPU was seen to do in this run. */
export interface Ceilings {
  /** Bytes read and written each second, of the pattern that did best. */
  readonly bandwidth: number;
  readonly patterns: readonly Rate[];
  /** Floating-point operations each second of a large product. */
  readonly flops: Readonly<Record<Precision, number>>;
  readonly products: readonly Rate[];
}

interface Rate {
  readonly title: string;
  readonly seconds: number;
  /** Bytes or operations a second. */
  readonly rate: number;
}

/** Random numbers in a pattern that fills operands again and again: zeros would compute faster. */
const PATTERN = 2 ** 18;
const BINARY_ADD = 1;
const OPTIMIZER = {
  kind: "adamw",
  lr: 1e-6,
  betas: [0.9, 0.999],
  eps: 1e-8,
  weightDecay: 0,
} as const;

export const ceilings: Benchmark<GpuContext> = { name: "ceilings", run };

/** Measured once in a series. */
export function measureCeilings({ gpu, sizes, measured, progress }: GpuContext): Promise<Ceilings> {
  return measured.once("ceilings", async () => {
    progress("bandwidth and products");
    return await gpu.open((open) => {
      const patterns = streams(open, sizes);
      const products = multiply(open, sizes);
      const best = (rates: readonly Rate[]): number => Math.max(...rates.map(({ rate }) => rate));
      return {
        bandwidth: best(patterns),
        patterns,
        flops: {
          float32: best(products.filter(({ title }) => !title.startsWith("bf16"))),
          bfloat16: best(products.filter(({ title }) => title.startsWith("bf16"))),
        },
        products,
      };
    });
  });
}

function streams(gpu: OpenGpu, { ceilings: { streamBytes }, timing }: GpuContext["sizes"]): Rate[] {
  const { kernels, driver, computeStream } = gpu.context;
  const [a, b, c, d] = Array.from({ length: 4 }, () => gpu.allocate(streamBytes)) as Four;
  const sum = gpu.allocate(8);
  const n = streamBytes / 4;
  for (const operand of [a, b, c]) gpu.fill(operand, streamBytes, normals());
  gpu.fill(d, streamBytes, new Uint8Array(Float32Array.of(1, 1, 1, 1).buffer));
  const scalars = new DeviceScalars(gpu.context);
  scalars.load(stepScalars(OPTIMIZER, { kind: "constant" }, 1));
  const patterns: readonly (readonly [title: string, streams: number, work: () => void])[] = [
    ["copy by the driver", 2, () => driver.cuMemcpyDtoDAsync_v2(b, a, streamBytes, computeStream)],
    ["copy (y = 2 x)", 2, () => kernels.scale(a, b, n, 2)],
    ["read (sum of x)", 1, () => kernels.sum(a, n, 1, sum)],
    ["triad (y = a + b)", 3, () => kernels.binary(BINARY_ADD, a, b, c, n)],
    ["update in place (AdamW)", 7, () => kernels.adamw(a, b, c, d, n, NULL, scalars.address)],
  ];
  return patterns.map(([title, count, work]) => {
    const seconds = timeOnDevice(gpu, work, timing);
    return { title, seconds, rate: (count * streamBytes) / seconds };
  });
}

type Four = [Address, Address, Address, Address];

function multiply(gpu: OpenGpu, { ceilings: { product }, timing }: GpuContext["sizes"]): Rate[] {
  const blas = gpu.cublas();
  const bytes = 4 * product * product;
  const [a, b, c] = Array.from({ length: 3 }, () => gpu.allocate(bytes)) as Four;
  const kinds: readonly (readonly [title: string, inputs: Precision, output: Precision])[] = [
    ["float32", "float32", "float32"],
    ["bf16 to float32", "bfloat16", "float32"],
    ["bf16 to bf16", "bfloat16", "bfloat16"],
  ];
  return kinds.map(([title, inputs, output]) => {
    for (const operand of [a, b]) gpu.fill(operand, bytes, normals(inputs));
    const sizes = { m: product, n: product, k: product };
    // As a layer's forward pass has it: y = x w'.
    const operands = { a, transposeA: false, b, transposeB: true, c };
    const work = (): void => blas.multiply({ ...sizes, ...operands, inputs, output });
    const seconds = timeOnDevice(gpu, work, timing);
    return { title, seconds, rate: (2 * product ** 3) / seconds };
  });
}

/** Bytes of numbers on [-1, 1). */
function normals(precision: Precision = "float32"): Uint8Array {
  const stream = new PhiloxStream(0, "bench");
  const values = Float32Array.from({ length: PATTERN }, (_, i) => stream.word(i) / 2 ** 31 - 1);
  if (precision === "float32") return new Uint8Array(values.buffer);
  return new Uint8Array(Uint16Array.from(values, toBfloat16).buffer);
}

async function run(context: GpuContext): Promise<BenchResult> {
  const { sizes } = context;
  const measured = await measureCeilings(context);
  const { streamBytes, product } = sizes.ceilings;
  return {
    title: "What this GPU does at most",
    verified: [],
    tables: [
      {
        header: ["memory", "ms", "GB/s"],
        rows: measured.patterns.map(({ title, seconds, rate }) => [
          title,
          milliseconds(seconds),
          gigabytes(rate),
        ]),
      },
      {
        header: [`product of ${product} x ${product} by cuBLAS`, "ms", "TFLOP/s"],
        rows: measured.products.map(({ title, seconds, rate }) => [
          title,
          milliseconds(seconds),
          (rate / 1e12).toFixed(2),
        ]),
      },
    ],
    budgets: [],
    notes: [
      `operands of ${gigabytes(streamBytes)} GB; bytes read and bytes written both count; the best pattern is the ceiling that ` +
        "other benchmarks speak of",
      "random operands; float32 without TF32; times by the device's own clock, medians of repeated launches",
    ],
    data: measured,
  };
}
