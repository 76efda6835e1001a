import { expect } from "chai";
import fc from "fast-check";
import {
  type GangMember,
  type JobEffect,
  type JobInput,
  JobMachine,
} from "../../../coordinator/job/job-machine.ts";
import { isTerminal } from "../../../coordinator/job/job-state.ts";

const DEADLINES = { readyMs: 1_000, stepMs: 500, graceMs: 300, releaseMs: 200 };

/** A job of `ranks` ranks with a clock that the test moves. */
function harness(ranks: number, steps = 3, evaluateEvery = 0, alike = true) {
  let nowMs = 0;
  const now = () => ({ wallMs: 1_000_000 + nowMs, monotonicMs: nowMs });
  const machine = new JobMachine({ steps, evaluateEvery, deadlines: DEADLINES, now: now() });
  const settle = (): JobEffect[] => machine.apply({ kind: "settled", generation: 1 }, now());
  /** Like a shell whose own work is done at once. */
  const apply = (input: JobInput): JobEffect[] => {
    const effects = machine.apply(input, now());
    const assigns = effects.some((e) => e.kind === "assign");
    if (assigns) machine.apply({ kind: "opened", generation: 1, evaluationBatches: 2 }, now());
    const done = input.kind === "outputWritten" || assigns;
    return done ? [...effects, ...settle()] : effects;
  };
  return {
    machine,
    apply,
    settle,
    advance(ms: number): JobEffect[] {
      nowMs += ms;
      return apply({ kind: "tick" });
    },
    start: () =>
      apply({
        kind: "start",
        sizes: { dataParallel: 1, tensorParallel: ranks },
        gang: Array.from({ length: ranks }, (_, r) => ({
          worker: `w${r}`,
          backend: "cpu",
          device: "cpu",
          predictedPeakBytes: 4096 + r,
          workspaceBytes: r,
        })),
        alike,
      }),
    ready(): JobEffect[] {
      return range(ranks).flatMap((rank) => apply({ kind: "ready", generation: 1, rank }));
    },
    deliver(round: number): void {
      for (const rank of range(ranks))
        apply({ kind: "batchSent", generation: 1, rank, round, hash: 7 + round });
    },
    evaluate(rank: number, step: number, evaluation: number, round: number, loss = 1): JobEffect[] {
      const report = { rank, step, evaluation, loss, batchHash: 7 + round };
      return apply({ kind: "evaluation", generation: 1, report });
    },
    report(rank: number, step: number, loss = 1 / (step + 1), batchHash = 7 + step): JobEffect[] {
      return apply({
        kind: "step",
        generation: 1,
        report: { rank, step, loss, seconds: 0.5, batchHash, peakBytes: 100 + rank },
      });
    },
    step(step: number, loss?: number): JobEffect[] {
      this.deliver(step);
      return range(ranks).flatMap((rank) => this.report(rank, step, loss));
    },
    finish(): JobEffect[] {
      return range(ranks).flatMap((rank) =>
        apply({
          kind: "finished",
          generation: 1,
          rank,
          peakBytes: 200,
          rssBytes: 300,
          collectiveBytes: 400,
        }),
      );
    },
    release(): JobEffect[] {
      return range(ranks).flatMap((rank) => apply({ kind: "released", generation: 1, rank }));
    },
    phases: () => events(machine).flatMap((e) => (e.kind === "state" ? [e.phase] : [])),
  };
}

function member(rank: number): GangMember {
  const memory = { predictedPeakBytes: 1, workspaceBytes: 0 };
  return { worker: `w${rank}`, backend: "cpu", device: "cpu", ...memory };
}

function range(n: number): number[] {
  return Array.from({ length: n }, (_, i) => i);
}

function events(machine: JobMachine) {
  return range(machine.log.lastId).map((i) => machine.log.at(i + 1).event);
}

describe("job machine", () => {
  it("goes from QUEUED to SUCCEEDED through all ranks ready, all steps, output and release", () => {
    const job = harness(2);
    expect(job.start()).to.deep.equal([{ kind: "assign" }]);
    expect(job.ready()).to.deep.equal([{ kind: "startSteps" }]);
    for (const step of range(3)) job.step(step);
    expect(job.machine.log.losses()).to.deep.equal([1, 1 / 2, 1 / 3]);
    expect(job.finish()).to.deep.equal([{ kind: "writeOutput" }]);
    expect(job.machine.phase).to.equal("RUNNING");
    expect(job.apply({ kind: "outputWritten", generation: 1 })).to.deep.equal([
      { kind: "release", ranks: [0, 1] },
    ]);
    expect(job.machine.phase).to.equal("RUNNING");
    expect(job.release()).to.deep.equal([{ kind: "ended" }]);
    expect(job.phases()).to.deep.equal(["QUEUED", "STARTING", "RUNNING", "SUCCEEDED"]);
    expect(job.machine.ranks()[1]).to.deep.equal({
      rank: 1,
      worker: "w1",
      backend: "cpu",
      device: "cpu",
      predictedPeakBytes: 4097,
      workspaceBytes: 1,
      peakBytes: 200,
      rssBytes: 300,
      collectiveBytes: 400,
    });
  });

  describe("whose ranks run on unlike backends", () => {
    const started = () => {
      const job = harness(2, 3, 0, false);
      job.start();
      job.ready();
      job.deliver(0);
      return job;
    };

    it("takes losses that differ by rounding, and logs the first rank's", () => {
      const job = started();
      job.report(0, 0, -318404.25);
      expect(job.report(1, 0, -318404.5)).to.deep.include({
        kind: "stepDone",
        step: { kind: "step", step: 0, loss: -318404.25, seconds: 0.5, peakBytes: 101 },
      });
      expect(job.machine.phase).to.equal("RUNNING");
    });

    it("takes a small sum of large terms that cancelled otherwise on each", () => {
      const job = started();
      job.report(0, 0, 0.004);
      job.report(1, 0, -0.003);
      expect(job.machine.log.losses()).to.deep.equal([0.004]);
    });

    it("fails when losses are further apart", () => {
      const job = started();
      job.report(0, 0, 1);
      job.report(1, 0, 1.03);
      job.release();
      expect(job.machine.failure).to.include({ code: "DATA_LOSS", rank: 1, step: 0 });
      expect(job.machine.failure?.message).to.equal(
        "step 0: ranks disagree about the loss, which may differ by 0.02 of it at most: rank 0: 1, rank 1: 1.03",
      );
    });

    it("fails for the loss that is not finite, whichever rank's it is", () => {
      const job = started();
      job.report(0, 0, 3e38);
      job.report(1, 0, Number.POSITIVE_INFINITY);
      job.release();
      expect(job.machine.failure?.message).to.match(/^loss is Infinity at step 0; lower/);
      expect(job.machine.log.losses()).to.deep.equal([Number.POSITIVE_INFINITY]);
    });

    it("fails when one used another batch", () => {
      const job = started();
      job.report(0, 0);
      job.report(1, 0, 1, 99);
      job.release();
      expect(job.machine.failure).to.include({ code: "DATA_LOSS", rank: 1 });
      expect(job.machine.failure?.message).to.match(/^step 0: ranks trained on another batch/);
    });
  });

  it("runs a job of 0 steps straight to its output", () => {
    const job = harness(1, 0);
    job.start();
    job.ready();
    expect(job.finish()).to.deep.equal([{ kind: "writeOutput" }]);
  });

  it("starts no step before the last rank is ready", () => {
    const job = harness(3);
    job.start();
    expect(job.apply({ kind: "ready", generation: 1, rank: 0 })).to.deep.equal([]);
    expect(job.apply({ kind: "ready", generation: 1, rank: 0 })).to.deep.equal([]);
    expect(job.apply({ kind: "ready", generation: 1, rank: 2 })).to.deep.equal([]);
    expect(job.machine.phase).to.equal("STARTING");
    expect(job.apply({ kind: "ready", generation: 1, rank: 1 })).to.deep.equal([
      { kind: "startSteps" },
    ]);
  });

  it("names the ranks that were not ready in time", () => {
    const job = harness(3);
    job.start();
    job.apply({ kind: "ready", generation: 1, rank: 1 });
    expect(job.advance(999)).to.deep.equal([]);
    expect(job.advance(1)).to.have.lengthOf(1);
    job.release();
    expect(job.machine.failure?.message).to.equal(
      "rank 0 (worker w0), rank 2 (worker w2): not ready within 1 s of their assignment",
    );
    expect(job.machine.failure).to.include({ code: "DEADLINE_EXCEEDED", rank: 0, worker: "w0" });
  });

  it("counts a step when all ranks have reported it, with rank 0's seconds and the largest peak", () => {
    const job = harness(2);
    job.start();
    job.ready();
    job.deliver(0);
    expect(job.report(1, 0)).to.deep.equal([]);
    expect(job.machine.stepsDone).to.equal(0);
    expect(job.report(0, 0)).to.deep.equal([
      { kind: "stepDone", step: { kind: "step", step: 0, loss: 1, seconds: 0.5, peakBytes: 101 } },
    ]);
  });

  for (const [what, loss] of [
    ["NaN", Number.NaN],
    ["Infinity", Number.POSITIVE_INFINITY],
  ] as const) {
    it(`fails with its step when the loss is ${what}, and keeps that loss`, () => {
      const job = harness(2);
      job.start();
      job.ready();
      job.step(0);
      const effects = job.step(1, loss);
      expect(effects.map((e) => e.kind)).to.deep.equal(["stepDone", "abort"]);
      job.release();
      expect(job.machine.failure?.message).to.match(new RegExp(`^loss is ${what} at step 1;`));
      expect(job.machine.failure?.step).to.equal(1);
      expect(job.machine.log.losses()).to.deep.equal([1, loss]);
    });
  }

  it("fails naming the ranks when losses differ in a single bit", () => {
    const job = harness(3);
    job.start();
    job.ready();
    job.deliver(0);
    job.report(0, 0, 0.1);
    job.report(1, 0, 0.1);
    job.report(2, 0, 0.1 + 2 ** -56);
    job.release();
    expect(job.machine.failure).to.include({ code: "DATA_LOSS", rank: 2, worker: "w2", step: 0 });
    expect(job.machine.failure?.message).to.contain("rank 0: 0.1, rank 2: 0.1000");
    expect(job.machine.stepsDone).to.equal(0);
  });

  it("fails naming the ranks that used another batch than was sent to them", () => {
    const job = harness(3);
    job.start();
    job.ready();
    job.deliver(0);
    job.report(0, 0);
    job.report(1, 0, 1, 0xdeadbeef);
    job.report(2, 0);
    job.release();
    expect(job.machine.failure?.message).to.equal(
      "step 0: ranks trained on another batch than theirs: rank 1 used 0xdeadbeef, 0x00000007 was sent",
    );
  });

  describe("that evaluates every 2 steps on 2 batches", () => {
    /** Steps 0 and 1 are done: rounds 0 and 1. */
    function afterTwoSteps(ranks = 2) {
      const job = harness(ranks, 3, 2);
      job.start();
      job.ready();
      job.step(0);
      job.step(1);
      return job;
    }

    it("tells the mean of the batches after their last, once all ranks agree", () => {
      const job = afterTwoSteps();
      job.deliver(2);
      job.deliver(3);
      expect(job.evaluate(0, 1, 0, 2, 3)).to.deep.equal([]);
      expect(job.evaluate(0, 1, 1, 3, 6)).to.deep.equal([]);
      expect(job.evaluate(1, 1, 0, 2, 3)).to.deep.equal([]);
      const evaluation = { kind: "eval", step: 2, loss: 4.5, batches: 2 };
      expect(job.evaluate(1, 1, 1, 3, 6)).to.deep.equal([{ kind: "evaluationDone", evaluation }]);
      expect(events(job.machine).at(-1)).to.deep.equal(evaluation);
      expect(job.machine.stepsDone).to.equal(2);
      expect(job.machine.roundsReported(0)).to.equal(4);
    });

    it("goes on with its steps, evaluates after the last, and only then may its ranks finish", () => {
      const job = afterTwoSteps(1);
      job.deliver(2);
      job.deliver(3);
      job.evaluate(0, 1, 0, 2);
      job.evaluate(0, 1, 1, 3);
      job.deliver(4);
      expect(job.report(0, 2, 1, 7 + 4).map((e) => e.kind)).to.deep.equal(["stepDone"]);
      job.deliver(5);
      job.deliver(6);
      job.evaluate(0, 2, 0, 5, 1);
      job.evaluate(0, 2, 1, 6, 2);
      expect(events(job.machine).at(-1)).to.include({ kind: "eval", step: 3, loss: 1.5 });
      expect(job.finish().map((e) => e.kind)).to.deep.equal(["writeOutput"]);
    });

    it("fails a rank that finishes, trains or skips where a batch is to be evaluated", () => {
      for (const act of [
        (job: ReturnType<typeof harness>) => job.finish(),
        (job: ReturnType<typeof harness>) => job.report(0, 2, 1, 9),
        (job: ReturnType<typeof harness>) => job.evaluate(0, 1, 1, 2),
      ]) {
        const job = afterTwoSteps(1);
        job.deliver(2);
        act(job);
        job.release();
        expect(job.machine.failure).to.include({ code: "INTERNAL", rank: 0 });
        expect(job.machine.failure?.message).to.match(
          /finished after 2 of 7 rounds|expected evaluation after step 1, batch 0/,
        );
      }
    });

    it("fails when ranks disagree about a held-out loss, or used another batch", () => {
      const unlike = afterTwoSteps();
      unlike.deliver(2);
      unlike.evaluate(0, 1, 0, 2, 3);
      unlike.evaluate(1, 1, 0, 2, 4);
      unlike.release();
      expect(unlike.machine.failure?.message).to.equal(
        "evaluation after step 1, batch 0: ranks disagree about the loss, which must be bit-equal: rank 0: 3, rank 1: 4",
      );
      const other = afterTwoSteps();
      other.deliver(2);
      other.evaluate(0, 1, 0, 2);
      other.evaluate(1, 1, 0, 3);
      other.release();
      expect(other.machine.failure).to.include({ code: "DATA_LOSS", rank: 1, step: 1 });
      expect(other.machine.failure?.message).to.match(
        /^evaluation after step 1, batch 0: ranks evaluated another batch than theirs: rank 1 used/,
      );
    });

    it("fails for a held-out loss that is not finite, and keeps it in the log", () => {
      const job = afterTwoSteps(1);
      job.deliver(2);
      job.deliver(3);
      job.evaluate(0, 1, 0, 2, Number.NaN);
      job.evaluate(0, 1, 1, 3);
      job.release();
      expect(job.machine.failure).to.include({ code: "OUT_OF_RANGE", step: 1 });
      expect(job.machine.failure?.message).to.match(/^evaluation loss is NaN after step 1; lower/);
      expect(job.machine.log.evaluations()).to.deep.equal([
        { kind: "eval", step: 2, loss: Number.NaN, batches: 2 },
      ]);
    });

    it("gives each batch of an evaluation the time of a step, and names who is late", () => {
      const job = afterTwoSteps();
      job.deliver(2);
      job.evaluate(0, 1, 0, 2);
      job.advance(499);
      expect(job.machine.ending).to.equal(false);
      job.evaluate(1, 1, 0, 2);
      job.deliver(3);
      job.evaluate(0, 1, 1, 3);
      job.advance(499);
      expect(job.machine.ending).to.equal(false);
      job.advance(2);
      job.release();
      expect(job.machine.failure).to.include({ code: "DEADLINE_EXCEEDED", rank: 1, step: 1 });
      expect(job.machine.failure?.message).to.equal(
        "rank 1 (worker w1): no report of evaluation after step 1, batch 1 within 0.5 s",
      );
    });

    it("says at which batch a rank was lost", () => {
      const job = afterTwoSteps();
      job.apply({ kind: "lost", generation: 1, rank: 0, why: "killed" });
      job.release();
      expect(job.machine.failure?.message).to.equal(
        "rank 0 (worker w0) was lost at evaluation after step 1, batch 0: killed",
      );
    });
  });

  it("has time of its own to open its data, and gives ranks theirs from then on", () => {
    for (const [openMs, lateMs] of [
      [undefined, 1_001],
      [5_000, 5_001],
    ] as const) {
      let nowMs = 0;
      const now = () => ({ wallMs: nowMs, monotonicMs: nowMs });
      const job = new JobMachine({ steps: 1, deadlines: DEADLINES, now: now() });
      const start = {
        kind: "start",
        sizes: { dataParallel: 1, tensorParallel: 1 },
        gang: [member(0)],
        ...(openMs === undefined ? {} : { openMs }),
      } as const;
      job.apply(start, now());
      nowMs = lateMs - 2;
      expect(job.apply({ kind: "tick" }, now())).to.deep.equal([]);
      // A rank that was not told of the job can't be ready.
      expect(job.apply({ kind: "ready", generation: 1, rank: 0 }, now())).to.deep.equal([]);
      job.apply({ kind: "opened", generation: 1, evaluationBatches: 0 }, now());
      nowMs += 999;
      expect(job.apply({ kind: "tick" }, now())).to.deep.equal([]);
      nowMs += 2;
      job.apply({ kind: "tick" }, now());
      expect(job.reason).to.equal("rank 0 (worker w0): not ready within 1 s of their assignment");
    }
  });

  it("fails when its data does not open in time", () => {
    let nowMs = 0;
    const now = () => ({ wallMs: nowMs, monotonicMs: nowMs });
    const job = new JobMachine({ steps: 1, deadlines: DEADLINES, now: now() });
    const sizes = { dataParallel: 1, tensorParallel: 1 };
    job.apply({ kind: "start", sizes, gang: [member(0)], openMs: 3_000 }, now());
    nowMs = 3_001;
    job.apply({ kind: "tick" }, now());
    expect(job.reason).to.equal("the job's data could not be opened within 3 s");
  });

  it("compares hashes as unsigned 32-bit numbers", () => {
    const job = harness(1, 1);
    job.start();
    job.ready();
    job.apply({ kind: "batchSent", generation: 1, rank: 0, round: 0, hash: -1 });
    expect(job.report(0, 0, 1, 0xffff_ffff).map((e) => e.kind)).to.deep.equal(["stepDone"]);
  });

  it("reports a rank that skips a step as broken", () => {
    const job = harness(1);
    job.start();
    job.ready();
    job.report(0, 1);
    job.release();
    expect(job.machine.failure?.message).to.equal(
      "internal: rank 0 reported step 1, expected step 0",
    );
  });

  it("blames the lost process, not the peer that complained about it first", () => {
    const job = harness(3);
    job.start();
    job.ready();
    job.step(0);
    const complaint = {
      rank: 2,
      code: "UNAVAILABLE",
      message: "rank 2 <- rank 1: stream ended",
      peer: 1,
      step: 1,
    };
    expect(job.apply({ kind: "complaint", generation: 1, complaint })).to.deep.equal([]);
    expect(job.machine.ending).to.equal(false);
    job.advance(299);
    const effects = job.apply({ kind: "lost", generation: 1, rank: 1, why: "its session ended" });
    expect(effects).to.deep.equal([
      {
        kind: "abort",
        ranks: [0, 2],
        reason: "rank 1 (worker w1) was lost at step 1: its session ended",
      },
    ]);
    job.apply({ kind: "released", generation: 1, rank: 0 });
    expect(job.machine.phase).to.equal("RUNNING");
    job.apply({ kind: "released", generation: 1, rank: 2 });
    expect(job.machine.failure).to.deep.equal({
      code: "UNAVAILABLE",
      message: "rank 1 (worker w1) was lost at step 1: its session ended",
      rank: 1,
      worker: "w1",
      step: 1,
    });
  });

  it("blames the silent peer when complaints go round the ring and nobody was lost", () => {
    const job = harness(3);
    job.start();
    job.ready();
    for (const [rank, peer] of [
      [0, 2],
      [2, 1],
    ] as const) {
      const complaint = {
        rank,
        peer,
        code: "DEADLINE_EXCEEDED",
        message: `rank ${rank} <- rank ${peer}`,
        step: 0,
      };
      job.apply({ kind: "complaint", generation: 1, complaint });
    }
    expect(job.advance(300).map((e) => e.kind)).to.deep.equal(["abort"]);
    job.release();
    expect(job.machine.failure).to.include({ rank: 1, worker: "w1", message: "rank 2 <- rank 1" });
  });

  it("believes a rank that blames itself at once", () => {
    const job = harness(2);
    job.start();
    job.ready();
    job.apply({
      kind: "complaint",
      generation: 1,
      complaint: { rank: 0, peer: 1, code: "ABORTED", message: "peer 1" },
    });
    const own = { rank: 1, code: "RESOURCE_EXHAUSTED", message: "no memory", step: 0 };
    expect(
      job.apply({ kind: "complaint", generation: 1, complaint: own }).map((e) => e.kind),
    ).to.deep.equal(["abort"]);
    job.release();
    expect(job.machine.failure).to.include({ code: "RESOURCE_EXHAUSTED", rank: 1 });
  });

  it("names the ranks that stall, but not while a batch is still missing", () => {
    const job = harness(2);
    job.start();
    job.ready();
    expect(job.advance(600)).to.deep.equal([]);
    job.deliver(0);
    job.report(0, 0);
    expect(job.advance(499)).to.deep.equal([]);
    expect(job.advance(1).map((e) => e.kind)).to.deep.equal(["abort"]);
    job.release();
    expect(job.machine.failure).to.include({
      message: "rank 1 (worker w1): no report of step 0 within 0.5 s",
      step: 0,
      rank: 1,
    });
  });

  it("ends without ranks that do not let go, with a warning for each", () => {
    const job = harness(2);
    job.start();
    job.apply({ kind: "cancel", reason: "cancelled" });
    job.apply({ kind: "released", generation: 1, rank: 0 });
    expect(job.machine.phase).to.equal("STARTING");
    expect(job.advance(200)).to.deep.equal([{ kind: "ended" }]);
    expect(job.machine.phase).to.equal("CANCELLED");
    const log = events(job.machine).find((e) => e.kind === "log");
    expect(log).to.include({
      message: "rank 1 (worker w1) did not let go within 0.2 s",
      level: "warn",
    });
  });

  it("cancels a queued job at once", () => {
    const job = harness(2);
    expect(job.apply({ kind: "cancel", reason: "cancelled by a client" })).to.deep.equal([
      { kind: "ended" },
    ]);
    expect(job.machine.phase).to.equal("CANCELLED");
  });

  it("keeps SUCCEEDED when cancel comes after the output is on disk, and CANCELLED when it comes before", () => {
    for (const [when, phase] of [
      ["after", "SUCCEEDED"],
      ["before", "CANCELLED"],
    ] as const) {
      const job = harness(1, 0);
      job.start();
      job.ready();
      job.finish();
      if (when === "after") job.apply({ kind: "outputWritten", generation: 1 });
      job.apply({ kind: "cancel", reason: "cancelled" });
      if (when === "before")
        expect(job.apply({ kind: "outputWritten", generation: 1 })).to.deep.equal([]);
      job.release();
      expect(job.machine.phase).to.equal(phase);
    }
  });

  it("does not end while the output is still being given up", () => {
    const job = harness(1, 0);
    job.start();
    job.ready();
    job.finish();
    job.apply({ kind: "cancel", reason: "cancelled" });
    expect(job.release()).to.deep.equal([]);
    expect(job.machine.phase).to.equal("RUNNING");
    expect(job.settle()).to.deep.equal([{ kind: "ended" }]);
    expect(job.machine.phase).to.equal("CANCELLED");
  });

  it("succeeds although a worker dies after the output is on disk", () => {
    const job = harness(2, 0);
    job.start();
    job.ready();
    job.finish();
    job.apply({ kind: "outputWritten", generation: 1 });
    job.apply({ kind: "lost", generation: 1, rank: 0, why: "killed" });
    job.apply({ kind: "released", generation: 1, rank: 1 });
    expect(job.machine.phase).to.equal("SUCCEEDED");
  });

  it("ignores what a stale generation says", () => {
    const job = harness(1);
    job.start();
    for (const input of [
      { kind: "ready", generation: 0, rank: 0 },
      { kind: "lost", generation: 2, rank: 0, why: "x" },
      { kind: "complaint", generation: 0, complaint: { rank: 0, code: "INTERNAL", message: "x" } },
    ] as const) {
      expect(job.apply(input)).to.deep.equal([]);
    }
    expect(job.machine.phase).to.equal("STARTING");
  });

  it("reports why it waits, once per reason", () => {
    const job = harness(1);
    for (const reason of ["needs 2", "needs 2", "needs 1"]) job.apply({ kind: "waits", reason });
    expect(events(job.machine).map((e) => (e.kind === "state" ? e.reason : ""))).to.deep.equal([
      "accepted",
      "needs 2",
      "needs 1",
    ]);
  });

  it("holds its invariants under any sequence of inputs", () => {
    const rank = fc.nat(2);
    const generation = fc.constantFrom(1, 1, 1, 1, 0, 2);
    const step = fc.nat(3);
    const input: fc.Arbitrary<JobInput | { kind: "advance"; ms: number }> = fc.oneof(
      fc.record({ kind: fc.constant("waits" as const), reason: fc.constantFrom("a", "b") }),
      fc.constant({
        kind: "start" as const,
        sizes: { dataParallel: 1, tensorParallel: 2 },
        gang: [0, 1].map(member),
      }),
      fc.record({ kind: fc.constant("ready" as const), generation, rank }),
      fc.record({
        kind: fc.constant("batchSent" as const),
        generation,
        rank,
        round: step,
        hash: fc.constantFrom(1, 2),
      }),
      fc.record({
        kind: fc.constant("step" as const),
        generation,
        report: fc.record({
          rank,
          step,
          loss: fc.constantFrom(1, 1, 1, 2, Number.NaN),
          seconds: fc.constant(1),
          batchHash: fc.constantFrom(1, 1, 1, 2),
          peakBytes: fc.nat(9),
        }),
      }),
      fc.record({
        kind: fc.constant("evaluation" as const),
        generation,
        report: fc.record({
          rank,
          step,
          evaluation: fc.nat(1),
          loss: fc.constantFrom(1, 1, 2, Number.NaN),
          batchHash: fc.constantFrom(1, 1, 2),
        }),
      }),
      fc.record({
        kind: fc.constant("opened" as const),
        generation,
        evaluationBatches: fc.constant(1),
      }),
      fc.record({
        kind: fc.constant("finished" as const),
        generation,
        rank,
        peakBytes: fc.nat(9),
        rssBytes: fc.nat(9),
        collectiveBytes: fc.nat(9),
      }),
      fc.record({
        kind: fc.constant("complaint" as const),
        generation,
        complaint: fc.oneof(
          fc.record({ rank, code: fc.constant("INTERNAL"), message: fc.constant("m") }),
          fc.record({
            rank,
            peer: rank,
            code: fc.constant("UNAVAILABLE"),
            message: fc.constant("m"),
          }),
        ),
      }),
      fc.record({ kind: fc.constant("lost" as const), generation, rank, why: fc.constant("gone") }),
      fc.record({ kind: fc.constant("outputWritten" as const), generation }),
      fc.record({ kind: fc.constant("settled" as const), generation }),
      fc.record({ kind: fc.constant("released" as const), generation, rank }),
      fc.record({ kind: fc.constant("cancel" as const), reason: fc.constant("cancelled") }),
      fc.record({ kind: fc.constant("advance" as const), ms: fc.nat(400) }),
    );
    // A prefix that often reaches the later stages, then anything.
    const prefix = fc.constantFrom(0, 1, 2, 3);
    fc.assert(
      fc.property(prefix, fc.nat(2), fc.array(input, { maxLength: 60 }), (depth, steps, inputs) => {
        let nowMs = 0;
        const now = () => ({ wallMs: nowMs, monotonicMs: nowMs });
        const job = new JobMachine({ steps, deadlines: DEADLINES, now: now() });
        const effects: JobEffect[] = [];
        const order: string[] = [];
        const apply = (i: JobInput): void => {
          const before = job.log.lastId;
          const ended = isTerminal(job.phase);
          const out = job.apply(i, now());
          if (ended) {
            expect(out).to.deep.equal([]);
            expect(job.log.lastId).to.equal(before);
          }
          effects.push(...out);
          order.push(...out.map((e) => e.kind));
        };
        if (depth > 0)
          apply({
            kind: "start",
            sizes: { dataParallel: 1, tensorParallel: 2 },
            gang: [0, 1].map(member),
          });
        if (depth > 1) apply({ kind: "opened", generation: 1, evaluationBatches: 0 });
        if (depth > 1) for (const r of [0, 1]) apply({ kind: "ready", generation: 1, rank: r });
        if (depth > 2) {
          for (const s of range(steps)) {
            for (const r of [0, 1])
              apply({ kind: "batchSent", generation: 1, rank: r, round: s, hash: 1 });
            for (const r of [0, 1]) {
              apply({
                kind: "step",
                generation: 1,
                report: { rank: r, step: s, loss: 1, seconds: 1, batchHash: 1, peakBytes: 1 },
              });
            }
          }
          for (const r of [0, 1]) {
            apply({
              kind: "finished",
              generation: 1,
              rank: r,
              peakBytes: 1,
              rssBytes: 1,
              collectiveBytes: 1,
            });
          }
        }
        for (const i of inputs) {
          if (i.kind === "advance") {
            nowMs += i.ms;
            apply({ kind: "tick" });
          } else {
            apply(i);
          }
        }
        const terminal = events(job).filter((e) => e.kind === "state" && isTerminal(e.phase));
        expect(terminal.length).to.equal(isTerminal(job.phase) ? 1 : 0);
        expect(order.filter((kind) => kind === "ended").length).to.equal(terminal.length);
        expect(order.filter((kind) => kind === "startSteps").length).to.be.at.most(1);
        if (order.includes("startSteps"))
          expect(order.indexOf("assign")).to.be.below(order.indexOf("startSteps"));
        if (job.phase === "SUCCEEDED") {
          expect(order).to.include("writeOutput");
          expect(order).to.include("release");
          expect(job.stepsDone).to.equal(steps);
        }
        if (job.phase === "FAILED") expect(job.failure).to.not.equal(undefined);
        // Nothing waits for ever: by the largest deadline after an end was decided, it is there.
        if (job.ending) {
          nowMs += DEADLINES.releaseMs;
          apply({ kind: "tick" });
          expect(isTerminal(job.phase)).to.equal(true);
        }
      }),
      { numRuns: 600 },
    );
  });
});
