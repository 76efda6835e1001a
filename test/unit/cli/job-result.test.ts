import { expect } from "chai";
import { jobResult, refusedJobResult, summarizeStepSeconds } from "../../../cli/job-result.ts";
import type { Job } from "../../../client/job-types.ts";

const JOB: Job = {
  jobId: "job-1",
  name: "tiny",
  state: "SUCCEEDED",
  reason: "",
  error: undefined,
  mesh: { dataParallel: 1, tensorParallel: 2 },
  steps: 5,
  stepsDone: 5,
  batchSize: 6,
  loss: [1, 2, 3, 4, 5],
  gradNorm: [],
  stepSeconds: [9, 8, 0.3, 0.1, 0.2],
  lastLoss: undefined,
  evaluations: [
    { step: 1, loss: 2.5, batches: 3 },
    { step: 4, loss: Number.NaN, batches: 3 },
  ],
  ranks: [
    {
      rank: 0,
      worker: "a",
      backend: "cpu",
      device: "OpenBLAS",
      peakMemoryBytes: 10,
      predictedPeakMemoryBytes: 10,
      rssBytes: 30,
      collectiveBytes: 4,
      workspaceBytes: 3,
    },
  ],
  notes: ["not in the file"],
  generation: 1,
  createdAt: new Date(0),
  endedAt: new Date(1),
};

describe("the JSON of run and job submit", () => {
  it("has exactly the documented keys", () => {
    const result = jobResult(JOB);
    expect(Object.keys(result)).to.deep.equal([
      "jobId",
      "state",
      "error",
      "mesh",
      "steps",
      "loss",
      "gradNorm",
      "stepSeconds",
      "evalLoss",
      "ranks",
    ]);
    expect(result.ranks).to.deep.equal(JOB.ranks);
    expect(result.error).to.equal(null);
    expect(result.stepSeconds).to.deep.equal({ median: 0.2, p90: 0.3 });
  });

  it("writes a non-finite loss or norm as null", () => {
    const job = { ...JOB, loss: [1, Number.NaN, Number.POSITIVE_INFINITY], gradNorm: [Number.NaN] };
    const text = JSON.stringify(jobResult(job));
    expect(JSON.parse(text)).to.deep.include({
      loss: [1, null, null],
      gradNorm: [null],
      evalLoss: [
        { step: 1, loss: 2.5 },
        { step: 4, loss: null },
      ],
    });
  });

  it("names code, message, rank and step of a failed job, and null where there is none", () => {
    const error = { code: "UNAVAILABLE", message: "lost", rank: 1, worker: "b", step: undefined };
    expect(jobResult({ ...JOB, state: "FAILED", error }).error).to.deep.equal({
      code: "UNAVAILABLE",
      message: "lost",
      rank: 1,
      step: null,
    });
  });

  it("has the same keys for a job that was refused", () => {
    const refused = refusedJobResult({ code: "INVALID_ARGUMENT", message: "plan: no" }, null, 8);
    expect(Object.keys(refused)).to.deep.equal(Object.keys(jobResult(JOB)));
    expect(refused).to.deep.include({ state: "FAILED", steps: 8, mesh: null, loss: [], ranks: [] });
  });

  for (const [seconds, want] of [
    [[], { median: null, p90: null }],
    [[1, 2], { median: null, p90: null }],
    [[9, 9, 5], { median: 5, p90: 5 }],
    [[9, 9, 4, 2], { median: 3, p90: 4 }],
    [[9, 9, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10], { median: 5.5, p90: 9 }],
  ] as const) {
    it(`leaves the first two of [${seconds.join(", ")}] out of the step time`, () => {
      expect(summarizeStepSeconds(seconds)).to.deep.equal(want);
    });
  }
});
