import { expect } from "chai";
import { planJob } from "../../coordinator/planning/plan-job.ts";
import { FailedPreconditionError } from "../../shared/errors.ts";
import type { JobSpecInput, Recompute } from "../../shared/job/job-spec.ts";
import { requireJobSpec } from "../../shared/job/resolve.ts";
import { caught } from "../support/caught.ts";
import { CoordinatorHarness } from "../support/coordinator-harness.ts";

const spec = (recompute: Recompute): JobSpecInput => ({
  model: { llama: { layers: 4 } },
  mesh: { tensorParallel: 2 },
  data: { batchSize: 8, random: { length: 8, seqLen: 64 } },
  recompute,
  steps: 2,
});
const arena = (recompute: "none" | "block") =>
  planJob(requireJobSpec(spec(recompute)), { dataParallel: 1, tensorParallel: 2 }).program
    .arenaBytes;
const needs = { none: arena("none"), block: arena("block") };
const bytes = (recompute: "none" | "block") => needs[recompute];

describe("coordinator: recompute: auto", function () {
  this.timeout(60_000);
  let coordinator: CoordinatorHarness;
  beforeEach(async () => {
    coordinator = await CoordinatorHarness.start();
  });
  afterEach(() => coordinator.stop());

  /** Runs the job on workers of these memory limits. */
  async function run(limits: readonly number[], recompute: Recompute = "auto") {
    const workers = await coordinator.joinMany(limits.length, (rank) => ({
      memoryLimitBytes: limits[rank] ?? 0,
    }));
    const { jobId } = await coordinator.submit(spec(recompute));
    const { state, notes, ranks } = await coordinator.finished(jobId);
    expect(state).to.equal("JOB_STATE_SUCCEEDED");
    return {
      workers: ranks.map(({ worker }) => worker),
      peak: workers.flatMap(({ assigned }) => assigned.map((a) => a.predictedPeakMemoryBytes)),
      notes: notes.filter((note) => note.includes("recomputed")),
    };
  }

  for (const [what, limits] of [
    ["is no limit", [0, 0]],
    ["is just enough", [bytes("none"), bytes("none")]],
  ] as const) {
    it(`keeps activations where there ${what}`, async () => {
      const { peak, notes } = await run(limits);
      expect(peak).to.deep.equal([bytes("none"), bytes("none")]);
      expect(notes).to.deep.equal([]);
    });
  }

  for (const [what, limits] of [
    ["all workers have a byte too little", [bytes("none") - 1, bytes("none") - 1]],
    ["one of them has", [0, bytes("none") - 1]],
    ["they have just what it takes", [bytes("block"), bytes("block")]],
  ] as const) {
    it(`recomputes activations where ${what}, and says so`, async () => {
      const { peak, notes } = await run(limits);
      expect(peak).to.deep.equal([bytes("block"), bytes("block")]);
      expect(notes).to.have.length(1);
    });
  }

  it("keeps activations on those workers that have the memory for it", async () => {
    const { workers, peak } = await run([bytes("block"), bytes("none"), bytes("none")]);
    expect(workers).to.deep.equal(["w1", "w2"]);
    expect(peak).to.deep.equal([bytes("none"), bytes("none")]);
  });

  it("refuses what does not fit with recompute either, with the bill of what it needs at least", async () => {
    await coordinator.joinMany(2, () => ({ memoryLimitBytes: bytes("block") - 1 }));
    for (const [recompute, needed] of [
      ["none", bytes("none")],
      ["auto", bytes("block")],
    ] as const) {
      const error = await caught(coordinator.submit(spec(recompute)));
      expect(error).to.be.instanceOf(FailedPreconditionError);
      expect(error.message).to.include(`(${needed} bytes: `);
    }
  });
});
