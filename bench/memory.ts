import { plural } from "../cli/format.ts";
import { threadsPerRank } from "../cli/machine.ts";
import { type BenchContext, type Benchmark, type BenchResult, checkClose } from "./benchmark.ts";
import { megabytes, ratio } from "./numbers.ts";
import type { PeerRun } from "./peer.ts";
import { checkPeaks, quickstart } from "./rankmesh.ts";
import { LOSS_TOLERANCE } from "./reference.ts";

const RANKS = [1, 2, 4, 8];
/** PyTorch needs 4 GB a rank of its own; these show what there is to see. */
const PEER_RANKS = [1, 2];
const BATCH = 8;
const STEPS = 3;
/** What PyTorch has after its first update it has after the next. */
const PEER_STEPS = 2;
/** Resident memory of a worker above the rank's peak: Node, libraries, buffers. */
const RESIDENT_BUDGET_BYTES = 150e6;

export const memory: Benchmark = { name: "memory", run };

async function run(context: BenchContext): Promise<BenchResult> {
  const { dim, peers, progress } = context;
  progress(`quickstart on ${RANKS.join(", ")} ranks`);
  const { runs } = await quickstart(context, { dim, steps: STEPS, tp: RANKS });
  for (const { tensorParallel, loss } of runs) {
    const what = `losses on ${plural(tensorParallel, "rank")} against 1`;
    checkClose(what, loss, runs[0]?.loss ?? [], LOSS_TOLERANCE);
  }
  const peerRuns = new Map<number, PeerRun>();
  for (const world of peers.missing === undefined ? PEER_RANKS : []) {
    progress(`PyTorch on ${plural(world, "rank")}`);
    const threads = threadsPerRank(world);
    const task = { world, threads, dim, batch: BATCH, steps: PEER_STEPS };
    peerRuns.set(world, await peers.feedForwardMemory(task));
  }
  const rows = runs.map(({ tensorParallel, ranks }) => {
    checkPeaks(ranks);
    const peakBytes = Math.max(...ranks.map((rank) => rank.peakMemoryBytes));
    const peer = peerRuns.get(tensorParallel);
    return {
      ranks: tensorParallel,
      peakBytes,
      limitBytes: peakLimitBytes(dim, tensorParallel),
      residentBytes: Math.max(...ranks.map((rank) => rank.rssBytes)),
      residentAboveBytes: Math.max(...ranks.map((rank) => rank.rssBytes - rank.peakMemoryBytes)),
      peerResidentBytes: peer === undefined ? null : Math.max(...peer.peakRssBytes),
      peerBaselineBytes: peer === undefined ? null : Math.max(...peer.baselineRssBytes),
    };
  });
  return {
    title: `Memory per rank of FeedForward(${dim}, ${dim}), batch ${BATCH}, AdamW`,
    verified: [
      "peak = prediction, to the byte, on every rank of every mesh, initialisation included",
      `losses agree on ${RANKS.join(", ")} ranks within ${LOSS_TOLERANCE.toExponential()}, relative`,
    ],
    tables: [
      {
        header: [
          "ranks",
          "peak MB",
          "budget MB",
          "resident MB",
          "above peak MB",
          "PyTorch resident MB",
          "its baseline MB",
          "resident ratio",
        ],
        rows: rows.map((row) => [
          String(row.ranks),
          megabytes(row.peakBytes),
          megabytes(row.limitBytes),
          megabytes(row.residentBytes),
          megabytes(row.residentAboveBytes),
          row.peerResidentBytes === null ? "-" : megabytes(row.peerResidentBytes),
          row.peerBaselineBytes === null ? "-" : megabytes(row.peerBaselineBytes),
          row.peerResidentBytes === null ? "-" : ratio(row.residentBytes / row.peerResidentBytes),
        ]),
      },
    ],
    budgets: rows.flatMap((row) => [
      {
        what: `peak MB, ${plural(row.ranks, "rank")}`,
        measured: row.peakBytes / 1e6,
        limit: row.limitBytes / 1e6,
      },
      {
        what: `resident above peak MB, ${plural(row.ranks, "rank")}`,
        measured: row.residentAboveBytes / 1e6,
        limit: RESIDENT_BUDGET_BYTES / 1e6,
      },
    ]),
    notes: [
      "peak: what the backend asked the system for, by its high-water mark; resident: the worker's process after the last " +
        "step; of the ranks the largest; 1 MB = 1e6 bytes",
      "budget: 1.02 x (weights and both moments) / ranks + 4 MiB",
      peers.missing === undefined
        ? `PyTorch ${peers.version} + gloo: peak resident memory; baseline: the interpreter before the model is made`
        : `no peer: ${peers.missing}`,
    ],
    data: { dim, batch: BATCH, rows },
  };
}

/** Weights and both moments of three weights, with 2% and 4 MiB for the rest. */
function peakLimitBytes(dim: number, ranks: number): number {
  return (1.02 * 9 * 4 * dim * dim) / ranks + 4 * 2 ** 20;
}
