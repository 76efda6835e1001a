import { setTimeout as delay } from "node:timers/promises";
import { expect } from "chai";
import { CoordinatorHarness, smallJob } from "../support/coordinator-harness.ts";
import type { FakeWorker, FakeWorkerOptions } from "../support/fake-worker.ts";

/** A small seeded generator, so that a failing run can be repeated. */
function random(seed: number): (below: number) => number {
  let state = seed >>> 0;
  return (below) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

describe("coordinator under faults of every kind", function () {
  this.timeout(60_000);

  for (const seed of [1, 2, 3]) {
    it(`ends every job once and keeps its workers (seed ${seed})`, async () => {
      const draw = random(seed);
      const coordinator = await CoordinatorHarness.start({ limits: { stepMs: 1_000 } });
      const live = new Map<string, FakeWorker>();
      let peaceful = false;
      const misbehave: FakeWorkerOptions["onStep"] = async (step, worker) => {
        if (peaceful) return undefined;
        await delay(draw(4));
        const assign = worker.assigned.at(-1);
        const key = {
          jobId: assign?.jobId ?? "",
          generation: assign?.generation ?? 0,
          rank: assign?.rank ?? 0,
        };
        switch (draw(40)) {
          case 0:
            return { loss: Number.NaN };
          case 1:
            return { batchHash: 5 };
          case 2:
            worker.send({
              failed: {
                ...key,
                code: "UNAVAILABLE",
                message: "peer is gone",
                peer: 1 - Math.min(1, key.rank),
                step,
              },
            });
            return "hang";
          case 3:
            worker.send({ failed: { ...key, code: "INTERNAL", message: "own fault", step } });
            return "hang";
          case 4:
            live.delete(worker.name);
            await worker.kill();
            return "hang";
          case 5:
            return { step: step + 1 };
          default:
            return undefined;
        }
      };
      const fill = async (): Promise<void> => {
        for (const name of ["w0", "w1", "w2", "w3"]) {
          if (live.has(name)) continue;
          // The loss of the one before may not have been seen yet.
          const joined = await coordinator.join(name, { onStep: misbehave }).catch(() => undefined);
          if (joined !== undefined) live.set(name, joined);
        }
      };
      await fill();
      const jobs: string[] = [];
      for (let i = 0; i < 25; i++) {
        const [dp = 1, tp = 1] =
          [
            [1, 1],
            [1, 2],
            [2, 1],
            [2, 2],
            [1, 4],
          ][draw(5)] ?? [];
        const { jobId } = await coordinator.submit(smallJob(dp, tp, { steps: draw(6) }));
        jobs.push(jobId);
        if (draw(5) === 0) await coordinator.cancel(jobs[draw(jobs.length)] ?? jobId);
        if (draw(3) === 0) await fill();
        await delay(draw(10));
      }
      // What is left ends by itself, as long as workers come back.
      for (const jobId of jobs) {
        const done = coordinator.events(jobId);
        let over = false;
        void done.finally(() => {
          over = true;
        });
        while (!over) {
          await fill();
          await Promise.race([done, delay(50)]);
        }
        const events = await done;
        const terminal = events.filter((e) =>
          /SUCCEEDED|FAILED|CANCELLED/.test(e.state?.state ?? ""),
        );
        expect(terminal.length, jobId).to.equal(1);
        expect(events.at(-1)).to.equal(terminal[0]);
        const steps = events.flatMap((e) => (e.step ? [e.step.step] : []));
        expect(steps).to.deep.equal(steps.map((_, i) => i));
        const job = await coordinator.get(jobId);
        if (job.state === "JOB_STATE_SUCCEEDED") expect(job.stepsDone).to.equal(job.steps);
        if (job.state === "JOB_STATE_FAILED") expect(job.error?.message).to.not.equal("");
      }
      peaceful = true;
      await fill();
      await coordinator.until("four idle workers", async () => {
        await fill();
        return (await coordinator.listWorkers()).filter((w) => w.state === "idle").length === 4;
      });
      const { jobId } = await coordinator.submit(smallJob(2, 2), { noQueue: true });
      expect((await coordinator.finished(jobId)).state).to.equal("JOB_STATE_SUCCEEDED");
      await coordinator.stop();
    });
  }
});
