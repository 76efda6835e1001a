import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { expect } from "chai";
import type { JobSpecInput } from "../../shared/job/job-spec.ts";
import type { WorkerHandle } from "../../worker/worker-daemon.ts";
import { CudaRanks } from "../support/cuda-ranks.ts";
import { STAGED_CUDA } from "../support/staged-cuda.ts";

/** Least bytes of a piece: operands of these jobs come in up to 32 pieces; or whole. */
const SMALL = 4096;
const WHOLE = 1 << 30;

const LOST = 999;

/** With so many rows a gradient is smaller than its factors, and is what dataParallel exchanges. */
const SPEC: JobSpecInput = {
  name: "pieces",
  model: { feedForward: { dim: 96, hidden: 176 } },
  loss: "mse",
  reportGradNorm: true,
  data: { batchSize: 512, random: { length: 512, seed: 3 } },
  gradientAccumulation: 2,
  steps: 3,
  output: { safetensors: "out.safetensors" },
};

/** Workers of this process on the look-alike's GPU. */
describe("cuda ranks whose collectives come and go in pieces", function () {
  this.timeout(120_000);
  const cuda = new CudaRanks();

  function enlist(count: number, pieceBytes: number): Promise<WorkerHandle[]> {
    const names = Array.from({ length: count }, (_, i) => `w${pieceBytes}-${i}`);
    const device = String(pieceBytes);
    return cuda.join(names.map((name) => ({ name, device, backendModule: STAGED_CUDA })));
  }

  /** What a job gives, the copies that it took to the host, and the waits of streams for others. */
  async function train(spec: JobSpecInput, ranks: number, pieceBytes: number) {
    await enlist(ranks, pieceBytes);
    const counts = (): number[] =>
      ["cuMemcpyDtoHAsync_v2", "cuStreamWaitEvent"].map((call) => cuda.device.calls(call));
    const before = counts();
    const { jobId } = await cuda.coordinator.submit(spec);
    const { state, error, loss, gradNorm, ...job } = await cuda.coordinator.finished(jobId);
    expect(state, error?.message).to.equal("JOB_STATE_SUCCEEDED");
    const [fetched = 0, waits = 0] = counts().map((calls, i) => calls - (before[i] ?? 0));
    await cuda.stopWorkers();
    const weights = await readFile(join(cuda.coordinator.dir, "out.safetensors"));
    const peaks = job.ranks.map(({ peakMemoryBytes }) => peakMemoryBytes);
    return { loss, gradNorm, weights, peaks, fetched, waits };
  }

  for (const [what, ranks, mesh, sharding] of [
    ["2 x 1 ranks", 2, { dataParallel: 2 }, "none"],
    ["1 x 2 ranks", 2, { tensorParallel: 2 }, "none"],
    ["2 x 1 ranks with sharded weights", 2, { dataParallel: 2 }, "full"],
    ["4 x 1 ranks", 4, { dataParallel: 4 }, "none"],
    ["4 x 1 ranks with sharded weights", 4, { dataParallel: 4 }, "full"],
    ["2 x 2 ranks with sharded state", 4, { dataParallel: 2, tensorParallel: 2 }, "optimizer"],
  ] as const) {
    it(`${what} give the bits that they give with operands in one piece`, async () => {
      const spec: JobSpecInput = { ...SPEC, mesh, dataParallelSharding: sharding };
      const whole = await train(spec, ranks, WHOLE);
      const inPieces = await train(spec, ranks, SMALL);
      expect(inPieces.fetched).to.be.above(1.5 * whole.fetched);
      // One more for each collective of which something went back before its end; with chunks from three peers some surely do.
      if (ranks === 4) expect(inPieces.waits).to.be.above(whole.waits);
      expect(inPieces.loss).to.deep.equal(whole.loss);
      expect(inPieces.gradNorm).to.deep.equal(whole.gradNorm);
      expect(inPieces.peaks).to.deep.equal(whole.peaks);
      expect(Buffer.compare(inPieces.weights, whole.weights)).to.equal(0);
    });
  }

  it("give back all that they took after a job that was cancelled in mid-run", async () => {
    await enlist(2, SMALL);
    const { jobId } = await cuda.coordinator.submit({
      ...SPEC,
      mesh: { dataParallel: 2 },
      steps: 1_000_000,
    });
    await cuda.coordinator.until(
      "a step",
      async () => (await cuda.coordinator.get(jobId)).stepsDone > 0,
    );
    expect((await cuda.coordinator.cancel(jobId)).state).to.equal("JOB_STATE_CANCELLED");
    expect(cuda.device.leaks()).to.deep.equal([]);
  });

  it("end by the call that failed, and leave nothing, when the device is lost among the pieces", async () => {
    const mesh = { dataParallel: 2 };
    for (const [call, nth] of [
      ["cuMemcpyDtoHAsync_v2", 9],
      ["cuEventQuery", 12],
      ["cuEventSynchronize", 7],
      ["cuStreamWaitEvent", 4],
    ] as const) {
      await enlist(2, SMALL);
      cuda.device.fault(call, nth, LOST);
      const { jobId } = await cuda.coordinator.submit({ ...SPEC, mesh });
      const { error } = await cuda.coordinator.finished(jobId);
      expect(error?.code, error?.message).to.equal("UNAVAILABLE");
      expect(error?.message).to.match(
        /^rank [01] \(worker .*\): .*\bcu\w+\(.*\) failed: CU\w+ \(\d+\)/,
      );
      await cuda.stopWorkers();
      cuda.device.clear();
      expect(cuda.device.leaks(), call).to.deep.equal([]);
    }
  });

  it("name the peer that is gone, and leave nothing", async () => {
    const [, second] = await enlist(2, SMALL);
    const { jobId } = await cuda.coordinator.submit({
      ...SPEC,
      mesh: { dataParallel: 2 },
      steps: 1_000_000,
    });
    await cuda.coordinator.until(
      "a step",
      async () => (await cuda.coordinator.get(jobId)).stepsDone > 0,
    );
    await second?.stop(0);
    await cuda.coordinator.until("the job's end or its wait for another worker", async () => {
      const { state, error } = await cuda.coordinator.get(jobId);
      return state !== "JOB_STATE_RUNNING" || error !== null;
    });
    expect(cuda.device.leaks()).to.deep.equal([]);
  });
});
