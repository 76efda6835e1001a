import type { JobPrecision } from "../../shared/job/job-spec.ts";
import { ACTIVATIONS } from "../../shared/job/precision.ts";
import { type Benchmark, type BenchResult, checkClose, type Table } from "../benchmark.ts";
import { gigabytes, milliseconds, percent, ratio } from "../numbers.ts";
import { LOSS_TOLERANCE, matchReference } from "../reference.ts";
import { measureCeilings } from "./ceilings.ts";
import type { GpuContext } from "./context.ts";
import { llamaFlops, llamaJob } from "./jobs.ts";
import { runOnce } from "./run-once.ts";
import type { TorchFlag, TorchRun } from "./torch.ts";

const PRECISIONS: readonly JobPrecision[] = ["fp32", "bf16"];
const PEERS: readonly (readonly [
  title: string,
  precision: JobPrecision,
  flags: readonly TorchFlag[],
])[] = [
  ["fp32, fused AdamW", "fp32", ["fused"]],
  ["bf16 autocast, default AdamW", "bf16", []],
  ["bf16 autocast, fused AdamW", "bf16", ["fused"]],
  ["bf16 autocast, fused AdamW, compiled", "bf16", ["fused", "compile"]],
];
/** What 8 bits of mantissa make of a loss. */
const HALF_TOLERANCE = 2e-2;
/** First steps, whose losses are compared: rounding grows from step to step. */
const COMPARED_STEPS = 5;
const REFERENCE = {
  model: { llama: { dim: 64, layers: 2, heads: 8, kvHeads: 4, hidden: 160, vocab: 96 } },
  loss: "cross_entropy",
  optimizer: { adamw: { lr: 3e-3 } },
  batchSize: 4,
} as const;

interface Row {
  readonly title: string;
  readonly precision: JobPrecision;
  readonly medianSeconds: number;
  readonly p90Seconds: number;
  readonly peakBytes: number;
}

interface Peer extends Row {
  /** Why there is no number. */
  readonly failed: string | null;
}

export const llama: Benchmark<GpuContext> = { name: "llama", run };

async function run(context: GpuContext): Promise<BenchResult> {
  const { sizes, torch, progress } = context;
  const { model, seqLen, batch, steps } = sizes.llama;
  const ceilings = await measureCeilings(context);
  const verified = [await matchReference(context, "llama-tiny", [1], REFERENCE)];
  const rows: Row[] = [];
  let expected: readonly (number | null)[] | undefined;
  for (const precision of PRECISIONS) {
    progress(precision);
    const { result } = await runOnce(context, llamaJob(sizes, precision), 1);
    const losses = result.loss.slice(0, COMPARED_STEPS);
    expected ??= losses;
    checkClose(
      `losses in ${precision}`,
      losses,
      expected,
      precision === "fp32" ? LOSS_TOLERANCE : HALF_TOLERANCE,
    );
    rows.push({
      title: precision,
      precision,
      medianSeconds: result.stepSeconds.median ?? Number.NaN,
      p90Seconds: result.stepSeconds.p90 ?? Number.NaN,
      peakBytes: Math.max(...result.ranks.map((rank) => rank.peakMemoryBytes)),
    });
  }
  verified.push(
    `losses of the first ${COMPARED_STEPS} timed steps in bf16 are within ${percent(HALF_TOLERANCE)} of those in float32`,
    "peak = prediction, to the byte",
  );
  const peers = await measurePeers(context);
  const { dim, layers, heads, kvHeads, hidden, vocab } = model;
  return {
    title: `Step of a Llama of ${layers} layers, ${batch} rows of ${seqLen} tokens, AdamW, 1 rank`,
    verified,
    tables: [table(context, [...rows, ...peers], ceilings.flops), ratioTable(rows, peers)],
    budgets: [],
    notes: [
      `dim ${dim}, ${heads} heads, ${kvHeads} key-value heads, hidden ${hidden}, vocabulary ${vocab}; default plan; weights and ` +
        "moments float32 in both precisions",
      `real processes (\`rankmesh run\`), ${steps.float32} steps in float32 and ${steps.bfloat16} in bf16, of which the first two are ` +
        "left out, wall time end to end",
      "TFLOP/s: products with weights, three for each weight and token, and attention over half of all pairs of tokens; of the " +
        "ceiling: of what cuBLAS reached in this run in that precision, float32 without TF32",
      "GB: what the rank asked the driver for, and what PyTorch's tensors held, at most",
      torch.missing === undefined
        ? `PyTorch ${torch.version}: scaled_dot_product_attention, steps by the device's events`
        : `no peer: ${torch.missing}`,
      ...peers.flatMap(({ title, failed }) => (failed === null ? [] : [`${title}: ${failed}`])),
    ],
    data: { model, seqLen, batch, flops: llamaFlops(sizes), ceilings: ceilings.flops, rows, peers },
  };
}

/** One that fails does not keep the others from being measured. */
async function measurePeers({ sizes, torch, progress, signal }: GpuContext): Promise<Peer[]> {
  const peers: Peer[] = [];
  if (torch.missing !== undefined) return peers;
  for (const [what, precision, flags] of PEERS) {
    const title = `PyTorch ${what}`;
    progress(title);
    const steps = sizes.llama.steps[ACTIVATIONS[precision]];
    let run: TorchRun | undefined;
    let failed: string | null = null;
    try {
      run = await torch.llama(sizes, precision, steps, flags);
    } catch (error) {
      signal.throwIfAborted();
      failed = error instanceof Error ? error.message : String(error);
    }
    const { medianSeconds = Number.NaN, p90Seconds = Number.NaN, peakBytes = 0 } = run ?? {};
    peers.push({ title, precision, medianSeconds, p90Seconds, peakBytes, failed });
  }
  return peers;
}

function table(
  { sizes }: GpuContext,
  rows: readonly Row[],
  ceilings: Readonly<Record<string, number>>,
): Table {
  const { seqLen, batch } = sizes.llama;
  const flops = llamaFlops(sizes);
  return {
    header: ["", "median ms", "p90 ms", "tokens/s", "TFLOP/s", "of ceiling", "GB"],
    rows: rows.map(({ title, precision, medianSeconds, p90Seconds, peakBytes }) => {
      if (Number.isNaN(medianSeconds)) return [title, "-", "-", "-", "-", "-", "-"];
      const rate = flops / medianSeconds;
      return [
        title,
        milliseconds(medianSeconds),
        milliseconds(p90Seconds),
        ((batch * seqLen) / medianSeconds).toFixed(0),
        (rate / 1e12).toFixed(1),
        percent(rate / (ceilings[ACTIVATIONS[precision]] ?? Number.NaN)),
        gigabytes(peakBytes),
      ];
    }),
  };
}

function ratioTable(rows: readonly Row[], peers: readonly Peer[]): Table {
  return {
    header: ["rankmesh's step over that of", "ratio"],
    rows: peers.map((peer) => {
      const own = rows.find(({ precision }) => precision === peer.precision);
      const value = (own?.medianSeconds ?? Number.NaN) / peer.medianSeconds;
      return [peer.title, Number.isNaN(value) ? "-" : ratio(value)];
    }),
  };
}
