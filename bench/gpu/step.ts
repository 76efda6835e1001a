import { plural } from "../../cli/format.ts";
import {
  type Benchmark,
  type BenchResult,
  type Budget,
  checkClose,
  type Table,
} from "../benchmark.ts";
import { gigabytes, megabytes, milliseconds, ratio } from "../numbers.ts";
import { LOSS_TOLERANCE, matchReference } from "../reference.ts";
import { median } from "../statistics.ts";
import { measureCeilings } from "./ceilings.ts";
import type { GpuContext } from "./context.ts";
import { feedForwardBytes, feedForwardJob } from "./jobs.ts";
import { runOnce } from "./run-once.ts";
import type { Sizes } from "./sizes.ts";

/** Ratio to the time to stream the bytes that a step must move, of one rank. */
const STREAM_BUDGET = 1.25;
/** Ratio to PyTorch's step with its default AdamW, of one rank. */
const PEER_BUDGET = 0.5;
/** Of weights and both moments, workspaces apart. */
const PEAK_BUDGET = 1.02;
/** First steps, whose losses are compared: rounding grows from step to step. */
const COMPARED_STEPS = 10;
const REFERENCE = {
  model: { feedForward: { dim: 48, hidden: 80 } },
  loss: "sum",
  optimizer: { adamw: { lr: 3e-3 } },
  batchSize: 6,
} as const;

/** One number of ranks in one round. */
interface Sample {
  readonly ranks: number;
  readonly median: number;
  readonly p90: number;
  readonly peakBytes: number;
  readonly deviceBytes: number;
}

interface PeerSample {
  readonly plain: number;
  readonly fused: number;
  readonly peakBytes: number;
}

export const step: Benchmark<GpuContext> = { name: "step", run };

async function run(context: GpuContext): Promise<BenchResult> {
  const { sizes, torch, progress, gpu } = context;
  const { dim, batch, ranks: meshes, checkedRanks, steps, rounds } = sizes.feedForward;
  const ceilings = await measureCeilings(context);
  const verified = [await matchReference(context, "feedforward-sum", checkedRanks, REFERENCE)];
  const samples: Sample[] = [];
  const peers: PeerSample[] = [];
  let expected: readonly (number | null)[] | undefined;
  for (let round = 1; round <= rounds; round++) {
    for (const ranks of meshes) {
      progress(`round ${round} of ${rounds}, ${plural(ranks, "rank")}`);
      const { result, deviceBytes } = await runOnce(context, feedForwardJob(sizes, ranks), round);
      const losses = result.loss.slice(0, COMPARED_STEPS);
      expected ??= losses;
      checkClose(`losses on ${plural(ranks, "rank")}`, losses, expected, LOSS_TOLERANCE);
      samples.push({
        ranks,
        median: result.stepSeconds.median ?? Number.NaN,
        p90: result.stepSeconds.p90 ?? Number.NaN,
        peakBytes: Math.max(...result.ranks.map((rank) => rank.peakMemoryBytes)),
        deviceBytes,
      });
    }
    if (torch.missing === undefined) {
      progress(`round ${round} of ${rounds}, PyTorch`);
      const plain = await torch.feedForward(sizes, steps, []);
      const fused = await torch.feedForward(sizes, steps, ["fused"]);
      const { medianSeconds, peakBytes } = plain;
      peers.push({ plain: medianSeconds, fused: fused.medianSeconds, peakBytes });
    }
  }
  verified.push(
    `losses of the first ${COMPARED_STEPS} timed steps agree on ${meshes.join(", ")} ranks within ${LOSS_TOLERANCE.toExponential()}, relative`,
    "peak = prediction, to the byte, on every rank",
  );
  const streamSeconds = feedForwardBytes(sizes) / ceilings.bandwidth;
  const peer = summarizePeer(peers);
  const rows = meshes.map((ranks) => summarize(ranks, samples, streamSeconds, gpu.workspaceBytes));
  return {
    title: `Step of FeedForward(${dim}, ${dim}), batch ${batch}, AdamW, float32, ranks sharing one GPU`,
    verified,
    tables: [timeTable(rows, peer), memoryTable(rows, peer, sizes)],
    budgets: rows.flatMap((row) => budgets(row, peer, sizes)),
    notes: [
      `real processes (\`rankmesh run\`), ${steps} steps of which the first two are left out, wall time end to end; ${plural(rounds, "round")}, ` +
        "medians over them",
      `a step must move ${gigabytes(feedForwardBytes(sizes))} GB over all ranks: each weight read forward, w2 once more backward, ` +
        `weights and both moments read and written by the update; streamed at ${gigabytes(ceilings.bandwidth)} GB/s, this run's best`,
      "peak: what a rank asked the driver for, arena and workspace (scratch of kernels and of cuBLAS); device: what all ranks took " +
        "of the device at most, contexts included, as the driver tells another process; 1 MB = 1e6 bytes",
      torch.missing === undefined
        ? `PyTorch ${torch.version}: ${steps} steps by the device's events, AdamW as it comes (foreach) and fused, TF32 off`
        : `no peer: ${torch.missing}`,
    ],
    data: { dim, batch, bandwidth: ceilings.bandwidth, streamSeconds, rows, peer, samples, peers },
  };
}

function summarize(
  ranks: number,
  all: readonly Sample[],
  streamSeconds: number,
  workspaceBytes: number,
) {
  const samples = all.filter((sample) => sample.ranks === ranks);
  const medianSeconds = median(samples.map((sample) => sample.median));
  const peakBytes = Math.max(...samples.map((sample) => sample.peakBytes));
  return {
    ranks,
    medianSeconds,
    p90Seconds: Math.max(...samples.map((sample) => sample.p90)),
    streamRatio: medianSeconds / streamSeconds,
    workspaceBytes,
    arenaBytes: peakBytes - workspaceBytes,
    deviceBytes: Math.max(...samples.map((sample) => sample.deviceBytes)),
  };
}

type Row = ReturnType<typeof summarize>;

function summarizePeer(peers: readonly PeerSample[]): PeerSample | null {
  if (peers.length === 0) return null;
  return {
    plain: median(peers.map(({ plain }) => plain)),
    fused: median(peers.map(({ fused }) => fused)),
    peakBytes: Math.max(...peers.map(({ peakBytes }) => peakBytes)),
  };
}

/** Weights and both moments of three weights, with 2% for the rest. */
function peakLimitBytes({ feedForward: { dim } }: Sizes, ranks: number): number {
  return (PEAK_BUDGET * 9 * 4 * dim * dim) / ranks;
}

function budgets(row: Row, peer: PeerSample | null, sizes: Sizes): Budget[] {
  const where = plural(row.ranks, "rank");
  const memory = {
    what: `arena MB, ${where}`,
    measured: row.arenaBytes / 1e6,
    limit: peakLimitBytes(sizes, row.ranks) / 1e6,
  };
  if (row.ranks > 1) return [memory];
  const stream = {
    what: `step / streaming its bytes, ${where}`,
    measured: row.streamRatio,
    limit: STREAM_BUDGET,
  };
  if (peer === null) return [stream, memory];
  const against = {
    what: `step / PyTorch, default AdamW, ${where}`,
    measured: row.medianSeconds / peer.plain,
    limit: PEER_BUDGET,
  };
  return [stream, against, memory];
}

function timeTable(rows: readonly Row[], peer: PeerSample | null): Table {
  const against = (row: Row, seconds: number | undefined): string =>
    seconds === undefined ? "-" : ratio(row.medianSeconds / seconds);
  return {
    header: [
      "ranks",
      "median ms",
      "p90 ms",
      "x streaming",
      "PyTorch ms",
      "ratio",
      "PyTorch fused ms",
      "ratio",
    ],
    rows: rows.map((row) => [
      String(row.ranks),
      milliseconds(row.medianSeconds),
      milliseconds(row.p90Seconds),
      ratio(row.streamRatio),
      peer === null ? "-" : milliseconds(peer.plain),
      against(row, peer?.plain),
      peer === null ? "-" : milliseconds(peer.fused),
      against(row, peer?.fused),
    ]),
  };
}

function memoryTable(rows: readonly Row[], peer: PeerSample | null, sizes: Sizes): Table {
  return {
    header: ["ranks", "arena MB", "budget MB", "workspace MB", "device MB", "PyTorch MB"],
    rows: rows.map((row) => [
      String(row.ranks),
      megabytes(row.arenaBytes),
      megabytes(peakLimitBytes(sizes, row.ranks)),
      megabytes(row.workspaceBytes),
      row.deviceBytes === 0 ? "-" : megabytes(row.deviceBytes),
      peer === null || row.ranks > 1 ? "-" : megabytes(peer.peakBytes),
    ]),
  };
}
