import { expect } from "chai";
import type { Job } from "../../../coordinator/job/job.ts";
import { nameFault, newJobId } from "../../../coordinator/job/job-id.ts";
import { JobStore } from "../../../coordinator/job/job-store.ts";

/** As much of a job as the store looks at. */
function job(jobId: string, phase = "QUEUED", stepsDone = 0): Job {
  return { jobId, machine: { phase, stepsDone } } as unknown as Job;
}

describe("job store", () => {
  it("keeps the newest ended jobs and all that have not ended", () => {
    const store = new JobStore(2);
    const jobs = ["a", "b", "c", "d"].map((id) => job(id, id === "b" ? "RUNNING" : "FAILED"));
    for (const j of jobs) store.add(j);
    for (const j of jobs) if (j.jobId !== "b") store.retire(j);
    expect(store.all().map((j) => j.jobId)).to.deep.equal(["b", "c", "d"]);
    expect(store.get("a")).to.equal(undefined);
  });

  it("forgets ended jobs earlier when they have very many steps, but never the newest", () => {
    const store = new JobStore(100);
    for (const id of ["a", "b", "c"]) {
      const long = job(id, "SUCCEEDED", 9_000_000);
      store.add(long);
      store.retire(long);
    }
    expect(store.all().map((j) => j.jobId)).to.deep.equal(["c"]);
  });

  it("pages through jobs newest first, also when one vanishes in between", () => {
    const store = new JobStore(4);
    for (let i = 0; i < 5; i++) store.add(job(`j${i}`, "FAILED"));
    const first = store.page(2, "");
    expect(first.jobs.map((j) => j.jobId)).to.deep.equal(["j4", "j3"]);
    for (let i = 0; i < 5; i++) store.retire(job(`j${i}`, "FAILED"));
    const second = store.page(5, first.nextPageToken);
    expect(second.jobs.map((j) => j.jobId)).to.deep.equal(["j2", "j1"]);
    expect(second.nextPageToken).to.equal("");
  });

  it("lists queued jobs in the order in which they came", () => {
    const store = new JobStore(1);
    for (const j of [job("a"), job("b", "RUNNING"), job("c")]) store.add(j);
    expect(store.queued().map((j) => j.jobId)).to.deep.equal(["a", "c"]);
  });
});

describe("job ids", () => {
  it("sort by time", () => {
    const ids = [0, 1_000, 86_400_000, 1e12].map((ms) => newJobId(ms));
    expect([...ids].sort()).to.deep.equal(ids);
    expect(newJobId(0)).to.match(/^19700101-000000-[0-9a-f]{6}$/);
  });

  for (const [what, value, ok] of [
    ["plain text", "llama-7b run 3", true],
    ["letters of any script", "モデル-é", true],
    ["256 bytes", "x".repeat(256), true],
    ["257 bytes", "x".repeat(257), false],
    ["256 characters of more bytes", "é".repeat(200), false],
    ["a line break", "a\nb", false],
    ["an escape sequence", "a\u001b[2J", false],
    ["a right-to-left override", "a\u202eb", false],
    ["half a surrogate pair", "a\ud800", false],
    ["a space at its end", "a ", false],
  ] as const) {
    it(`${ok ? "take" : "refuse"} ${what}`, () => {
      expect(nameFault(value, "jobId") === undefined).to.equal(ok);
    });
  }
});
