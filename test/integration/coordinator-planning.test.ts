import { expect } from "chai";
import { RankmeshClient } from "../../client/index.ts";
import type { PlanOptions } from "../../coordinator/planner.ts";
import { planJob } from "../../coordinator/planning/plan-job.ts";
import {
  AlreadyExistsError,
  DeadlineExceededError,
  FailedPreconditionError,
  UnavailableError,
} from "../../shared/errors.ts";
import type { JobSpecInput } from "../../shared/job/job-spec.ts";
import { jobSpecToProto } from "../../shared/job/proto.ts";
import { requireJobSpec } from "../../shared/job/resolve.ts";
import type { Job__Output } from "../../shared/rpc/gen/rankmesh/v1/Job.ts";
import { caught } from "../support/caught.ts";
import { CoordinatorHarness, smallJob } from "../support/coordinator-harness.ts";
import { type GatedPlan, GatedPlanning } from "../support/gated-planning.ts";

/** About a second of compiling. */
const DEEP: JobSpecInput = {
  name: "deep",
  model: { llama: { dim: 16, hidden: 32, layers: 80, heads: 4, kvHeads: 4, vocab: 32 } },
  mesh: { dataParallel: 4, tensorParallel: 4 },
  loss: "cross_entropy",
  data: { batchSize: 4, random: { seqLen: 8 } },
  steps: 1,
};

const STEPS = 1_000_000;

/** Rows that three ranks share. */
const THREE_WAYS = { batchSize: 6, random: { length: 12 } };

/** A rank holds it with recompute alone, where its worker has a byte less than this. */
const TIGHT: JobSpecInput = {
  name: "tight",
  model: { llama: { dim: 16, hidden: 32, layers: 2, heads: 4, kvHeads: 2, vocab: 32 } },
  mesh: { tensorParallel: 2 },
  loss: "cross_entropy",
  data: { batchSize: 8, random: { length: 8, seqLen: 64 } },
  recompute: "auto",
  steps: 2,
};
const KEPT_BYTES = planJob(requireJobSpec(TIGHT), { dataParallel: 1, tensorParallel: 2 }).program
  .arenaBytes;

describe("coordinator: a large model is planned", function () {
  this.timeout(60_000);
  let coordinator: CoordinatorHarness;

  before(async () => {
    coordinator = await CoordinatorHarness.start();
  });

  after(async () => {
    await coordinator.stop();
  });

  it("while calls are answered, heartbeats read and a job's steps done", async () => {
    const workers = await coordinator.joinMany(2, () => ({
      onStep: async () => {
        await new Promise((resolve) => setTimeout(resolve, 5));
        return undefined;
      },
    }));
    const running = await coordinator.submit(smallJob(1, 2, { steps: STEPS }));
    await coordinator.until("the job runs", () => (workers[0]?.batches.length ?? 0) > 3);
    const stepsBefore = (await coordinator.get(running.jobId)).stepsDone;

    let planned = false;
    const asked = coordinator.submit(DEEP).finally(() => {
      planned = true;
    });
    let numAnswers = 0;
    while (!planned) {
      const { jobs } = await coordinator.list();
      expect(jobs.map((job) => job.jobId)).to.include(running.jobId);
      const health = await fetch(`http://${coordinator.handle.httpAddress}/healthz`);
      expect(await health.text()).to.equal("ok\n");
      numAnswers += 1;
    }
    const steps = (await coordinator.get(running.jobId)).stepsDone - stepsBefore;
    // Held up, the coordinator would answer once and read one step.
    expect(numAnswers).to.be.greaterThan(5);
    expect(steps).to.be.greaterThan(5);
    expect((await coordinator.listWorkers()).map(({ state }) => state)).to.deep.equal([
      "busy",
      "busy",
    ]);
    expect((await asked).reason).to.equal("needs 16 workers, none is free (2 registered)");
    await coordinator.cancel(running.jobId);
  });

  it("for many ranks, and its report of many MB comes whole", async () => {
    const client = new RankmeshClient({ address: coordinator.handle.grpcAddress });
    try {
      const { report, text } = await client.plan({
        ...DEEP,
        model: { llama: { dim: 16, hidden: 32, layers: 24, heads: 8, kvHeads: 8, vocab: 32 } },
        mesh: { dataParallel: 8, tensorParallel: 8 },
        data: { batchSize: 8, random: { seqLen: 8 } },
      });
      expect(JSON.stringify(report).length).to.be.above(4 << 20);
      expect(text).to.match(/^deep: [\d,]+ parameters on 64 ranks/);
    } finally {
      client.close();
    }
  });

  it("and its submission ends when the coordinator stops", async () => {
    const stopped = await CoordinatorHarness.start();
    const submission = caught(stopped.submit(DEEP));
    await stopped.list();
    const begin = performance.now();
    await stopped.handle.stop(10_000);
    expect(performance.now() - begin).to.be.lessThan(9_000);
    expect(await submission).to.be.instanceOf(UnavailableError);
    await stopped.stop();
  });
});

describe("coordinator: what happens while a plan is made", function () {
  this.timeout(20_000);
  let coordinator: CoordinatorHarness;
  let planning: GatedPlanning;

  /** @param isGated which plans a test allows: by default those that the scheduler asks for */
  async function start(
    isGated = ({ urgent }: PlanOptions) => urgent === true,
    limits = {},
  ): Promise<void> {
    planning = new GatedPlanning(isGated);
    coordinator = await CoordinatorHarness.start({ planning, limits });
  }

  afterEach(async () => {
    await coordinator.stop();
    expect(planning.isClosed).to.equal(true);
  });

  /** The one plan that is open, once it is asked for. */
  async function asked(name: string, sizes: string): Promise<GatedPlan> {
    await coordinator.until(`a plan of ${name} for ${sizes}, not ${shown()}`, () =>
      planning.open.some((open) => open.name === name && open.sizes === sizes),
    );
    expect(planning.open).to.have.length(1);
    const [open] = planning.open;
    if (open === undefined) throw new Error("none is open");
    return open;
  }

  function shown(): string {
    return planning.open.map(({ name, sizes }) => `${name} for ${sizes}`).join(", ");
  }

  async function reason(jobId: string, wanted: string): Promise<void> {
    let job: Job__Output | undefined;
    await coordinator.until(`${jobId} says: ${wanted}`, async () => {
      job = await coordinator.get(jobId);
      return job.reason === wanted;
    });
    expect(job?.state).to.equal("JOB_STATE_QUEUED");
  }

  it("a job that is submitted is planned for the workers there are before it is accepted", async () => {
    await start();
    await coordinator.joinMany(2);
    const submitted = coordinator.submit(smallJob(1, "auto", { name: "a" }));
    const plan = await asked("a", "1 x 2");
    expect((await coordinator.list()).jobs).to.deep.equal([]);
    plan.allow();
    const { jobId } = await submitted;
    expect(await coordinator.finished(jobId)).to.deep.include({
      state: "JOB_STATE_SUCCEEDED",
      tensorParallel: 2,
    });
    expect(assignments()).to.deep.equal([1, 1]);
  });

  it("a submission of the same id waits for the first and is the same job", async () => {
    await start(() => true);
    const submitted = [1, 2].map(() =>
      coordinator.submit(smallJob(1, 1, { name: "twice" }), { jobId: "same" }),
    );
    (await asked("twice", "1 x 1")).allow();
    const jobs = await Promise.all(submitted);
    expect(jobs.map(({ jobId }) => jobId)).to.deep.equal(["same", "same"]);
    expect((await coordinator.list()).jobs).to.have.length(1);
    expect(planning.open).to.deep.equal([]);
  });

  it("a submission that is repeated is not planned again: it may have to wait, and the job is there", async () => {
    await start(({ urgent }) => urgent !== true);
    const spec = smallJob(1, 1, { name: "first" });
    const first = coordinator.submit(spec, { jobId: "same" });
    (await asked("first", "1 x 1")).allow();
    await first;
    expect((await coordinator.submit(spec, { jobId: "same" })).jobId).to.equal("same");
    const error = await caught(coordinator.submit({ ...spec, name: "other" }, { jobId: "same" }));
    expect(error).to.be.instanceOf(AlreadyExistsError);
    expect(planning.open).to.deep.equal([]);
  });

  it("a submission whose caller has gone takes its plan back", async () => {
    await start(() => true);
    const call = coordinator.rpc.submitJob({ spec: jobSpecToProto(smallJob(1, 1)) }, () => {});
    const { signal, allow } = await asked("small", "1 x 1");
    expect(signal?.aborted).to.equal(false);
    call.cancel();
    await coordinator.until("the coordinator hears of it", () => signal?.aborted === true);
    allow();
  });

  for (const [when, isGated] of [
    ["it is checked", ({ urgent }: PlanOptions) => urgent !== true],
    ["the workers there are decide over it", ({ urgent }: PlanOptions) => urgent === true],
  ] as const) {
    it(`a submission whose caller leaves while ${when} is not accepted when the plan is there`, async () => {
      await start(isGated);
      await coordinator.joinMany(2);
      const spec = jobSpecToProto(smallJob(1, "auto", { name: "left" }));
      const call = coordinator.rpc.submitJob({ spec, jobId: "same" }, () => {});
      const sizes = when === "it is checked" ? "1 x 1" : "1 x 2";
      const { signal, allow } = await asked("left", sizes);
      call.cancel();
      await coordinator.until("the coordinator hears of it", () => signal?.aborted === true);
      allow();
      // One of the same id comes after it, whatever became of it.
      const other = coordinator.submit(smallJob(1, "auto", { name: "other" }), { jobId: "same" });
      (await asked("other", sizes)).allow();
      expect((await coordinator.finished((await other).jobId)).name).to.equal("other");
      expect((await coordinator.list()).jobs).to.have.length(1);
      expect(assignments()).to.deep.equal([1, 1]);
    });
  }

  it("a plan that fails is the submission's error", async () => {
    await start();
    await coordinator.joinMany(2);
    const submitted = caught(coordinator.submit(smallJob(1, "auto", { name: "a" })));
    (await asked("a", "1 x 2")).fail(new DeadlineExceededError("planning took more than 1 s"));
    const error = await submitted;
    expect(error).to.be.instanceOf(DeadlineExceededError);
    expect(error.message).to.equal("planning took more than 1 s");
    expect((await coordinator.list()).jobs).to.deep.equal([]);
  });

  it("a stop ends submissions and plans", async () => {
    await start();
    await coordinator.joinMany(2);
    const submitted = caught(coordinator.submit(smallJob(1, "auto", { name: "a" })));
    const { signal } = await asked("a", "1 x 2");
    await coordinator.handle.stop(5_000);
    expect((await submitted).message).to.match(/shutting down|stopped/);
    expect(signal?.aborted).to.equal(true);
    expect(assignments()).to.deep.equal([0, 0]);
  });

  describe("for a job in the queue that is to start", () => {
    /** A job that two workers hold only with recompute: that plan is made when they are there. */
    async function queued(): Promise<{ jobId: string; plan: GatedPlan }> {
      const { jobId } = await coordinator.submit(TIGHT, { jobId: "tight" });
      await coordinator.joinMany(2, () => ({ memoryLimitBytes: KEPT_BYTES - 1 }));
      return { jobId, plan: await asked("tight", "1 x 2") };
    }

    it("it says so, and starts once", async () => {
      await start();
      const { jobId, plan } = await queued();
      await reason(jobId, "its plan for dataParallel 1 x tensorParallel 2 is being made");
      plan.allow();
      expect((await coordinator.finished(jobId)).state).to.equal("JOB_STATE_SUCCEEDED");
      expect(assignments()).to.deep.equal([1, 1]);
    });

    it("it can be cancelled: it ends at once, and its plan starts nothing", async () => {
      await start();
      const { jobId, plan } = await queued();
      expect((await coordinator.cancel(jobId)).state).to.equal("JOB_STATE_CANCELLED");
      expect(plan.signal?.aborted).to.equal(true);
      plan.allow();
      const { jobId: next } = await coordinator.submit(smallJob(1, 2));
      expect((await coordinator.finished(next)).state).to.equal("JOB_STATE_SUCCEEDED");
      expect(assignments()).to.deep.equal([1, 1]);
    });

    it("it waits for another worker when one is lost meanwhile", async () => {
      await start();
      const { jobId, plan } = await queued();
      await coordinator.workers[1]?.leave();
      await reason(jobId, "needs 2 workers, 1 is free (1 registered)");
      plan.allow();
      await coordinator.join("w2", { memoryLimitBytes: KEPT_BYTES - 1 });
      expect((await coordinator.finished(jobId)).state).to.equal("JOB_STATE_SUCCEEDED");
      expect(assignments()).to.deep.equal([1, 0, 1]);
    });

    it("a job before it may take the workers", async () => {
      await start();
      const first = smallJob(3, 1, { name: "first", data: THREE_WAYS });
      const { jobId: before } = await coordinator.submit(first);
      const { jobId, plan } = await queued();
      await coordinator.join("w2", {
        onStep: (_, { assigned }) => (assigned.length === 1 ? "hang" : undefined),
      });
      await coordinator.until("the first has started", async () => {
        return (await coordinator.get(before)).state === "JOB_STATE_RUNNING";
      });
      plan.allow();
      await reason(jobId, "needs 2 workers, none is free (3 registered)");
      await coordinator.cancel(before);
      expect((await coordinator.finished(jobId)).state).to.equal("JOB_STATE_SUCCEEDED");
      expect(planning.open).to.deep.equal([]);
    });

    it("it fails with what its plan failed with, and the next one starts", async () => {
      await start();
      const { jobId, plan } = await queued();
      const { jobId: next } = await coordinator.submit(smallJob(1, 1, { name: "next" }));
      await reason(next, "waits for the plan of job tight, which came first");
      plan.fail(new DeadlineExceededError("planning took more than 1 s"));
      const { state, error } = await coordinator.finished(jobId);
      expect(state).to.equal("JOB_STATE_FAILED");
      expect(error).to.deep.include({
        code: "DEADLINE_EXCEEDED",
        message: "planning took more than 1 s",
      });
      expect((await coordinator.finished(next)).state).to.equal("JOB_STATE_SUCCEEDED");
    });

    it("a stop cancels it", async () => {
      await start();
      const { jobId } = await queued();
      const states: string[] = [];
      const read = (async () => {
        for await (const { state } of coordinator.watch(jobId)) states.push(state?.state ?? "");
      })();
      await coordinator.until("its first event is read", () => states.length > 0);
      await coordinator.handle.stop(5_000);
      await read;
      expect(states.at(-1)).to.equal("JOB_STATE_CANCELLED");
      expect(assignments()).to.deep.equal([0, 0]);
    });
  });

  describe("of a job that waits", () => {
    /** One worker of four is free: whether the job could run on all of them takes a plan. */
    async function waiting(): Promise<GatedPlan> {
      await coordinator.joinMany(3, () => ({ onStep: () => "hang" as const }));
      await coordinator.submit(smallJob(3, 1, { name: "first", data: THREE_WAYS }));
      await coordinator.submit(smallJob(2, "auto", { name: "wide" }), { jobId: "wide" });
      await coordinator.join("w3");
      return await asked("wide", "2 x 2");
    }

    it("a later job that is small enough passes it only when that is decided", async () => {
      await start();
      const plan = await waiting();
      const { jobId } = await coordinator.submit(smallJob(1, 1, { name: "late" }));
      await reason(jobId, "waits for the plan of job wide, which came first");
      plan.allow();
      expect((await coordinator.finished(jobId)).state).to.equal("JOB_STATE_SUCCEEDED");
      await reason("wide", "needs 2 workers, 1 is free (4 registered)");
    });

    it("a later job that will not queue is answered when that is decided", async () => {
      await start();
      const plan = await waiting();
      const submitted = coordinator.submit(smallJob(1, 1, { name: "late" }), { noQueue: true });
      const refused = caught(coordinator.submit(smallJob(1, 2), { noQueue: true }));
      await coordinator.list();
      plan.allow();
      const { jobId } = await submitted;
      expect((await coordinator.finished(jobId)).state).to.equal("JOB_STATE_SUCCEEDED");
      expect(await refused).to.be.instanceOf(FailedPreconditionError);
    });

    it("a later job passes it when it is cancelled", async () => {
      await start();
      await waiting();
      const { jobId } = await coordinator.submit(smallJob(1, 1, { name: "late" }));
      await coordinator.cancel("wide");
      expect((await coordinator.finished(jobId)).state).to.equal("JOB_STATE_SUCCEEDED");
    });
  });

  function assignments(): number[] {
    return coordinator.workers.map(({ assigned }) => assigned.length);
  }
});
