import { plural } from "../cli/format.ts";
import { type AllReduceRow, run as runAllReduce } from "./allreduce.ts";
import type { BenchContext, Benchmark, BenchResult } from "./benchmark.ts";
import { milliseconds, ratio } from "./numbers.ts";

export const allReduce: Benchmark = { name: "allreduce", run };

async function run({ peers, progress }: BenchContext): Promise<BenchResult> {
  const result = await runAllReduce({ peer: peers.missing === undefined, print: progress });
  const missing = peers.missing ?? result.peerMissing;
  return {
    title: "All-reduce over gRPC between processes of this machine, float32 sum",
    verified: ["every rank holds the exact sums of integer values at every size"],
    tables: [
      {
        header: [
          "ranks",
          "bytes",
          "algorithm",
          "segment bytes",
          "median ms",
          "p90 ms",
          "gloo ms",
          "ratio",
        ],
        rows: result.rows.map((row) => [
          String(row.ranks),
          String(row.bytes),
          row.algorithm,
          String(row.segmentBytes),
          milliseconds(row.medianSeconds),
          milliseconds(row.p90Seconds),
          row.peerSeconds === null ? "-" : milliseconds(row.peerSeconds),
          row.ratio === null ? "-" : ratio(row.ratio),
        ]),
      },
    ],
    budgets: result.rows.flatMap(budgetOf),
    notes: [
      `sums: ${result.kernel}; each repeat starts after a barrier`,
      missing === undefined
        ? `gloo of PyTorch ${peers.version} over TCP on loopback, 1 thread a rank`
        : `no peer: ${missing}`,
    ],
    data: result,
  };
}

function budgetOf(row: AllReduceRow) {
  if (row.ratio === null) return [];
  const what = `all-reduce / gloo, ${plural(row.ranks, "rank")}, ${row.bytes} bytes`;
  return [{ what, measured: row.ratio, limit: row.budget }];
}
