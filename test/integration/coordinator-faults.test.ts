import { existsSync } from "node:fs";
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { expect } from "chai";
import { CoordinatorHarness, smallJob } from "../support/coordinator-harness.ts";
import type { FakeWorkerOptions } from "../support/fake-worker.ts";

describe("coordinator: faults", function () {
  this.timeout(20_000);
  let coordinator: CoordinatorHarness;

  beforeEach(async () => {
    coordinator = await CoordinatorHarness.start();
  });

  afterEach(async () => {
    await coordinator.stop();
  });

  /** The first `count` workers, of which `rank` departs from good behaviour. */
  const joinWith = (count: number, rank: number, misbehaviour: Partial<FakeWorkerOptions>) =>
    coordinator.joinMany(count, (r) => (r === rank ? misbehaviour : {}));

  /** All live workers are idle and run a job to its end. */
  const servesOn = async (ranks: number): Promise<void> => {
    const { jobId } = await coordinator.submit(smallJob(1, ranks), { noQueue: true });
    expect((await coordinator.finished(jobId)).state).to.equal("JOB_STATE_SUCCEEDED");
  };

  it("fails a job whose worker is killed in mid-run, naming rank, worker and step, and frees the others", async () => {
    await joinWith(4, 2, {
      onStep: async (step, worker) => {
        if (step !== 1) return undefined;
        // What was just sent would be lost with the connection.
        await coordinator.until(
          "step 0 is counted",
          async () => (await coordinator.get("mine")).stepsDone === 1,
        );
        await worker.kill();
        return undefined;
      },
    });
    const before = performance.now();
    const { jobId } = await coordinator.submit(smallJob(1, 4), { jobId: "mine" });
    const job = await coordinator.finished(jobId);
    expect(performance.now() - before).to.be.below(5_000);
    expect(job.state).to.equal("JOB_STATE_FAILED");
    expect(job.error).to.deep.include({ code: "UNAVAILABLE", rank: 2, worker: "w2", step: 1 });
    expect(job.error?.message).to.equal(
      "rank 2 (worker w2) was lost at step 1: its connection ended (killed, crashed or cut off)",
    );
    expect(coordinator.workers[0]?.aborts).to.deep.equal([job.error?.message]);
    expect(
      Object.fromEntries((await coordinator.listWorkers()).map((w) => [w.name, w.state])),
    ).to.deep.equal({
      w0: "idle",
      w1: "idle",
      w2: "lost",
      w3: "idle",
    });
    await servesOn(2);
  });

  it("blames the killed worker although a peer's complaint comes first", async () => {
    await coordinator.joinMany(2, (rank) => ({
      onStep: async (step, worker) => {
        const jobId = worker.assigned[0]?.jobId;
        if (step !== 1) return undefined;
        if (rank === 1) {
          await delay(100);
          await worker.kill();
        } else {
          worker.send({
            failed: {
              jobId,
              generation: 1,
              rank,
              code: "UNAVAILABLE",
              message: "rank 0 <- rank 1: stream ended",
              peer: 1,
              step,
            },
          });
        }
        return "hang";
      },
    }));
    const { jobId } = await coordinator.submit(smallJob(1, 2));
    const { error } = await coordinator.finished(jobId);
    expect(error?.message).to.match(/^rank 1 \(worker w1\) was lost at step 1/);
  });

  it("reports a rank's own failure with its code and step", async () => {
    await joinWith(2, 1, {
      onStep: (step, worker) => {
        const jobId = worker.assigned[0]?.jobId;
        worker.send({
          failed: {
            jobId,
            generation: 1,
            rank: 1,
            code: "RESOURCE_EXHAUSTED",
            message: "arena: 5 GB asked, 1 GB there",
            step,
          },
        });
        return "hang";
      },
    });
    const { jobId } = await coordinator.submit(smallJob(1, 2));
    const { error } = await coordinator.finished(jobId);
    expect(error).to.deep.include({
      code: "RESOURCE_EXHAUSTED",
      message: "rank 1 (worker w1): arena: 5 GB asked, 1 GB there",
      rank: 1,
      worker: "w1",
      step: 0,
    });
  });

  it("fails a job whose worker leaves in good order", async () => {
    await joinWith(2, 1, {
      onStep: async (_, worker) => {
        await worker.leave();
        return undefined;
      },
    });
    const { jobId } = await coordinator.submit(smallJob(1, 2));
    const { error } = await coordinator.finished(jobId);
    expect(error?.message).to.equal("rank 1 (worker w1) was lost at step 0: it left");
    expect((await coordinator.listWorkers()).map((w) => w.name)).to.deep.equal(["w0"]);
  });

  it("gives no job to a worker that shuts down while it still lets go of its last one", async () => {
    await joinWith(3, 1, {
      onStep: (_, worker) => {
        worker.send({ leaving: {} });
        return "hang";
      },
    });
    const { jobId } = await coordinator.submit(smallJob(1, 2));
    const { error } = await coordinator.finished(jobId);
    expect(error).to.deep.include({ code: "UNAVAILABLE", rank: 1, worker: "w1", step: 0 });
    expect(error?.message).to.equal("rank 1 (worker w1) was lost at step 0: it was shut down");
    await coordinator.until("the others are free", async () => {
      const idle = (await coordinator.listWorkers()).filter((w) => w.state === "idle");
      return idle.map((w) => w.name).join() === "w0,w2";
    });
    await servesOn(2);
  });

  it("gives up a worker that sends no heartbeat, and its job with it", async () => {
    await coordinator.stop();
    coordinator = await CoordinatorHarness.start({ limits: { leaseMs: 1_500 } });
    const [silent] = await joinWith(2, 0, { silent: true });
    const { jobId } = await coordinator.submit(smallJob(1, 2));
    const { error } = await coordinator.finished(jobId);
    expect(error?.message).to.match(
      /^rank 0 \(worker w0\) was lost before the first step: no heartbeat for \d+(\.\d)? s \(the limit is 1\.5 s\)$/,
    );
    await coordinator.until("the session is cut off", () => silent?.sessionError !== undefined);
    expect(silent?.sessionError?.message).to.contain('worker "w0" was given up: no heartbeat');
  });

  it("names the ranks that are not ready in time", async () => {
    await coordinator.stop();
    coordinator = await CoordinatorHarness.start({ limits: { readyMs: 1_000 } });
    await joinWith(2, 1, { neverReady: true });
    const { jobId } = await coordinator.submit(smallJob(1, 2));
    const { error } = await coordinator.finished(jobId);
    expect(error?.code).to.equal("DEADLINE_EXCEEDED");
    expect(error?.message).to.match(/^rank 1 \(worker w1\): not ready within/);
  });

  it("names the rank that stalls in a step", async () => {
    await coordinator.stop();
    coordinator = await CoordinatorHarness.start({ limits: { stepMs: 1_000 } });
    await joinWith(2, 1, { onStep: (step) => (step === 1 ? "hang" : undefined) });
    const { jobId } = await coordinator.submit(smallJob(1, 2));
    const { error } = await coordinator.finished(jobId);
    expect(error?.message).to.equal("rank 1 (worker w1): no report of step 1 within 1 s");
  });

  it("fails with its step when the loss is NaN, keeps that loss, and writes no output", async () => {
    await coordinator.joinMany(2, () => ({
      onStep: (step) => (step === 1 ? { loss: Number.NaN } : undefined),
    }));
    const { jobId } = await coordinator.submit(
      smallJob(1, 2, { output: { safetensors: "nan.safetensors" } }),
    );
    const job = await coordinator.finished(jobId);
    expect(job.error?.message).to.match(/^loss is NaN at step 1;/);
    expect(job.error?.step).to.equal(1);
    expect(job.loss).to.deep.equal([1, Number.NaN]);
    expect(await readdir(coordinator.dir)).to.deep.equal([]);
  });

  it("fails naming the rank that trained on other bytes than were sent", async () => {
    await joinWith(2, 1, { onStep: () => ({ batchHash: 1 }) });
    const { jobId } = await coordinator.submit(smallJob(1, 2));
    const { error } = await coordinator.finished(jobId);
    expect(error).to.deep.include({ code: "DATA_LOSS", rank: 1, worker: "w1", step: 0 });
    expect(error?.message).to.match(
      /^step 0: ranks trained on another batch than theirs: rank 1 used 0x00000001, 0x/,
    );
  });

  it("fails naming the ranks when their losses are not bit-equal", async () => {
    await joinWith(2, 1, { onStep: () => ({ loss: 1 + Number.EPSILON }) });
    const { jobId } = await coordinator.submit(smallJob(1, 2));
    const { error } = await coordinator.finished(jobId);
    expect(error?.message).to.contain("rank 0: 1, rank 1: 1.0000000000000002");
  });

  for (const [what, misbehaviour, message] of [
    [
      "ends its shard early",
      { shortShardBytes: 4 },
      /^rank 1 \(worker w1\) sent 92 of the 96 bytes of its part of w/,
    ],
    [
      "keeps silent about its shard",
      { silentShards: true },
      /^rank 1 \(worker w1\) sent nothing of w\d\.weight for 1 s/,
    ],
  ] as const) {
    it(`leaves no file when a rank ${what}`, async () => {
      await coordinator.stop();
      coordinator = await CoordinatorHarness.start({ limits: { readShardMs: 1_000 } });
      await joinWith(2, 1, misbehaviour);
      const { jobId } = await coordinator.submit(
        smallJob(1, 2, { output: { safetensors: "out.safetensors" } }),
      );
      const job = await coordinator.finished(jobId);
      expect(job.error?.message).to.match(message);
      expect(await readdir(coordinator.dir)).to.deep.equal([]);
    });
  }

  for (const stage of ["QUEUED", "STARTING", "RUNNING", "writing", "ended"] as const) {
    it(`cancels a job that is ${stage}, once and for all`, async () => {
      if (stage !== "QUEUED") {
        await coordinator.joinMany(2, () => ({
          neverReady: stage === "STARTING",
          silentShards: stage === "writing",
          ...(stage === "RUNNING"
            ? { onStep: (step: number) => (step === 1 ? ("hang" as const) : undefined) }
            : {}),
        }));
      }
      const { jobId } = await coordinator.submit(
        smallJob(1, 2, { output: { safetensors: "out.safetensors" } }),
      );
      if (stage === "ended") await coordinator.finished(jobId);
      else if (stage !== "QUEUED") {
        const steps = { STARTING: 0, RUNNING: 1, writing: 3 }[stage];
        await coordinator.until(`${steps} steps`, async () => {
          const job = await coordinator.get(jobId);
          return job.stepsDone >= steps && job.state !== "JOB_STATE_QUEUED";
        });
      }
      const wanted = stage === "ended" ? "JOB_STATE_SUCCEEDED" : "JOB_STATE_CANCELLED";
      for (let time = 0; time < 2; time++)
        expect((await coordinator.cancel(jobId)).state).to.equal(wanted);
      const states = (await coordinator.events(jobId)).flatMap((e) =>
        e.state ? [e.state.state] : [],
      );
      expect(states.filter((s) => /SUCCEEDED|FAILED|CANCELLED/.test(s))).to.deep.equal([wanted]);
      expect(existsSync(join(coordinator.dir, "out.safetensors"))).to.equal(stage === "ended");
      expect((await readdir(coordinator.dir)).filter((f) => f.endsWith(".tmp"))).to.deep.equal([]);
      const idle = (await coordinator.listWorkers()).map((w) => w.state);
      expect(idle).to.deep.equal(stage === "QUEUED" ? [] : ["idle", "idle"]);
    });
  }

  it("ends a cancelled job without a rank that does not let go, and cuts that worker off later", async () => {
    await coordinator.stop();
    coordinator = await CoordinatorHarness.start({ limits: { releaseMs: 200, drainMs: 2_000 } });
    const [, stubborn] = await joinWith(2, 1, { onStep: () => "hang", neverReleases: true });
    const { jobId } = await coordinator.submit(smallJob(1, 2));
    await coordinator.until("steps", () => (stubborn?.batches.length ?? 0) > 0);
    expect((await coordinator.cancel(jobId)).state).to.equal("JOB_STATE_CANCELLED");
    const states = async () => (await coordinator.listWorkers()).map((w) => w.state);
    expect(await states()).to.deep.equal(["idle", "busy"]);
    await coordinator.until(
      "the stubborn worker is lost",
      async () => (await states())[1] === "lost",
    );
    await coordinator.until("it is told", () => stubborn?.sessionError !== undefined);
    expect(stubborn?.sessionError?.message).to.contain(`did not let go of job ${jobId}`);
  });

  it("ignores what a stale generation, another job or a foreign rank says", async () => {
    const [worker] = await coordinator.joinMany(2, (rank) =>
      rank === 1 ? { onStep: (step) => (step === 1 ? "hang" : undefined) } : {},
    );
    const { jobId } = await coordinator.submit(smallJob(1, 2));
    await coordinator.until("a step", async () => (await coordinator.get(jobId)).stepsDone === 1);
    worker?.send({ failed: { jobId, generation: 7, rank: 0, code: "INTERNAL", message: "stale" } });
    worker?.send({
      failed: { jobId: "other", generation: 1, rank: 0, code: "INTERNAL", message: "other" },
    });
    worker?.send({ released: { jobId, generation: 0 } });
    // Says to be rank 1, but its worker serves rank 0: counted as rank 0, which has finished its steps.
    await delay(100);
    expect((await coordinator.get(jobId)).state).to.equal("JOB_STATE_RUNNING");
    expect((await coordinator.cancel(jobId)).state).to.equal("JOB_STATE_CANCELLED");
  });

  it("refuses a session that does not begin with register, and one of another version", async () => {
    const errors = await Promise.all(
      [{ name: "" }, { name: "a\u0000b" }, { version: "0.0.1" }, { address: "nowhere" }].map(
        async (register) => {
          const worker = coordinator.join("x", { register }).catch((error: Error) => error);
          return await worker;
        },
      ),
    );
    expect(
      errors.map((e) => (e instanceof Error ? e.message.replace(/^\d+ \w+: /, "") : "joined")),
    ).to.deep.equal([
      "name: is missing",
      'name: "a\\u0000b" has a control character or broken text; use printable characters',
      'worker "x" is version 0.0.1, this coordinator is 0.1.0; run the same version',
      'address: "nowhere" is not host:port; write for example 127.0.0.1:50051, or [::1]:50051 for IPv6',
    ]);
  });

  it("refuses a second live worker of the same name", async () => {
    await coordinator.joinMany(1);
    const error = await coordinator.join("w0").catch((e: Error) => e);
    expect(error).to.be.instanceOf(Error);
    expect((error as Error).message).to.match(
      /ALREADY_EXISTS: worker name "w0" is taken by the worker at 127\.0\.0\.1:/,
    );
  });

  it("takes a worker back under its name after it was killed", async () => {
    const [worker] = await coordinator.joinMany(1);
    await worker?.kill();
    await coordinator.until(
      "the loss is seen",
      async () => (await coordinator.listWorkers())[0]?.state === "lost",
    );
    await coordinator.join("w0");
    await servesOn(1);
  });

  it("cancels what runs and ends sessions when it is stopped", async () => {
    const [worker] = await coordinator.joinMany(1, () => ({ onStep: () => "hang" }));
    const { jobId } = await coordinator.submit(smallJob(1, 1));
    await coordinator.until("a batch", () => (worker?.batches.length ?? 0) > 0);
    const events = coordinator.events(jobId);
    await coordinator.handle.stop(2_000);
    expect((await events).at(-1)?.state?.state).to.equal("JOB_STATE_CANCELLED");
    expect(worker?.sessionError?.message).to.contain("the coordinator was stopped");
    await coordinator.handle.done;
  });
});
