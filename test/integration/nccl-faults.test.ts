import { existsSync } from "node:fs";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import type { CoordinatorLimits } from "../../coordinator/limits.ts";
import type { JobSpecInput } from "../../shared/job/job-spec.ts";
import { CliProcess } from "../support/cli.ts";
import { CoordinatorHarness } from "../support/coordinator-harness.ts";
import { lookAlike } from "../support/look-alike.ts";

const SPEC: JobSpecInput = {
  name: "nccl",
  model: { feedForward: { dim: 48, hidden: 80 } },
  loss: "sum",
  data: { batchSize: 6, random: { length: 24, seed: 3 } },
  mesh: { tensorParallel: 2 },
  steps: 4,
};
const ENDLESS: JobSpecInput = { ...SPEC, steps: 1_000_000 };

/** Workers as processes, each with a device of the look-alike, and its NCCL between them. */
describe("cuda ranks that exchange over NCCL", function () {
  this.timeout(90_000);
  let coordinator: CoordinatorHarness;
  let folder: string;
  let workers: CliProcess[];

  beforeEach(async () => {
    lookAlike();
    workers = [];
    folder = await mkdtemp(join(tmpdir(), "rankmesh-nccl-"));
  });

  afterEach(async () => {
    for (const { child } of workers) {
      child.kill("SIGCONT");
      child.kill("SIGKILL");
    }
    await coordinator.stop();
    await rm(folder, { recursive: true, force: true });
  });

  /** @param devices of the workers */
  async function start(
    devices: readonly number[],
    limits: Partial<CoordinatorLimits> = {},
  ): Promise<void> {
    coordinator = await CoordinatorHarness.start({ limits: { leaseMs: 60_000, ...limits } });
    const { grpcAddress } = coordinator.handle;
    workers = devices.map((device, index) => {
      const flags = ["--backend", "cuda", "--device", String(device), "--name", `w${index}`];
      return new CliProcess(["worker", "--coordinator", grpcAddress, ...flags], {
        env: {
          ...lookAlike().envWithNccl,
          RANKMESH_LOOKALIKE_DEVICES: "2",
          RANKMESH_LOOKALIKE_LEAKS: join(folder, `leaks${index}`),
        },
      });
    });
    for (const worker of workers) await worker.waitFor(/registered with the coordinator/, 60_000);
  }

  async function begin(): Promise<string> {
    const { jobId } = await coordinator.submit(ENDLESS);
    await waitFor(async () => (await coordinator.get(jobId)).stepsDone > 1);
    return jobId;
  }

  async function leaksOf(index: number): Promise<string> {
    const worker = workers[index];
    worker?.child.kill("SIGTERM");
    await worker?.ended;
    const path = join(folder, `leaks${index}`);
    return existsSync(path) ? await readFile(path, "utf8") : "";
  }

  it("say so in the job's notes, their logs and metrics, and leave nothing behind", async () => {
    await start([0, 1]);
    const { jobId } = await coordinator.submit(SPEC);
    const job = await coordinator.finished(jobId);
    expect(job.state).to.equal("JOB_STATE_SUCCEEDED");
    expect(job.notes).to.include("collectives run on the ranks' devices, over NCCL 2.99.0");
    for (const rank of job.ranks) expect(rank.collectiveBytes).to.be.above(0);
    for (const { stdout, stderr } of workers)
      expect(stdout + stderr).to.match(/"transport":"NCCL 2\.99\.0"|transport: "NCCL 2\.99\.0"/);
    const [worker] = await coordinator.listWorkers();
    const metrics = await (await fetch(`http://${worker?.httpAddress}/metrics`)).text();
    expect(metrics).to.match(
      /rankmesh_collective_duration_seconds_count\{.*op="allReduce",transport="nccl".*\} [1-9]/,
    );
    expect(metrics).to.not.include('transport="grpc"');
    expect(await Promise.all([leaksOf(0), leaksOf(1)])).to.deep.equal(["", ""]);
  });

  it("take the gRPC ring where they share a device, and say why", async () => {
    await start([0, 0]);
    const { jobId } = await coordinator.submit(SPEC);
    const job = await coordinator.finished(jobId);
    expect(job.state).to.equal("JOB_STATE_SUCCEEDED");
    expect(job.notes.join()).to.match(/over gRPC, not NCCL: ranks 0 and 1 share GPU-/);
    for (const { stdout, stderr } of workers)
      expect(stdout + stderr).to.match(/"transport":"gRPC"|transport: "gRPC"/);
  });

  it("end a job by name within seconds when one is killed in mid-run; the other is free at once", async () => {
    await start([0, 1]);
    const jobId = await begin();
    const beganMs = performance.now();
    workers[1]?.child.kill("SIGKILL");
    const { state, error } = await coordinator.finished(jobId);
    expect(performance.now() - beganMs).to.be.below(15_000);
    expect(state).to.equal("JOB_STATE_FAILED");
    expect(error?.worker).to.equal("w1");
    expect(error?.message).to.include("w1").and.include("was lost");
    await waitFor(async () => {
      const found = await coordinator.listWorkers();
      return found.some(({ name, state: now }) => name === "w0" && now === "idle");
    });
    const again = await coordinator.submit({ ...SPEC, mesh: { tensorParallel: 1 } });
    expect((await coordinator.finished(again.jobId)).state).to.equal("JOB_STATE_SUCCEEDED");
    expect(await leaksOf(0)).to.equal("");
  });

  it("end a job by name when one stops in mid-run for longer than a collective may take", async () => {
    await start([0, 1], { collectiveMs: 1_000 });
    const jobId = await begin();
    workers[0]?.child.kill("SIGSTOP");
    const { state, error } = await coordinator.finished(jobId);
    expect(state).to.equal("JOB_STATE_FAILED");
    expect(error?.code).to.equal("DEADLINE_EXCEEDED");
    expect(error?.worker).to.equal("w0");
    expect(error?.message).to.match(
      /rank 1: allReduce of .* between ranks 0, 1 over NCCL did not end within 1 s/,
    );
    expect(await leaksOf(1)).to.equal("");
  });

  it("free all when a job is cancelled in mid-run, and take the next", async () => {
    await start([0, 1]);
    const jobId = await begin();
    expect((await coordinator.cancel(jobId)).state).to.equal("JOB_STATE_CANCELLED");
    const again = await coordinator.submit(SPEC);
    expect((await coordinator.finished(again.jobId)).state).to.equal("JOB_STATE_SUCCEEDED");
    expect(await Promise.all([leaksOf(0), leaksOf(1)])).to.deep.equal(["", ""]);
  });
});

async function waitFor(holds: () => Promise<boolean>): Promise<void> {
  const endsMs = performance.now() + 30_000;
  while (!(await holds())) {
    if (performance.now() > endsMs) throw new Error("it did not come to be within 30 s");
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}
