import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect } from "chai";
import type { JobSpecInput } from "../../shared/job/job-spec.ts";
import { startWorker, type WorkerHandle } from "../../worker/worker-daemon.ts";
import { CoordinatorHarness } from "../support/coordinator-harness.ts";
import { testLogger } from "../support/worker-harness.ts";

/** The loss of a step and that of an evaluation are two programs: fused otherwise, they may round otherwise. */
const TOLERANCE = 1e-6;

const MODEL = { dim: 16, layers: 2, heads: 4, kvHeads: 2, hidden: 24, vocab: 120 } as const;

/** One batch is all of the data: each step trains on what the evaluation before it saw. */
const BATCH = 4;
const RANDOM = { random: { length: BATCH, seed: 3, seqLen: 8 } };

const language = (more: Partial<JobSpecInput>): JobSpecInput => ({
  model: { llama: MODEL },
  loss: "cross_entropy",
  data: { batchSize: BATCH, ...RANDOM },
  eval: { every: 1, data: RANDOM },
  steps: 4,
  ...more,
});

const CASES: readonly (readonly [what: string, ranks: number, spec: JobSpecInput])[] = [
  ["a language model on 1 rank", 1, language({})],
  ["a language model at 1 x 2", 2, language({ mesh: { tensorParallel: 2 } })],
  [
    "a language model at 2 x 2, fully sharded, in 2 microbatches",
    4,
    language({
      mesh: { dataParallel: 2, tensorParallel: 2 },
      dataParallelSharding: "full",
      gradientAccumulation: 2,
      clipGradNorm: 0.5,
    }),
  ],
  [
    "a language model at 1 x 2 with recompute",
    2,
    language({ mesh: { tensorParallel: 2 }, recompute: "block" }),
  ],
  [
    "a feed-forward block at 2 x 1 with state sharded",
    2,
    {
      model: { feedForward: { dim: 6, hidden: 10 } },
      mesh: { dataParallel: 2 },
      dataParallelSharding: "optimizer",
      loss: "mse",
      data: { batchSize: BATCH, random: { length: BATCH, seed: 3 } },
      eval: { every: 1, data: { random: { length: BATCH, seed: 3 } } },
      steps: 4,
    },
  ],
];

describe("evaluation on real ranks", function () {
  this.timeout(60_000);
  let coordinator: CoordinatorHarness;
  let workers: WorkerHandle[] = [];

  beforeEach(async () => {
    coordinator = await CoordinatorHarness.start({
      limits: { leaseMs: 30_000, releaseMs: 10_000 },
    });
  });

  afterEach(async () => {
    await Promise.all(workers.splice(0).map((worker) => worker.stop(1_000)));
    workers = [];
    await coordinator.stop();
  });

  async function run(ranks: number, spec: JobSpecInput) {
    for (let rank = 0; rank < ranks; rank++) {
      const worker = await startWorker({
        coordinator: coordinator.handle.grpcAddress,
        name: `r${rank}`,
        backend: "reference",
        logger: testLogger(),
      });
      worker.done.catch(() => undefined);
      workers.push(worker);
    }
    const { jobId } = await coordinator.submit(spec);
    const job = await coordinator.finished(jobId);
    expect(job.state, job.error?.message).to.equal("JOB_STATE_SUCCEEDED");
    return job;
  }

  for (const [what, ranks, spec] of CASES) {
    it(`gives ${what} the loss that the next step has on the same rows`, async () => {
      const job = await run(ranks, spec);
      expect(job.evaluations.map(({ step }) => step)).to.deep.equal([1, 2, 3, 4]);
      expect(new Set(job.loss).size).to.equal(4);
      for (const { step, loss } of job.evaluations.slice(0, -1)) {
        const next = job.loss[step] ?? Number.NaN;
        expect(Math.abs(loss - next)).to.be.at.most(TOLERANCE * next);
      }
      for (const rank of job.ranks) {
        expect(rank.peakMemoryBytes).to.equal(rank.predictedPeakMemoryBytes);
      }
    });
  }

  it("changes nothing of the training", async () => {
    const spec = language({
      mesh: { tensorParallel: 2 },
      output: { safetensors: "with.safetensors" },
    });
    const evaluated = await run(2, spec);
    const { eval: _, ...without } = spec;
    const { jobId } = await coordinator.submit({
      ...without,
      output: { safetensors: "without.safetensors" },
    });
    const plain = await coordinator.finished(jobId);
    expect(plain.evaluations).to.deep.equal([]);
    expect(evaluated.loss).to.deep.equal(plain.loss);
    const bytes = (name: string): Promise<Buffer> => readFile(join(coordinator.dir, name));
    expect((await bytes("with.safetensors")).equals(await bytes("without.safetensors"))).to.equal(
      true,
    );
  });

  it("trains on a text and is evaluated on another: what is learned of one shows in the other", async () => {
    await writeFile(join(coordinator.dir, "train.txt"), "abcdefgh".repeat(60));
    await writeFile(join(coordinator.dir, "held.txt"), "cdefghab".repeat(20));
    const job = await run(2, {
      model: { llama: MODEL },
      mesh: { dataParallel: 2 },
      loss: "cross_entropy",
      optimizer: { adamw: { lr: 0.01 } },
      data: { batchSize: BATCH, shuffle: true, text: { path: "train.txt", seqLen: 8 } },
      eval: { every: 15, batches: 2, data: { text: { path: "held.txt", seqLen: 8 } } },
      steps: 30,
    });
    const [first, last] = job.evaluations.map(({ loss }) => loss);
    expect(last).to.be.below(first ?? 0);
    expect(last).to.be.below(1);
    expect(job.loss[0]).to.be.above(4);
  });
});
