import { plural } from "../cli/format.ts";
import { threadsPerRank } from "../cli/machine.ts";
import type { Budget, Table } from "./benchmark.ts";
import { BATCH, linearWeights, SEQ_LEN } from "./llama-job.ts";
import { megabytes, milliseconds, ratio } from "./numbers.ts";
import { median } from "./statistics.ts";

/** Ratio to PyTorch + gloo, by ranks. */
const PEER_BUDGETS: ReadonlyMap<number, number> = new Map([
  [1, 0.5],
  [2, 0.7],
]);
export const RANKS = [...PEER_BUDGETS.keys()];
/** Of weights and optimizer state against one rank's divided by the ranks. */
const SHARE_BUDGET = 1.02;

/** One configuration in one round. Seconds; bytes are those of the largest rank. */
export interface Sample {
  readonly ranks: number;
  readonly median: number;
  readonly p90: number;
  readonly peakBytes: number;
  readonly residentBytes: number;
  readonly collectiveBytes: number;
  readonly peer: PeerSample | null;
}

export interface PeerSample {
  readonly median: number;
  readonly peakResidentBytes: number;
  /** Of those, what the process held before the model was made. */
  readonly baselineBytes: number;
}

/** Bytes of weights and optimizer state: of one rank that holds all, and of one of a fully sharded mesh. */
export interface Shares {
  readonly ranks: number;
  readonly wholeBytes: number;
  readonly shardedBytes: number;
  /** Sharded bytes times ranks, over those of one rank. */
  readonly share: number;
}

export function summarize(samples: readonly Sample[]) {
  const peers = samples.flatMap(({ peer }) => (peer === null ? [] : [peer]));
  const ofPeer = (ratioTo: (sample: Sample, peer: PeerSample) => number): number | null =>
    peers.length === 0
      ? null
      : median(samples.flatMap((s) => (s.peer === null ? [] : [ratioTo(s, s.peer)])));
  const [first] = samples;
  const medianSeconds = median(samples.map((s) => s.median));
  return {
    ranks: first?.ranks ?? 0,
    threads: threadsPerRank(first?.ranks ?? 1),
    medianSeconds,
    p90Seconds: Math.max(...samples.map((s) => s.p90)),
    tokensPerSecond: (BATCH * SEQ_LEN) / medianSeconds,
    productFlopsPerSecond: (6 * linearWeights() * BATCH * SEQ_LEN) / medianSeconds,
    collectiveBytes: first?.collectiveBytes ?? 0,
    peakBytes: first?.peakBytes ?? 0,
    residentBytes: Math.max(...samples.map((s) => s.residentBytes)),
    peerSeconds: ofPeer((_, peer) => peer.median),
    peerResidentBytes: ofPeer((_, peer) => peer.peakResidentBytes),
    peerGrowthBytes: ofPeer((_, peer) => peer.peakResidentBytes - peer.baselineBytes),
    timeRatio: ofPeer((s, peer) => s.median / peer.median),
    residentRatio: ofPeer((s, peer) => s.residentBytes / peer.peakResidentBytes),
    peakRatio: ofPeer((s, peer) => s.peakBytes / (peer.peakResidentBytes - peer.baselineBytes)),
  };
}

export type Summary = ReturnType<typeof summarize>;

export function peerBudgets({ ranks, timeRatio, residentRatio, peakRatio }: Summary): Budget[] {
  if (timeRatio === null || residentRatio === null || peakRatio === null) return [];
  const where = plural(ranks, "rank");
  const limit = PEER_BUDGETS.get(ranks) ?? Number.NaN;
  return [
    { what: `step / PyTorch, ${where}`, measured: timeRatio, limit },
    { what: `resident / PyTorch's peak resident, ${where}`, measured: residentRatio, limit: 1 },
    { what: `peak / PyTorch's growth, ${where}`, measured: peakRatio, limit: 1 },
  ];
}

export function shareBudget({ ranks, share }: Shares): Budget {
  const what = `state of 1 of ${ranks} fully sharded ranks x ${ranks} / state of 1 rank`;
  return { what, measured: share, limit: SHARE_BUDGET };
}

export function stepTable(summaries: readonly Summary[]): Table {
  return {
    header: [
      "ranks",
      "threads each",
      "median ms",
      "p90 ms",
      "tokens/s",
      "GFLOP/s",
      "a rank sends MB",
      "PyTorch ms",
      "ratio",
    ],
    rows: summaries.map((s) => [
      String(s.ranks),
      String(s.threads),
      milliseconds(s.medianSeconds),
      milliseconds(s.p90Seconds),
      s.tokensPerSecond.toFixed(0),
      (s.productFlopsPerSecond / 1e9).toFixed(1),
      megabytes(s.collectiveBytes),
      s.peerSeconds === null ? "-" : milliseconds(s.peerSeconds),
      s.timeRatio === null ? "-" : ratio(s.timeRatio),
    ]),
  };
}

export function memoryTable(summaries: readonly Summary[]): Table {
  const orDash = (value: number | null, show: (value: number) => string) =>
    value === null ? "-" : show(value);
  return {
    header: [
      "ranks",
      "resident MB",
      "PyTorch resident MB",
      "ratio",
      "peak MB",
      "PyTorch growth MB",
      "ratio",
    ],
    rows: summaries.map((s) => [
      String(s.ranks),
      megabytes(s.residentBytes),
      orDash(s.peerResidentBytes, megabytes),
      orDash(s.residentRatio, ratio),
      megabytes(s.peakBytes),
      orDash(s.peerGrowthBytes, megabytes),
      orDash(s.peakRatio, ratio),
    ]),
  };
}

export function shareTable({ ranks, wholeBytes, shardedBytes, share }: Shares): Table {
  return {
    header: ["data-parallel ranks", "weights and optimizer state of a rank, MB", "share x ranks"],
    rows: [
      ["1", megabytes(wholeBytes), ratio(1)],
      [String(ranks), megabytes(shardedBytes), ratio(share)],
    ],
  };
}
