import { expect } from "chai";
import type { Job } from "../../../coordinator/job/job.ts";
import type { StepDone } from "../../../coordinator/job/job-state.ts";
import { CoordinatorMetrics } from "../../../coordinator/metrics.ts";

/** As much of a job as the metrics look at. */
const JOB = {
  jobId: "j",
  batchSize: 4,
  tokensPerStep: 12,
  machine: { steps: 9 },
} as unknown as Job;

const step = (loss: number, gradNorm?: number): StepDone => ({
  kind: "step",
  step: 0,
  loss,
  ...(gradNorm === undefined ? {} : { gradNorm }),
  seconds: 1,
  peakBytes: 1,
});

describe("coordinator metrics", () => {
  let metrics: CoordinatorMetrics;

  beforeEach(() => {
    metrics = new CoordinatorMetrics({ version: "1", keepMs: 20 });
  });

  afterEach(() => metrics.close());

  /** The job's series, by name. */
  async function ofJob(): Promise<Record<string, number>> {
    const lines = (await metrics.registry.metrics()).matchAll(/^(\w+)\{job_id="j"\} (\S+)$/gm);
    return Object.fromEntries([...lines].map(([, name = "", value]) => [name, Number(value)]));
  }

  it("count a job's steps, rows and tokens from 0 on, before its first step", async () => {
    const before = Date.now() / 1000;
    metrics.jobStarted(JOB);
    const { rankmesh_train_last_progress_timestamp_seconds: progressed, ...rest } = await ofJob();
    expect(progressed).to.be.within(before, Date.now() / 1000);
    expect(rest).to.deep.equal({
      rankmesh_train_steps: 9,
      rankmesh_train_nonfinite_steps_total: 0,
      rankmesh_train_samples_total: 0,
      rankmesh_train_tokens_total: 0,
    });
  });

  it("show the last loss, gradient norm and evaluation", async () => {
    metrics.jobStarted(JOB);
    metrics.stepDone(JOB, step(2, 0.5));
    metrics.stepDone(JOB, step(1, 0.25));
    metrics.evaluationDone(JOB, { kind: "eval", step: 2, loss: 1.5, batches: 1 });
    expect(await ofJob()).to.include({
      rankmesh_train_loss: 1,
      rankmesh_train_grad_norm: 0.25,
      rankmesh_eval_loss: 1.5,
      rankmesh_train_nonfinite_steps_total: 0,
      rankmesh_train_samples_total: 8,
      rankmesh_train_tokens_total: 24,
    });
  });

  it("have no gradient norm of a job that reports none", async () => {
    metrics.jobStarted(JOB);
    metrics.stepDone(JOB, step(1));
    expect(await ofJob()).to.not.have.property("rankmesh_train_grad_norm");
  });

  for (const [what, done, counted] of [
    ["a NaN loss", step(Number.NaN), 1],
    ["an infinite loss", step(Number.NEGATIVE_INFINITY, 1), 1],
    ["a NaN gradient norm", step(1, Number.NaN), 1],
    ["an infinite gradient norm", step(1, Number.POSITIVE_INFINITY), 1],
    ["a finite step", step(1e38, 1e38), 0],
  ] as const) {
    it(`count ${counted} non-finite steps for ${what}`, async () => {
      metrics.jobStarted(JOB);
      metrics.stepDone(JOB, done);
      expect((await ofJob())["rankmesh_train_nonfinite_steps_total"]).to.equal(counted);
    });
  }

  it("note progress with every step and evaluation", async () => {
    const name = "rankmesh_train_last_progress_timestamp_seconds";
    metrics.jobStarted(JOB);
    let last = (await ofJob())[name] ?? 0;
    for (const progress of [
      () => metrics.stepDone(JOB, step(1)),
      () => metrics.evaluationDone(JOB, { kind: "eval", step: 1, loss: 1, batches: 1 }),
    ]) {
      await new Promise((resolve) => setTimeout(resolve, 5));
      progress();
      const now = (await ofJob())[name] ?? 0;
      expect(now).to.be.above(last);
      last = now;
    }
  });

  it("remove every series of a job a while after its end", async () => {
    metrics.jobStarted(JOB);
    metrics.stepDone(JOB, step(1, 1));
    metrics.evaluationDone(JOB, { kind: "eval", step: 1, loss: 1, batches: 1 });
    metrics.jobEnded(JOB);
    expect(Object.keys(await ofJob()).length).to.equal(8);
    await new Promise((resolve) => setTimeout(resolve, 60));
    expect(await ofJob()).to.deep.equal({});
  });
});
