import { expect } from "chai";
import { allAsPredicted, memoryTable, quickstartResult } from "../../../cli/memory-table.ts";
import type { Job } from "../../../client/job-types.ts";

function run(
  tensorParallel: number,
  peakMemoryBytes: number,
  predictedPeakMemoryBytes = peakMemoryBytes,
  workspaceBytes = 0,
) {
  const job: Job = {
    jobId: "job",
    name: "quickstart",
    state: "SUCCEEDED",
    reason: "",
    error: undefined,
    mesh: { dataParallel: 1, tensorParallel },
    steps: 4,
    stepsDone: 4,
    batchSize: 8,
    loss: [1.5, 1.25, Number.NaN, -2],
    gradNorm: [],
    stepSeconds: [5, 4, 0.25, 0.25],
    evaluations: [],
    lastLoss: undefined,
    ranks: Array.from({ length: tensorParallel }, (_, rank) => ({
      rank,
      worker: `worker-${rank}`,
      backend: "cpu",
      device: "",
      peakMemoryBytes,
      predictedPeakMemoryBytes,
      rssBytes: peakMemoryBytes + 100e6,
      collectiveBytes: 0,
      workspaceBytes,
    })),
    notes: [],
    generation: 1,
    createdAt: undefined,
    endedAt: undefined,
  };
  return { tensorParallel, job };
}

const REFERENCE = { dim: 8192, hidden: 8192, batch: 8 };

describe("the quickstart's table", () => {
  it("stands beside the reference's figures for the reference's model", () => {
    expect(memoryTable(REFERENCE, [run(1, 2_416_967_680), run(2, 1_208_483_840)])).to.deep.equal([
      "FeedForward(8192, 8192), batch 8, AdamW, float32: peak memory per rank in GB (1e9 bytes)",
      "ranks  reference  predicted  measured  resident  step time  loss",
      "    1       4.04       2.42      2.42      2.52  250 ms     1.50000 -> -2.00000",
      "    2       2.03       1.21      1.21      1.31  250 ms     1.50000 -> -2.00000",
      "reference: PyTorch + Lightning Fabric, one GPU a rank, as its documentation prints it",
    ]);
  });

  it("says nothing of the reference for another model, and uses MB for a small one", () => {
    expect(memoryTable({ dim: 48, hidden: 80, batch: 8 }, [run(3, 80_130)])).to.deep.equal([
      "FeedForward(48, 80), batch 8, AdamW, float32: peak memory per rank in MB (1e6 bytes)",
      "ranks  predicted  measured  resident  step time  loss",
      "    3       0.08      0.08    100.08  250 ms     1.50000 -> -2.00000",
    ]);
  });

  it("has no figure of the reference's for a number of ranks that it does not print", () => {
    expect(memoryTable(REFERENCE, [run(3, 1e9)])[2]).to.match(/^ +3 +- /);
  });

  it("tells a backend's workspace apart", () => {
    const table = memoryTable(REFERENCE, [run(1, 2_467_296_000, 2_467_296_000, 50_331_904)]);
    expect(table.slice(1)).to.deep.equal([
      "ranks  reference  predicted  measured  workspace  resident  step time  loss",
      "    1       4.04       2.47      2.47       0.05      2.57  250 ms     1.50000 -> -2.00000",
      "workspace: what the backend takes beside the program; it is part of predicted and measured",
      "reference: PyTorch + Lightning Fabric, one GPU a rank, as its documentation prints it",
    ]);
  });

  it("sees a single rank that differs from its prediction", () => {
    expect(allAsPredicted([run(1, 5), run(2, 7)])).to.equal(true);
    expect(allAsPredicted([run(1, 5), run(2, 7, 8)])).to.equal(false);
  });

  it("writes the documented JSON, naming the backend that ran", () => {
    const result = quickstartResult(REFERENCE, 4, "auto", [run(1, 5)]);
    expect(JSON.parse(JSON.stringify(result))).to.deep.equal({
      model: "feedForward",
      dim: 8192,
      hidden: 8192,
      batch: 8,
      steps: 4,
      backend: "cpu",
      runs: [
        {
          tensorParallel: 1,
          stepSeconds: { median: 0.25, p90: 0.25 },
          loss: [1.5, 1.25, null, -2],
          ranks: [
            {
              rank: 0,
              peakMemoryBytes: 5,
              predictedPeakMemoryBytes: 5,
              rssBytes: 100_000_005,
              workspaceBytes: 0,
            },
          ],
        },
      ],
    });
  });
});
