import { expect } from "chai";
import { countRounds, roundAt } from "../../shared/job/rounds.ts";
import type { Program } from "../../shared/program/program.ts";
import {
  assignGang,
  readShard,
  startGang,
  tinyBatches,
  tinyRounds,
  until,
} from "../support/fake-coordinator.ts";
import { tinyBatch, tinyLoss, tinyProgram } from "../support/tiny-program.ts";
import { WorkerHarness } from "../support/worker-harness.ts";

const JOB = { jobId: "job", generation: 1 };
const SEED = 3;
const startOf = (rank: number): number => SEED + rank;

describe("worker daemon", () => {
  const harness = new WorkerHarness();
  const gang = harness.gang.bind(harness);

  afterEach(() => harness.stop());

  for (const ranks of [1, 2, 3]) {
    it(`runs 5 steps on ${ranks} ranks with exact losses, and hands out its weights until released`, async () => {
      const { sessions } = await gang(ranks);
      const program = tinyProgram({ ranks });
      assignGang(sessions, program, { steps: 5 });
      await startGang(sessions);
      for (const [rank, session] of sessions.entries()) {
        const finished = await session.next("finished");
        expect(finished.peakMemoryBytes).to.equal(program.arenaBytes);
        expect(finished.rssBytes).to.be.greaterThan(10e6);
        expect(finished.collectiveBytes).to.equal(
          ranks > 1 ? 5 * (program.collectives[0]?.wireBytes ?? 0) : 0,
        );
        const steps = session.all("step");
        expect(steps.map((report) => report.step)).to.deep.equal([0, 1, 2, 3, 4]);
        expect(steps.map((report) => report.loss)).to.deep.equal(
          steps.map((_, step) => tinyLoss(step, ranks, startOf)),
        );
        expect(steps.map((report) => report.batchHash)).to.deep.equal(
          steps.map((_, step) => tinyBatch(step).hash),
        );
        expect(
          steps.every((report) => report.seconds > 0 && report.gradNorm === undefined),
        ).to.equal(true);
        expect(await readShard(session, 0, rank)).to.deep.equal(
          new Array(8).fill(startOf(rank) + 5),
        );
        expect(await readShard(session, 1, rank)).to.deep.equal(new Array(8).fill(7));
      }
      for (const session of sessions) session.send({ release: JOB });
      for (const session of sessions) await session.next("released");
      for (const session of sessions) expect(session.all("failed")).to.deep.equal([]);
    });
  }

  describe("evaluates between steps", () => {
    const schedule = { steps: 3, evaluateEvery: 2, evaluationBatches: 2 };
    const rounds = Array.from({ length: countRounds(schedule) }, (_, i) => roundAt(schedule, i));

    for (const [ranks, microbatches] of [
      [1, 1],
      [2, 1],
      [3, 1],
      [2, 3],
    ] as const) {
      it(`on ${ranks} ranks with ${microbatches} microbatches: losses of the weights of then, and no update`, async () => {
        const { sessions } = await gang(ranks, { batches: () => tinyRounds(rounds) });
        const program = tinyProgram({ ranks, microbatches, evaluation: true });
        assignGang(sessions, program, schedule);
        await startGang(sessions);
        // With `done` steps the weights have grown by as much; the held-out batch b is that of step 100 + b.
        const heldOut = (done: number, b: number): number =>
          tinyLoss(100 + b, ranks, (rank) => startOf(rank) + done - (100 + b));
        for (const [rank, session] of sessions.entries()) {
          const finished = await session.next("finished");
          expect(finished.collectiveBytes).to.equal(
            ranks > 1 ? 7 * microbatches * (program.collectives[0]?.wireBytes ?? 0) : 0,
          );
          expect(session.all("evaluation").map((r) => [r.step, r.batch, r.loss])).to.deep.equal([
            [1, 0, heldOut(2, 0)],
            [1, 1, heldOut(2, 1)],
            [2, 0, heldOut(3, 0)],
            [2, 1, heldOut(3, 1)],
          ]);
          expect(session.all("evaluation").map((r) => r.batchHash)).to.deep.equal(
            [100, 101, 100, 101].map((step) => tinyBatch(step).hash),
          );
          const steps = session.all("step");
          expect(steps.map((report) => report.step)).to.deep.equal([0, 1, 2]);
          expect(steps.map((report) => report.loss)).to.deep.equal(
            [0, 1, 2].map((step) => tinyLoss(step, ranks, startOf)),
          );
          expect(await readShard(session, 0, rank)).to.deep.equal(
            new Array(8).fill(startOf(rank) + 3),
          );
        }
      });
    }

    it("outside the time of any step", async () => {
      const often = { steps: 3, evaluateEvery: 1, evaluationBatches: 1 };
      const all = Array.from({ length: countRounds(often) }, (_, i) => roundAt(often, i));
      const { sessions } = await gang(1, { batches: () => tinyRounds(all) });
      const program = tinyProgram({ ranks: 1, evaluation: true });
      const sleepMs = 200;
      const sleep = {
        kind: "compute",
        op: "sleep",
        inputs: [],
        outputs: [],
        attrs: { ms: sleepMs },
      };
      const { evaluation } = program;
      const slow = { ...evaluation, body: [sleep, ...(evaluation?.body ?? [])] };
      assignGang(sessions, { ...program, evaluation: slow } as Program, often);
      const beganMs = performance.now();
      await startGang(sessions);
      await sessions[0]?.next("finished");
      const wallMs = performance.now() - beganMs;
      const stepMs = (sessions[0]?.all("step") ?? []).map(({ seconds }) => 1000 * seconds);
      expect(stepMs.length).to.equal(3);
      // Whatever else took time, steps and evaluations did not overlap.
      const sum = stepMs.reduce((total, ms) => total + ms, 0);
      expect(sum + often.steps * sleepMs).to.be.at.most(wallMs);
    });

    it("and refuses a batch to train on where one to evaluate is due", async () => {
      const wrong = rounds.filter(({ evaluation }) => evaluation !== 1);
      const { sessions } = await gang(1, {
        async *batches() {
          yield* tinyRounds(wrong);
          await new Promise(() => undefined);
        },
      });
      assignGang(sessions, tinyProgram({ ranks: 1, evaluation: true }), schedule);
      await startGang(sessions);
      const failed = await sessions[0]?.next("failed");
      expect(failed).to.include({ code: "INTERNAL", step: 1 });
      expect(failed?.message).to.contain(
        "batch of step 2 came where evaluation after step 1, batch 1 was due",
      );
    });

    it("not at all when the program has no evaluation: the assignment is refused", async () => {
      const { sessions } = await gang(1);
      assignGang(sessions, tinyProgram({ ranks: 1 }), schedule);
      const failed = await sessions[0]?.next("failed");
      expect(failed?.code).to.equal("INVALID_ARGUMENT");
      expect(failed?.message).to.contain("evaluate_every: is 2, and the program has no evaluation");
    });
  });

  it("runs accumulation: the body once per microbatch, the epilogue once per step", async () => {
    const { sessions } = await gang(2);
    assignGang(sessions, tinyProgram({ ranks: 2, microbatches: 3 }), { steps: 4 });
    await startGang(sessions);
    for (const [rank, session] of sessions.entries()) {
      await session.next("finished");
      expect(session.all("step").map((report) => report.loss)).to.deep.equal(
        [0, 1, 2, 3].map((step) => tinyLoss(step, 2, startOf)),
      );
      expect(await readShard(session, 0, rank)).to.deep.equal(new Array(8).fill(startOf(rank) + 4));
    }
  });

  it("finishes a job of 0 steps with its initial weights", async () => {
    const { sessions } = await gang(1);
    assignGang(sessions, tinyProgram({ ranks: 1 }), { steps: 0 });
    await startGang(sessions);
    await sessions[0]?.next("finished");
    expect(await readShard(sessions[0] as never, 0, 0)).to.deep.equal(new Array(8).fill(SEED));
  });

  it("takes batches far larger than the ring, and job after job", async () => {
    const rows = 300_000;
    const { sessions } = await gang(1, {
      *batches() {
        for (let step = 0; step < 3; step++) {
          const { bytes, hash } = tinyBatch(step, rows);
          for (let at = 0; at < bytes.length; at += 1 << 20) {
            const data = bytes.subarray(at, at + (1 << 20));
            const endOfStep = at + data.length === bytes.length;
            yield {
              step,
              input: 0,
              offsetBytes: at,
              data,
              endOfStep,
              ...(endOfStep ? { batchHash: hash } : {}),
            };
          }
        }
      },
    });
    const [session] = sessions;
    for (const jobId of ["a", "b"]) {
      assignGang(sessions, tinyProgram({ ranks: 1, rows }), { steps: 3, jobId });
      await startGang(sessions, { jobId, generation: 1 });
      await session?.next("finished");
      session?.send({ release: { jobId, generation: 1 } });
      await session?.next("released");
    }
    const losses = session?.all("step").map((report) => report.loss) ?? [];
    expect(losses.slice(0, 3)).to.deep.equal(
      [0, 1, 2].map((s) => Math.fround(tinyLoss(s, 1, startOf, rows))),
    );
    expect(losses.slice(3)).to.deep.equal(losses.slice(0, 3));
  });

  it("loads initial weights in pieces of any size, moments by their init", async () => {
    const values = Float32Array.from({ length: 8 }, (_, i) => i);
    const bytes = new Uint8Array(values.buffer);
    const { sessions } = await gang(1, {
      weights: ({ stored }) =>
        stored === 0
          ? [0, 5, 6, 30].map((at, i, all) => ({ data: bytes.subarray(at, all[i + 1] ?? 32) }))
          : [],
    });
    assignGang(sessions, tinyProgram({ ranks: 1 }), { steps: 0, loadWeights: true });
    await startGang(sessions);
    await sessions[0]?.next("finished");
    expect(await readShard(sessions[0] as never, 0, 0)).to.deep.equal([...values]);
    expect(await readShard(sessions[0] as never, 1, 0)).to.deep.equal(new Array(8).fill(7));
  });

  for (const [what, length, text] of [
    ["too few", 28, /initial weights of w: 28 of the 32 bytes of rank 0's slice came/],
    ["too many", 36, /initial weights of w: more than the 32 bytes of rank 0's slice came/],
  ] as const) {
    it(`refuses initial weights of ${what} bytes`, async () => {
      const { sessions } = await gang(1, { weights: () => [{ data: new Uint8Array(length) }] });
      assignGang(sessions, tinyProgram({ ranks: 1 }), { steps: 1, loadWeights: true });
      const failed = await sessions[0]?.next("failed");
      expect(failed?.code).to.equal("DATA_LOSS");
      expect(failed?.message).to.match(text);
      await sessions[0]?.next("released");
    });
  }

  describe("a batch that is not what was sent fails the rank:", () => {
    const good = tinyBatch(0);
    const cases = {
      "another hash": [
        [{ step: 0, input: 0, offsetBytes: 0, data: good.bytes, endOfStep: true, batchHash: 1 }],
        "DATA_LOSS",
        /batch of step 0: the bytes that came have CRC-32 0x[0-9a-f]{8}, those that were sent had 0x00000001/,
      ],
      "too short": [
        [
          {
            step: 0,
            input: 0,
            offsetBytes: 0,
            data: good.bytes.subarray(4),
            endOfStep: true,
            batchHash: 1,
          },
        ],
        "DATA_LOSS",
        /input x ended after 28 of 32 bytes/,
      ],
      "past the input's end": [
        [{ step: 0, input: 0, offsetBytes: 0, data: new Uint8Array(33), endOfStep: true }],
        "INTERNAL",
        /33 bytes at 0 of input 0 pass its end/,
      ],
      "unknown input": [
        [{ step: 0, input: 4_000_000_000, offsetBytes: 0, data: good.bytes }],
        "INTERNAL",
        /came where input 0 at 0 was due/,
      ],
      "wrong step": [
        [{ step: 9, input: 0, offsetBytes: 0, data: good.bytes }],
        "INTERNAL",
        /batch of step 9 came where step 0 was due/,
      ],
      "stream ended": [[], "UNAVAILABLE", /its stream of batches ended after 0 of 2 rounds/],
    } as const;
    for (const [what, [messages, code, text]] of Object.entries(cases)) {
      it(what, async () => {
        const { sessions } = await gang(1, {
          async *batches() {
            yield* messages;
            if (messages.length > 0) await new Promise(() => undefined);
          },
        });
        assignGang(sessions, tinyProgram({ ranks: 1 }), { steps: 2 });
        await startGang(sessions);
        const failed = await sessions[0]?.next("failed");
        expect(failed?.message).to.match(text);
        expect(failed?.code).to.equal(code);
        expect(failed?.step).to.equal(0);
        await sessions[0]?.next("released");
      });
    }
  });

  describe("aborts at any time, frees everything and is idle again:", () => {
    /** Never sends a whole batch. */
    async function* never(): AsyncGenerator<never> {
      await new Promise(() => undefined);
    }
    const sleepy = tinyProgram({
      ranks: 2,
      prelude: [
        {
          kind: "compute",
          op: "sleep",
          inputs: [],
          outputs: [],
          attrs: { ms: 2_500, rank: 1, step: 1 },
        },
      ],
    });
    const moments: Record<
      string,
      {
        batches?: () => AsyncIterable<never>;
        program?: Program;
        until: "assigned" | "ready" | "started" | "stepping" | "finished";
        steps?: number;
      }
    > = {
      "just assigned": { until: "assigned" },
      "ready, not started": { until: "ready" },
      "waiting for a batch": { until: "started", batches: never },
      "in mid-run": { until: "stepping", steps: 100_000 },
      "waiting for a peer that sleeps": { until: "stepping", program: sleepy },
      finished: { until: "finished", steps: 2 },
    };
    for (const [what, moment] of Object.entries(moments)) {
      it(what, async () => {
        let served = 0;
        const { sessions } = await gang(2, {
          batches: () => (served++ < 2 && moment.batches ? moment.batches() : tinyBatches(1000)),
        });
        // Rank 1's kernel sleeps for long: only rank 0 can be free at once.
        const asked = moment.program === undefined ? sessions : sessions.slice(0, 1);
        assignGang(sessions, moment.program ?? tinyProgram({ ranks: 2 }), {
          steps: moment.steps ?? 1000,
        });
        if (moment.until !== "assigned")
          await Promise.all(sessions.map((session) => session.next("ready")));
        else
          await until(
            () => sessions.every((session) => session.all("heartbeat").at(-1)?.jobId === "job"),
            "a busy worker",
          );
        if (moment.until !== "assigned" && moment.until !== "ready") {
          for (const session of sessions) session.send({ start: JOB });
        }
        if (moment.until === "started") await until(() => served === 2, "streams of batches");
        if (moment.until === "stepping") await sessions[0]?.next("step");
        if (moment.until === "finished")
          for (const session of sessions) await session.next("finished");
        if (moment.program !== undefined) {
          await until(
            () => sessions[0]?.all("heartbeat").at(-1)?.waitingFor === "1",
            "rank 0 waiting for rank 1",
          );
        }
        const beganMs = performance.now();
        for (const session of asked) session.send({ abort: { ...JOB, reason: "test" } });
        for (const session of asked) await session.next("released");
        expect(performance.now() - beganMs).to.be.lessThan(1_500);
        for (const session of asked) expect(session.all("failed")).to.deep.equal([]);
        if (moment.program !== undefined) return;
        assignGang(sessions, tinyProgram({ ranks: 2 }), { steps: 3, jobId: "next" });
        await startGang(sessions, { jobId: "next", generation: 1 });
        await Promise.all(sessions.map((session) => session.next("finished")));
      });
    }
  });

  it("reports the error of a kernel with its step, and its peer names it", async () => {
    const { sessions } = await gang(2);
    const program = tinyProgram({
      ranks: 2,
      prelude: [
        { kind: "compute", op: "fail", inputs: [], outputs: [], attrs: { step: 2, rank: 1 } },
      ],
    });
    assignGang(sessions, program, { steps: 5 });
    await startGang(sessions);
    const [first, second] = await Promise.all(sessions.map((session) => session.next("failed")));
    expect(second).to.deep.include({
      code: "RESOURCE_EXHAUSTED",
      message: "fake: the device is lost",
      step: 2,
    });
    expect(second?.peer).to.equal(undefined);
    expect(first?.code).to.equal("UNAVAILABLE");
    expect(first?.peer).to.equal(1);
    expect(first?.step).to.equal(2);
    for (const session of sessions) await session.next("released");
  });
});
