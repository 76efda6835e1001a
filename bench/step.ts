import { plural } from "../cli/format.ts";
import { threadsPerRank } from "../cli/machine.ts";
import type { JobSpecInput } from "../shared/job/job-spec.ts";
import { type Bandwidth, BandwidthMeter } from "./bandwidth.ts";
import {
  type BenchContext,
  type Benchmark,
  type BenchResult,
  checkClose,
  type Table,
} from "./benchmark.ts";
import { gigabytes, milliseconds, ratio } from "./numbers.ts";
import { runJob } from "./rankmesh.ts";
import { LOSS_TOLERANCE, matchReference } from "./reference.ts";
import { median } from "./statistics.ts";

const RANKS = [1, 2];
const BATCH = 8;
const STEPS = 10;
const PEER_STEPS = 6;
/** Each measures everything once, so that a change in the machine's load strikes all alike. */
const ROUNDS = 2;
/** Ratio to PyTorch + gloo. */
const PEER_BUDGET = 0.15;
/** Ratio to the time to stream the bytes that a step must move. */
const STREAM_BUDGET = 1.5;
const REFERENCE = {
  model: { feedForward: { dim: 48, hidden: 80 } },
  loss: "sum",
  optimizer: { adamw: { lr: 3e-3 } },
  batchSize: 6,
} as const;

/** One configuration in one round. Seconds. */
interface Sample {
  readonly ranks: number;
  readonly median: number;
  readonly p90: number;
  readonly stream: number;
  readonly peer: number | null;
}

export const step: Benchmark = { name: "step", run };

async function run(context: BenchContext): Promise<BenchResult> {
  const { peers, progress, dim } = context;
  const verified = [await matchReference(context, "feedforward-sum", RANKS, REFERENCE)];
  const meter = await BandwidthMeter.build(context);
  const samples: Sample[] = [];
  const bandwidths: Bandwidth[] = [];
  const losses = new Map<number, readonly (number | null)[]>();
  for (let round = 0; round < ROUNDS; round++) {
    for (const ranks of RANKS) {
      progress(`round ${round + 1} of ${ROUNDS}, ${plural(ranks, "rank")}`);
      const before = await meter.measure();
      const job = await runJob(context, jobSpec(dim, ranks));
      const after = await meter.measure();
      losses.set(ranks, job.loss);
      const [, first] = RANKS.map((n) => losses.get(n));
      if (first !== undefined) {
        checkClose("losses on 2 ranks against 1", first, losses.get(1) ?? [], LOSS_TOLERANCE);
      }
      const threads = threadsPerRank(ranks);
      const peer =
        peers.missing === undefined
          ? await peers.feedForward({ world: ranks, threads, dim, batch: BATCH, steps: PEER_STEPS })
          : undefined;
      bandwidths.push(before, after);
      samples.push({
        ranks,
        median: job.stepSeconds.median ?? Number.NaN,
        p90: job.stepSeconds.p90 ?? Number.NaN,
        stream: (streamSeconds(dim, before) + streamSeconds(dim, after)) / 2,
        peer: peer?.medianSeconds ?? null,
      });
    }
  }
  verified.push(
    `losses of the timed runs agree on 1 and 2 ranks within ${LOSS_TOLERANCE.toExponential()}, relative`,
  );
  const summaries = RANKS.map((ranks) => summarize(samples.filter((s) => s.ranks === ranks)));
  return {
    title: `Step of FeedForward(${dim}, ${dim}), batch ${BATCH}, AdamW, on the cpu backend`,
    verified,
    tables: [stepTable(summaries), bandwidthTable(bandwidths)],
    budgets: summaries.flatMap((s) => [
      ...(s.peerRatio === null
        ? []
        : [
            {
              what: `step / PyTorch, ${plural(s.ranks, "rank")}`,
              measured: s.peerRatio,
              limit: PEER_BUDGET,
            },
          ]),
      {
        what: `step / streaming its bytes, ${plural(s.ranks, "rank")}`,
        measured: s.streamRatio,
        limit: STREAM_BUDGET,
      },
    ]),
    notes: [
      `real processes (\`rankmesh run\`), ${STEPS} steps of which the first two are left out, ${ROUNDS} rounds, each of ` +
        "bandwidth, rankmesh, bandwidth again, PyTorch in turn; ratios are formed within a round and their median is shown",
      `a step must move ${gigabytes(streamBytes(dim).read + streamBytes(dim).update)} GB over all ranks: each weight read ` +
        "forward, w2 once more backward, weights and both moments read and written by the update; the time to stream them " +
        "is that of plain C loops of the same patterns on all cores",
      peers.missing === undefined
        ? `PyTorch ${peers.version} + gloo, ${PEER_STEPS} steps, same threads`
        : `no peer: ${peers.missing}`,
    ],
    data: { dim, batch: BATCH, ranks: summaries, samples, bandwidths },
  };
}

function jobSpec(dim: number, tensorParallel: number): JobSpecInput {
  return {
    name: "bench-step",
    model: { feedForward: { dim, hidden: dim } },
    mesh: { tensorParallel },
    loss: "sum",
    optimizer: { adamw: {} },
    data: { batchSize: BATCH, random: {} },
    steps: STEPS,
  };
}

/** Bytes that memory must see in a step over all ranks, by pattern; activations of a few rows stay in caches. */
function streamBytes(dim: number): { readonly read: number; readonly update: number } {
  const weight = dim * dim * 4;
  const forward = 3 * weight;
  const backward = weight; // Only w2 has an input that needs a gradient.
  return { read: forward + backward, update: 3 * 6 * weight };
}

function streamSeconds(dim: number, bandwidth: Bandwidth): number {
  const { read, update } = streamBytes(dim);
  return read / bandwidth.read + update / bandwidth.update;
}

function summarize(samples: readonly Sample[]) {
  const peers = samples.flatMap(({ peer }) => (peer === null ? [] : [peer]));
  const peerRatios = samples.flatMap((s) => (s.peer === null ? [] : [s.median / s.peer]));
  const ranks = samples[0]?.ranks ?? 0;
  return {
    ranks,
    threads: threadsPerRank(ranks),
    medianSeconds: median(samples.map((s) => s.median)),
    p90Seconds: Math.max(...samples.map((s) => s.p90)),
    streamSeconds: median(samples.map((s) => s.stream)),
    streamRatio: median(samples.map((s) => s.median / s.stream)),
    peerSeconds: peers.length === 0 ? null : median(peers),
    peerRatio: peerRatios.length === 0 ? null : median(peerRatios),
  };
}

function stepTable(summaries: readonly ReturnType<typeof summarize>[]): Table {
  return {
    header: [
      "ranks",
      "threads each",
      "median ms",
      "p90 ms",
      "PyTorch ms",
      "ratio",
      "stream ms",
      "ratio",
    ],
    rows: summaries.map((s) => [
      String(s.ranks),
      String(s.threads),
      milliseconds(s.medianSeconds),
      milliseconds(s.p90Seconds),
      s.peerSeconds === null ? "-" : milliseconds(s.peerSeconds),
      s.peerRatio === null ? "-" : ratio(s.peerRatio),
      milliseconds(s.streamSeconds),
      ratio(s.streamRatio),
    ]),
  };
}

function bandwidthTable(bandwidths: readonly Bandwidth[]): Table {
  const column = (of: (b: Bandwidth) => number) => gigabytes(median(bandwidths.map(of)));
  return {
    header: ["memory, all cores", "GB/s"],
    rows: [
      ["read", column((b) => b.read)],
      ["triad", column((b) => b.triad)],
      ["update in place", column((b) => b.update)],
    ],
  };
}
