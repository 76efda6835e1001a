import { expect } from "chai";
import { WorkerMetrics } from "../../../worker/metrics.ts";

const RANK = { jobId: "j", rank: 0, device: "d", backend: "b" };

describe("WorkerMetrics", () => {
  it("has steps and every phase at 0 from an assignment's beginning, so that the first ones count in a rate", async () => {
    const metrics = new WorkerMetrics({ version: "1" });
    metrics.startRank(RANK).setLimits(10, 5);
    const text = await metrics.registry.metrics();
    const labels = 'job_id="j",rank="0",device="d",backend="b"';
    expect(text).to.include(`rankmesh_train_step{${labels}} 0\n`);
    for (const phase of ["data", "compute", "device", "collective"])
      expect(text).to.include(`phase_seconds_total{${labels},phase="${phase}"} 0\n`);
    metrics.close();
  });

  it("removes an assignment's series, and only those", async () => {
    const metrics = new WorkerMetrics({ version: "1" });
    const other = metrics.startRank({ ...RANK, rank: 1 });
    const rank = metrics.startRank(RANK);
    for (const each of [other, rank]) {
      each.setLimits(10, 5);
      each.setMemory({ currentBytes: 1, peakBytes: 2, byKind: { weights: 1 } });
      each.step({
        step: 0,
        loss: 1,
        gradNorm: undefined,
        seconds: 1,
        phases: { data: 0.1, compute: 0.5, device: 0, collective: 0.4 },
        batchHash: 0,
        peakMemoryBytes: 2,
      });
      each.collective("allReduce", "grpc", 0.1, 3, 4);
      each.waited(7, 0.5);
    }
    const series = async (): Promise<string[]> =>
      (await metrics.registry.metrics())
        .split("\n")
        .filter((line) => /^rankmesh_.*job_id/.test(line));
    const before = await series();
    expect(before.filter((line) => line.includes('rank="0"')).length).to.equal(before.length / 2);
    rank.remove();
    const after = await series();
    expect(after.length).to.equal(before.length / 2);
    expect(after.every((line) => line.includes('rank="1"'))).to.equal(true);
    metrics.close();
  });
});
