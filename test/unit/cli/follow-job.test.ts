import { expect } from "chai";
import { type FollowOptions, followJob } from "../../../cli/follow-job.ts";
import { Progress } from "../../../cli/progress.ts";
import type { JobHandle } from "../../../client/job-handle.ts";
import type { Job, JobEvent } from "../../../client/job-types.ts";
import type { WatchOptions } from "../../../client/watch.ts";

const JOB: Job = {
  jobId: "job-1",
  name: "long",
  state: "SUCCEEDED",
  reason: "",
  error: undefined,
  mesh: { dataParallel: 1, tensorParallel: 1 },
  steps: 3,
  stepsDone: 3,
  batchSize: 6,
  // As a coordinator gives it that lists the last step alone.
  loss: [3],
  gradNorm: [30],
  stepSeconds: [0.3],
  evaluations: [],
  lastLoss: undefined,
  ranks: [],
  notes: [],
  generation: 1,
  createdAt: undefined,
  endedAt: undefined,
};

function follow(
  events: (options: WatchOptions) => AsyncGenerator<JobEvent>,
  options?: FollowOptions,
) {
  let text = "";
  const stream = {
    write(part: string) {
      text += part;
    },
  };
  const handle = { jobId: "job-1", get: async () => JOB, events } as unknown as JobHandle;
  const progress = new Progress({ stream, title: "long", steps: 3 });
  return followJob(handle, progress, new AbortController().signal, options).then((job) => ({
    job,
    text,
  }));
}

const base = { time: undefined } as const;
const state = (eventId: number, name: "RUNNING" | "SUCCEEDED"): JobEvent => ({
  ...base,
  eventId,
  kind: "state",
  state: name,
  reason: "",
  error: undefined,
  ranks: [],
});
const step = (eventId: number, index: number): JobEvent => ({
  ...base,
  eventId,
  kind: "step",
  step: index,
  loss: index + 1,
  gradNorm: 10 * (index + 1),
  seconds: (index + 1) / 10,
  samplesPerSecond: 60,
  peakMemoryBytes: 1000,
});

describe("following a job", () => {
  it("gives the values of all steps where one answer lists only the last", async () => {
    const { job } = await follow(async function* () {
      yield state(1, "RUNNING");
      for (const index of [0, 1, 2]) yield step(2 + index, index);
      yield { ...base, eventId: 5, kind: "eval", step: 3, loss: 0.5, batches: 2 };
      yield state(6, "SUCCEEDED");
    });
    expect(job.evaluations.map(({ step, loss }) => [step, loss])).to.deep.equal([[3, 0.5]]);
    expect(job.loss).to.deep.equal([1, 2, 3]);
    expect(job.gradNorm).to.deep.equal([10, 20, 30]);
    expect(job.stepSeconds).to.deep.equal([0.1, 0.2, 0.3]);
  });

  it("keeps no more than the first loss of a watch, whose memory may not grow with the job", async () => {
    const { job } = await follow(
      async function* () {
        for (const index of [0, 1, 2]) yield step(1 + index, index);
        yield state(6, "SUCCEEDED");
      },
      { keepSteps: false },
    );
    expect(job.loss).to.deep.equal([1, 3]);
    expect(job.stepSeconds).to.deep.equal([0.3]);
  });

  it("says once that the coordinator was lost, for each time that it is", async () => {
    const { text } = await follow(async function* (options) {
      for (let i = 0; i < 3; i++) options.onReconnect?.(new Error("connection broke"));
      yield step(1, 0);
      options.onReconnect?.(new Error("connection broke"));
      yield state(2, "SUCCEEDED");
    });
    expect(text.match(/lost the coordinator, dialling again: connection broke\n/g)).to.have.length(
      2,
    );
  });

  it("shows a log event on a line of its own", async () => {
    const { text } = await follow(async function* () {
      yield { ...base, eventId: 1, kind: "log", level: "warn", message: "slow", rank: 1 };
      yield state(2, "SUCCEEDED");
    });
    expect(text).to.equal("warn: rank 1: slow\n");
  });
});
