import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { expect } from "chai";
import type { JobResult } from "../../cli/job-result.ts";
import type { JobSpecInput } from "../../shared/job/job-spec.ts";
import type { Job__Output } from "../../shared/rpc/gen/rankmesh/v1/Job.ts";
import { BACKEND_MODULE } from "../../worker/compute/backend-loader.ts";
import { jobFolder, runCli } from "../support/cli.ts";
import { CoordinatorHarness } from "../support/coordinator-harness.ts";
import { lookAlike } from "../support/look-alike.ts";
import { expectClose } from "../support/reference-run.ts";
import { WorkerHarness } from "../support/worker-harness.ts";

/** Hidden features that three ranks divide. */
const FEED_FORWARD: JobSpecInput = {
  name: "mixed",
  model: { feedForward: { dim: 48, hidden: 120 } },
  loss: "sum",
  reportGradNorm: true,
  clipGradNorm: 1,
  data: { batchSize: 6, random: { length: 24, seed: 3 } },
  steps: 8,
};
const LLAMA: JobSpecInput = {
  ...FEED_FORWARD,
  model: { llama: { dim: 48, layers: 2, heads: 6, kvHeads: 3, hidden: 120, vocab: 96 } },
  loss: "cross_entropy",
  data: { batchSize: 6, random: { length: 24, seed: 3, seqLen: 12 } },
};

describe("ranks on unlike backends", function () {
  this.timeout(120_000);
  const workers = new WorkerHarness();
  let coordinator: CoordinatorHarness;

  beforeEach(async () => {
    // Four backends take turns at two cores: a step of one is far behind another's.
    coordinator = await CoordinatorHarness.start({ limits: { leaseMs: 60_000 } });
  });

  afterEach(async () => {
    await workers.stop();
    await coordinator.stop();
  });

  async function join(backends: readonly string[]): Promise<void> {
    for (const [rank, backend] of backends.entries()) {
      const options = { name: `w${rank}`, backend, backendModule: BACKEND_MODULE, threads: 1 };
      await workers.worker(coordinator.handle.grpcAddress, options);
    }
    await coordinator.until(
      `${backends.length} workers`,
      async () => (await coordinator.listWorkers()).length === backends.length,
    );
  }

  async function train(spec: JobSpecInput): Promise<Job__Output> {
    const { jobId } = await coordinator.submit(spec);
    const job = await coordinator.finished(jobId);
    expect(job.state, job.error?.message).to.equal("JOB_STATE_SUCCEEDED");
    for (const rank of job.ranks) {
      expect(rank.peakMemoryBytes, rank.backend).to.equal(rank.predictedPeakMemoryBytes);
    }
    return job;
  }

  for (const backends of [
    ["cpu", "reference", "gpujs"],
    ["cpu", "cuda", "gpujs"],
  ]) {
    for (const [what, spec, dataParallel, tensorParallel] of [
      ["a feed-forward layer", FEED_FORWARD, 1, 3],
      ["a feed-forward layer", FEED_FORWARD, 3, 1],
      ["a Llama", LLAMA, 1, 3],
      ["a Llama", LLAMA, 3, 1],
    ] as const) {
      it(`${backends.join(", ")} train ${what} at ${dataParallel} x ${tensorParallel} as one rank does`, async () => {
        if (backends.includes("cuda")) lookAlike();
        await join(backends);
        const mesh = { dataParallel, tensorParallel };
        const mixed = await train({ ...spec, mesh, allowMixedBackends: true });
        expect(mixed.ranks.map(({ backend }) => backend)).to.deep.equal(backends);
        expect(mixed.notes.join("\n")).to.match(/^mixed backends: /m);
        const alone = await train(spec);
        expectClose(mixed.loss, alone.loss, "loss");
        expectClose(mixed.gradNorm, alone.gradNorm, "gradient norm");
      });
    }
  }

  it("wait for workers of one kind where the job does not allow them", async () => {
    await join(["cpu", "reference"]);
    const { jobId } = await coordinator.submit({ ...FEED_FORWARD, mesh: { tensorParallel: 2 } });
    expect((await coordinator.get(jobId)).reason).to.match(
      /^needs 2 workers of one kind, free are .*; allowMixedBackends takes any$/,
    );
  });
});

describe("rankmesh run --backend with a list", function () {
  this.timeout(120_000);
  let folder: Awaited<ReturnType<typeof jobFolder>>;

  before(async () => {
    folder = await jobFolder("feedforward-sum");
  });

  after(() => folder.dispose());

  it("gives the ranks their backends in turn", async () => {
    const mesh = { tensorParallel: 3 };
    const file = await folder.write("job.yaml", {
      ...FEED_FORWARD,
      mesh,
      allowMixedBackends: true,
    });
    const json = join(folder.path, "out.json");
    const args = ["run", file, "--backend", "cpu,reference", "--json", json];
    const { code, stderr } = await runCli(args, { timeoutMs: 100_000 });
    expect(code, stderr).to.equal(0);
    const { ranks } = JSON.parse(await readFile(json, "utf8")) as JobResult;
    expect(ranks.map(({ backend }) => backend)).to.deep.equal(["cpu", "reference", "cpu"]);
  });

  it("is refused for a job that does not allow them, by its field", async () => {
    const file = await folder.write("strict.yaml", {
      ...FEED_FORWARD,
      mesh: { tensorParallel: 3 },
    });
    const { code, stderr } = await runCli(["run", file, "--backend", "cpu,reference,gpujs"]);
    expect(code).to.equal(2);
    expect(stderr).to.contain(
      "allowMixedBackends: is false, and --backend names cpu, reference, gpujs; set it to true, or name one backend",
    );
  });

  it("is refused where it names more backends than there are ranks, or one that is none", async () => {
    const spec = { ...FEED_FORWARD, allowMixedBackends: true };
    const file = await folder.write("one.yaml", spec);
    const many = await runCli(["run", file, "--backend", "cpu,reference"]);
    expect([many.code, many.stderr]).to.deep.equal([
      2,
      "rankmesh: --backend names 2 backends for 1 rank; name one for all, or one for each\n",
    ]);
    const none = await runCli(["run", file, "--backend", "cpu,cudda"]);
    expect(none.code).to.equal(2);
    expect(none.stderr).to.contain("Did you mean cuda?");
  });
});
