import { expect } from "chai";
import {
  JobHistory,
  MAX_EVALUATIONS,
  MAX_NOTES,
  MAX_POINTS,
} from "../../../../coordinator/http/job-history.ts";
import { EventLog } from "../../../../coordinator/job/event-log.ts";
import type { JobEvent } from "../../../../coordinator/job/job-state.ts";

function step(at: number, loss = 1 / (at + 1)): JobEvent {
  return { kind: "step", step: at, loss, seconds: 0.5, peakBytes: 10 };
}

function logOf(events: readonly JobEvent[]): EventLog {
  const log = new EventLog();
  for (const [i, event] of events.entries()) log.append(event, 1_000 * i);
  return log;
}

function followed(log: EventLog): JobHistory {
  const history = new JobHistory("job", log);
  while (!history.follow(1_000)) {
    // To its end.
  }
  return history;
}

describe("history of a job for the status page", () => {
  it("holds steps, evaluations, states and lines of the log, and when it began", () => {
    const history = followed(
      logOf([
        { kind: "state", phase: "QUEUED", reason: "accepted" },
        { kind: "state", phase: "RUNNING", reason: "all ranks are ready" },
        step(0),
        { kind: "log", level: "warn", message: "slow", rank: 2 },
        step(1),
        { kind: "eval", step: 2, loss: Number.NaN, batches: 1 },
      ]),
    );
    const { points, evaluations, notes } = history.view();
    expect(points.last).to.deep.equal([1, 2]);
    expect(evaluations).to.deep.equal([{ step: 2, loss: null }]);
    expect(notes.map(({ id, kind, state, rank }) => [id, kind, state, rank])).to.deep.equal([
      [1, "state", "QUEUED", null],
      [2, "state", "RUNNING", null],
      [4, "warn", null, 2],
    ]);
    expect(history.startedAtMs).to.equal(1_000);
    expect(history.lastStepAtMs).to.equal(4_000);
    expect(history.lastId).to.equal(6);
  });

  it("stays small over 200,000 steps, 100,000 evaluations and 1,000 lines, and shows the last of each", () => {
    const log = new EventLog();
    for (let at = 0; at < 200_000; at++) {
      log.append(step(at), at);
      if (at % 2 === 1) log.append({ kind: "eval", step: at + 1, loss: at, batches: 1 }, at);
      if (at % 200 === 0) log.append({ kind: "log", level: "info", message: `${at}` }, at);
    }
    const history = followed(log);
    const { points, evaluations, notes } = history.view();
    expect(points.last.length).to.be.within(MAX_POINTS / 2, MAX_POINTS);
    expect(points.last.at(-1)).to.equal(200_000);
    expect(evaluations.length).to.be.within(MAX_EVALUATIONS / 2, MAX_EVALUATIONS);
    expect(evaluations.at(-1)).to.deep.equal({ step: 200_000, loss: 199_999 });
    const steps = evaluations.map((evaluation) => evaluation.step);
    expect(steps).to.deep.equal([...new Set(steps)].sort((a, b) => a - b));
    expect(notes).to.have.length(MAX_NOTES);
    expect(notes.at(-1)?.message).to.equal("199800");
    expect(JSON.stringify(history.view()).length).to.be.below(200_000);
  });

  it("takes in no more at once than it is asked to", () => {
    const log = logOf([step(0), step(1), step(2)]);
    const history = new JobHistory("job", log);
    expect(history.follow(2)).to.equal(false);
    expect(history.lastId).to.equal(2);
    expect(history.follow(2)).to.equal(true);
    log.append(step(3), 0);
    expect(history.follow(0)).to.equal(false);
  });

  it("tells what followed an event: nothing twice, nothing left out", () => {
    const log = logOf([step(0), step(1), { kind: "log", level: "info", message: "a" }, step(2)]);
    const history = followed(log);
    const since = history.since(2);
    expect(since.points.first).to.deep.equal([3]);
    expect(since.notes.map(({ message }) => message)).to.deep.equal(["a"]);
    expect(history.since(4).points.first).to.deep.equal([]);
  });

  it("joins the steps of an update where they are many", () => {
    const log = logOf(Array.from({ length: 1_000 }, (_, at) => step(at)));
    const { points } = followed(log).since(0);
    expect(points.first.length).to.be.at.most(60);
    expect([points.first[0], points.last.at(-1)]).to.deep.equal([1, 1_000]);
  });
});
