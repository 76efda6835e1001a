import { existsSync } from "node:fs";
import { readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import { expect } from "chai";
import { checkHealth } from "../../cli/health.ts";
import type { JobResult } from "../../cli/job-result.ts";
import type { JobSpecInput } from "../../shared/job/job-spec.ts";
import { BACKEND_MODULE } from "../../worker/compute/backend-loader.ts";
import type { WorkerHandle } from "../../worker/worker-daemon.ts";
import { caught } from "../support/caught.ts";
import { jobFolder, runCli } from "../support/cli.ts";
import { CudaRanks } from "../support/cuda-ranks.ts";
import { lookAlike } from "../support/look-alike.ts";

const SPEC: JobSpecInput = {
  name: "faults",
  model: { feedForward: { dim: 48, hidden: 80 } },
  loss: "sum",
  data: { batchSize: 6, random: { length: 24, seed: 3 } },
  steps: 6,
};
const TWO: JobSpecInput = { ...SPEC, mesh: { tensorParallel: 2 } };

/** Places in a job at which the device is lost. */
const TIMES = 12;

const OUT_OF_MEMORY = 2;
const INVALID_VALUE = 1;
const LAUNCH_FAILED = 719;
const LOST = 999;

/** Workers of this process on the look-alike's GPU, whose objects are counted and whose calls fail on demand. */
describe("cuda ranks", function () {
  this.timeout(120_000);
  const cuda = new CudaRanks();

  function join(count: number, first = 0): Promise<WorkerHandle[]> {
    const names = Array.from({ length: count }, (_, i) => `w${first + i}`);
    return cuda.join(names.map((name) => ({ name, backendModule: BACKEND_MODULE })));
  }

  async function train(spec: JobSpecInput) {
    const { jobId } = await cuda.coordinator.submit(spec);
    return await cuda.coordinator.finished(jobId);
  }

  it("give back all that they took after a job, and take the next", async () => {
    await join(2);
    for (let i = 0; i < 2; i++) {
      expect((await train(TWO)).state).to.equal("JOB_STATE_SUCCEEDED");
      expect(cuda.device.leaks()).to.deep.equal([]);
    }
  });

  it("give back all that they took after a job that was cancelled in mid-run", async () => {
    await join(2);
    const { jobId } = await cuda.coordinator.submit({ ...TWO, steps: 1_000_000 });
    await cuda.coordinator.until(
      "a step",
      async () => (await cuda.coordinator.get(jobId)).stepsDone > 0,
    );
    expect((await cuda.coordinator.cancel(jobId)).state).to.equal("JOB_STATE_CANCELLED");
    expect(cuda.device.leaks()).to.deep.equal([]);
    expect((await train(TWO)).state).to.equal("JOB_STATE_SUCCEEDED");
  });

  for (const [call, nths] of [
    ["cuMemAlloc_v2", [1, 2, 3, 4]],
    ["cuMemHostAlloc", [1, 2]],
  ] as const) {
    for (const nth of nths) {
      it(`fail by name when ${call} number ${nth} finds no memory, give back the rest, and take the next job`, async () => {
        await join(2);
        cuda.device.fault(call, nth, OUT_OF_MEMORY);
        const { error } = await train(TWO);
        expect(error?.code).to.equal("RESOURCE_EXHAUSTED");
        expect(error?.message).to.match(
          new RegExp(
            `^rank [01] \\(worker w[01]\\): ${call}\\(.*\\) failed: CUDA_ERROR_OUT_OF_MEMORY \\(2\\); free memory`,
          ),
        );
        expect(error?.worker).to.equal(`w${error?.rank}`);
        expect(cuda.device.leaks()).to.deep.equal([]);
        expect((await train(TWO)).state).to.equal("JOB_STATE_SUCCEEDED");
      });
    }
  }

  it("fail by name when a call is refused, and take the next job: the device is none the worse", async () => {
    await join(1);
    cuda.device.fault("cuLaunchKernel", 5, INVALID_VALUE);
    const { error } = await train(SPEC);
    expect(error?.message).to.match(/cuLaunchKernel\(.*\) failed: CUDA_ERROR_INVALID_VALUE \(1\)$/);
    expect((await train(SPEC)).state).to.equal("JOB_STATE_SUCCEEDED");
  });

  for (const [what, call, nth, status, name] of [
    ["a kernel fails", "cuLaunchKernel", 5, LAUNCH_FAILED, "CUDA_ERROR_LAUNCH_FAILED"],
    [
      "a recording does not become a graph",
      "cuGraphInstantiateWithFlags",
      1,
      LAUNCH_FAILED,
      "CUDA_ERROR_LAUNCH_FAILED",
    ],
    ["the device is lost", "cuStreamSynchronize", 3, LOST, "CUDA_ERROR_UNKNOWN"],
  ] as const) {
    it(`end when ${what}: the job fails by name, the worker is lost and unhealthy, the other goes on`, async () => {
      const handles = await join(2);
      cuda.device.fault(call, nth, status);
      const { error } = await train(SPEC);
      expect(error).to.include({ code: "UNAVAILABLE", rank: 0, worker: "w0" });
      expect(error?.message).to.match(
        new RegExp(`^rank 0 \\(worker w0\\): .*${call}\\(.*\\) failed: ${name} \\(${status}\\)`),
      );
      await cuda.coordinator.until("its worker lost", async () => {
        const [worker] = await cuda.coordinator.listWorkers();
        return worker?.state === "lost" && worker.lostReason.includes(name);
      });
      expect(await checkHealth(handles[0]?.grpcAddress ?? "")).to.equal("NOT_SERVING");
      cuda.device.clear();
      expect((await train(SPEC)).ranks[0]?.worker).to.equal("w1");
    });
  }

  for (const call of ["cuGraphExecDestroy", "cuMemFree_v2", "cuModuleUnload"]) {
    it(`are lost and unhealthy before the next job when the device is lost at ${call}, after the last one`, async () => {
      const [handle] = await join(1);
      cuda.device.fault(call, 1, LAUNCH_FAILED);
      expect((await train(SPEC)).state).to.equal("JOB_STATE_SUCCEEDED");
      await cuda.coordinator.until("its worker lost", async () => {
        const [worker] = await cuda.coordinator.listWorkers();
        return worker?.state === "lost";
      });
      const [worker] = await cuda.coordinator.listWorkers();
      expect(worker?.lostReason).to.match(
        /^device lost: cu\w+\(.*\) failed: CUDA_ERROR_LAUNCH_FAILED \(719\)/,
      );
      expect(await checkHealth(handle?.grpcAddress ?? "")).to.equal("NOT_SERVING");
    });
  }

  it("end by name when a well device takes nothing back: the process frees what is left", async () => {
    const [handle] = await join(1);
    const ended = caught(handle?.done ?? Promise.resolve());
    cuda.device.fault("cuEventDestroy_v2", 1, INVALID_VALUE);
    expect((await train(SPEC)).state).to.equal("JOB_STATE_SUCCEEDED");
    const refused = /: cuEventDestroy_v2\(.*\) failed: CUDA_ERROR_INVALID_VALUE \(1\)$/;
    expect(String(await ended)).to.match(refused);
    await cuda.coordinator.until("its worker lost", async () => {
      const [worker] = await cuda.coordinator.listWorkers();
      return worker?.state === "lost" && refused.test(worker.lostReason);
    });
  });

  it("end by the call that failed, wherever in a job the device is lost", async () => {
    await join(1);
    const before = cuda.device.calls("*");
    expect((await train(SPEC)).state).to.equal("JOB_STATE_SUCCEEDED");
    const calls = cuda.device.calls("*") - before;
    await cuda.stopWorkers();
    const failures: string[] = [];
    for (let i = 0; i < TIMES; i++) {
      await join(1, i + 1);
      cuda.device.fault("*", 1 + Math.floor((i * calls) / TIMES), LOST);
      const { state, error } = await train(SPEC);
      await cuda.stopWorkers();
      cuda.device.clear();
      expect(cuda.device.leaks(), error?.message).to.deep.equal([]);
      if (error === null) {
        // Lost as it was given back, when the job had all that it needed.
        expect(state).to.equal("JOB_STATE_SUCCEEDED");
        continue;
      }
      expect(error.code, error.message).to.equal("UNAVAILABLE");
      expect(error.message).to.match(
        /^rank 0 \(worker w\d+\): .*\bcu\w+\(.*\) failed: CU\w+ \(\d+\)/,
      );
      failures.push(error.message);
    }
    expect(failures.length).to.be.at.least(TIMES / 2);
  });
});

describe("rankmesh run --backend cuda under faults of the environment", function () {
  this.timeout(120_000);
  let folder: Awaited<ReturnType<typeof jobFolder>>;

  before(async () => {
    folder = await jobFolder("feedforward-sum");
  });

  after(() => folder.dispose());

  for (const [what, fault, code, message] of [
    ["no fault", "", undefined, undefined],
    [
      "no memory at the second allocation",
      "cuMemAlloc_v2:2=2",
      "RESOURCE_EXHAUSTED",
      /cuMemAlloc_v2\(.*CUDA_ERROR_OUT_OF_MEMORY \(2\)/,
    ],
    [
      "a launch failure",
      "cuLaunchKernel:7=719",
      "UNAVAILABLE",
      /cuLaunchKernel\(.*CUDA_ERROR_LAUNCH_FAILED \(719\)/,
    ],
    ["a lost device", "*:90=lost", "UNAVAILABLE", /: cu\w+\(.*CUDA_ERROR_UNKNOWN \(999\)/],
  ] as const) {
    it(`writes what happened after ${what}, and leaves nothing on the device`, async () => {
      const { env } = lookAlike();
      const file = await folder.write("job.yaml", SPEC);
      const json = join(folder.path, "out.json");
      const leaks = join(folder.path, "leaks");
      await rm(leaks, { force: true });
      const result = await runCli(["run", file, "--backend", "cuda", "--json", json], {
        env: { ...env, RANKMESH_LOOKALIKE_FAULTS: fault, RANKMESH_LOOKALIKE_LEAKS: leaks },
        timeoutMs: 100_000,
      });
      expect(result.code, result.stderr).to.equal(code === undefined ? 0 : 1);
      const { error, state } = JSON.parse(await readFile(json, "utf8")) as JobResult;
      expect(state).to.equal(code === undefined ? "SUCCEEDED" : "FAILED");
      expect(error?.code).to.equal(code);
      if (message !== undefined) {
        expect(error?.message).to.match(/^(step \d+: )?rank 0 \(worker worker-0\): /);
        expect(error?.message).to.match(message);
        expect(error?.rank).to.equal(0);
      }
      expect(existsSync(leaks) ? await readFile(leaks, "utf8") : "").to.equal("");
    });
  }
});
