import { expect } from "chai";
import { caught } from "../support/caught.ts";
import { CoordinatorHarness, smallJob } from "../support/coordinator-harness.ts";

const BOTH = ["float32", "bfloat16"];

describe("coordinator: devices of workers", () => {
  let coordinator: CoordinatorHarness;

  beforeEach(async () => {
    coordinator = await CoordinatorHarness.start();
  });

  afterEach(() => coordinator.stop());

  it("predicts of each rank its program and what its own worker's backend takes", async () => {
    const [plain, gpu] = await coordinator.joinMany(2, (rank) => ({
      backend: rank === 0 ? "cpu" : "cuda",
      fingerprint: `kind ${rank}`,
      register: { workspaceBytes: 1000 * rank },
    }));
    const { jobId } = await coordinator.submit(smallJob(1, 2, { allowMixedBackends: true }));
    const job = await coordinator.finished(jobId);
    expect(job.state).to.equal("JOB_STATE_SUCCEEDED");
    const arena = job.ranks[0]?.predictedPeakMemoryBytes ?? 0;
    expect(arena).to.be.above(0);
    expect(
      job.ranks.map(({ workspaceBytes, predictedPeakMemoryBytes }) => [
        workspaceBytes,
        predictedPeakMemoryBytes,
      ]),
    ).to.deep.equal([
      [0, arena],
      [1000, arena + 1000],
    ]);
    expect(
      [plain, gpu].map((worker) => worker?.assigned[0]?.predictedPeakMemoryBytes),
    ).to.deep.equal([arena, arena + 1000]);
  });

  it("refuses at once what no worker holds beside its backend, with the bill", async () => {
    await coordinator.join("w", {
      backend: "cuda",
      memoryLimitBytes: 2 ** 20,
      register: { workspaceBytes: 2 ** 20 - 100 },
    });
    const error = await caught(coordinator.submit(smallJob(1, 1)));
    expect(String(error)).to.match(/workspace of backend cuda 1\.05 MB\) at .*, w, has 1\.05 MB/);
  });

  it("refuses a bf16 job at once where no worker computes so, and says what they do", async () => {
    await coordinator.joinMany(2);
    const error = await caught(coordinator.submit(smallJob(1, 2, { precision: "bf16" })));
    expect(error).to.include({ code: "FAILED_PRECONDITION" });
    expect(String(error)).to.contain(
      "precision bf16: no registered worker computes in it; cpu (w0, w1) computes in fp32 only; start workers with --backend cuda, or set precision to fp32",
    );
  });

  it("queues a bf16 job until enough workers compute so, and puts it on those", async () => {
    await coordinator.joinMany(2);
    await coordinator.join("half0", { register: { precisions: BOTH } });
    const { jobId } = await coordinator.submit(smallJob(1, 2, { precision: "bf16" }));
    expect((await coordinator.get(jobId)).reason).to.equal(
      "needs 2 workers that compute in bf16, 1 is free (3 registered); cpu (w0, w1) computes in fp32 only",
    );
    await coordinator.join("half1", { register: { precisions: BOTH } });
    const job = await coordinator.finished(jobId);
    expect(job.ranks.map(({ worker }) => worker)).to.deep.equal(["half0", "half1"]);
  });

  it("queues a bf16 job while nobody is registered", async () => {
    const { jobId } = await coordinator.submit(smallJob(1, 1, { precision: "bf16" }));
    expect((await coordinator.get(jobId)).reason).to.equal("needs 1 worker, none is registered");
  });

  it("takes losses of unlike backends that differ by rounding, not those of like ones", async () => {
    const joining = (name: string, fingerprint: string) =>
      coordinator.join(name, {
        fingerprint,
        onStep: (step) => ({ loss: name === "a" ? 1 : 1 + 1e-6 * step }),
      });
    await joining("a", "one");
    await joining("b", "other");
    const mixed = await coordinator.submit(smallJob(1, 2, { allowMixedBackends: true }));
    const done = await coordinator.finished(mixed.jobId);
    expect([done.state, done.loss]).to.deep.equal(["JOB_STATE_SUCCEEDED", [1, 1, 1]]);
    await joining("c", "one");
    const alike = await coordinator.submit(smallJob(1, 2, { allowMixedBackends: true }));
    expect((await coordinator.finished(alike.jobId)).error).to.deep.include({
      code: "DATA_LOSS",
      step: 1,
    });
  });

  it("shows a worker whose device is lost as lost, with the reason, and its job as failed by it", async () => {
    await coordinator.joinMany(2, (rank) => ({
      onStep: (step, worker) => {
        if (step === 0 || rank === 0) return step === 0 ? undefined : "hang";
        const jobId = worker.assigned[0]?.jobId;
        const message = "cuLaunchKernel(0x1) failed: CUDA_ERROR_ILLEGAL_ADDRESS (700)";
        worker.send({
          failed: { jobId, generation: 1, rank, code: "UNAVAILABLE", message, step },
        });
        worker.send({ leaving: { reason: `device lost: ${message}` } });
        return "hang";
      },
    }));
    const { jobId } = await coordinator.submit(smallJob(1, 2));
    const { error } = await coordinator.finished(jobId);
    expect(error).to.deep.include({
      code: "UNAVAILABLE",
      message: "rank 1 (worker w1): cuLaunchKernel(0x1) failed: CUDA_ERROR_ILLEGAL_ADDRESS (700)",
      rank: 1,
      worker: "w1",
      step: 1,
    });
    const listed = await coordinator.listWorkers();
    expect(
      listed.map(({ name, state, lostReason }) => ({ name, state, lostReason })),
    ).to.deep.equal([
      { name: "w0", state: "idle", lostReason: "" },
      {
        name: "w1",
        state: "lost",
        lostReason: "device lost: cuLaunchKernel(0x1) failed: CUDA_ERROR_ILLEGAL_ADDRESS (700)",
      },
    ]);
    const next = await coordinator.submit(smallJob(1, 1, { steps: 1 }));
    expect((await coordinator.finished(next.jobId)).ranks[0]?.worker).to.equal("w0");
  });

  it("lists what workers compute in, what their backends take, and why they are these", async () => {
    await coordinator.join("old");
    await coordinator.join("w", {
      register: { precisions: BOTH, workspaceBytes: 77, backendReason: "auto:\nthe fastest" },
    });
    const listed = await coordinator.listWorkers();
    expect(
      listed.map((w) => [w.name, w.precisions, w.workspaceBytes, w.backendReason]),
    ).to.deep.equal([
      ["old", ["float32"], 0, ""],
      ["w", BOTH, 77, "auto: the fastest"],
    ]);
  });

  it("refuses a worker that computes in nothing known", async () => {
    const error = await caught(coordinator.join("w", { register: { precisions: ["float4"] } }));
    expect(String(error)).to.contain(
      "precisions: has none of float32, bfloat16; a worker computes in one of them at least",
    );
  });
});
