import { crc32 } from "node:zlib";
import { credentials } from "@grpc/grpc-js";
import { expect } from "chai";
import type { Instruction } from "../../shared/program/program.ts";
import { services } from "../../shared/rpc/proto.ts";
import { assignGang, readShard, startGang, until } from "../support/fake-coordinator.ts";
import { tinyProgram } from "../support/tiny-program.ts";
import { WorkerHarness } from "../support/worker-harness.ts";

const JOB = { jobId: "job", generation: 1 };

/** An instruction of the fake backend without operands. */
function prelude(op: string, attrs: Record<string, number>): Instruction[] {
  return [{ kind: "compute", op, inputs: [], outputs: [], attrs }];
}

describe("worker faults", () => {
  const harness = new WorkerHarness();

  afterEach(() => harness.stop());

  it("a killed peer is named by its rank, with the step, and the survivor is free again within 5 s", async () => {
    const fake = await harness.coordinator();
    await harness.worker(fake.address, { name: "a-survivor" });
    const victim = await harness.process(fake.address, "b-victim");
    const sessions = await fake.registered(2);
    assignGang(sessions, tinyProgram({ ranks: 2, prelude: prelude("sleep", { ms: 10 }) }), {
      steps: 100_000,
    });
    await startGang(sessions);
    await sessions[0]?.next("step");
    victim.kill("SIGKILL");
    const beganMs = performance.now();
    const failed = await sessions[0]?.next("failed");
    await sessions[0]?.next("released");
    expect(performance.now() - beganMs).to.be.lessThan(5_000);
    expect(failed?.code).to.equal("UNAVAILABLE");
    expect(failed?.peer).to.equal(1);
    expect(failed?.step).to.be.a("number");
    // It was receiving from the victim, or about to send to it.
    expect(failed?.message).to.match(/rank 0 (<-|->) rank 1/);
    assignGang(sessions.slice(0, 1), tinyProgram({ ranks: 1 }), { steps: 2, jobId: "next" });
    await sessions[0]?.next("ready");
    sessions[0]?.send({ start: { jobId: "next", generation: 1 } });
    await sessions[0]?.next("finished");
  });

  it("a silent peer is named when the collective's deadline has passed", async () => {
    const { sessions } = await harness.gang(2);
    const program = tinyProgram({
      ranks: 2,
      prelude: prelude("sleep", { ms: 2_500, rank: 1, step: 1 }),
    });
    assignGang(sessions, program, { steps: 5, collectiveTimeoutSeconds: 0.5 });
    await startGang(sessions);
    const failed = await sessions[0]?.next("failed");
    expect(failed).to.deep.include({ code: "DEADLINE_EXCEEDED", peer: 1, step: 1 });
    await sessions[0]?.next("released");
  });

  it("ranks with different batches are an error that names the peer, not a wrong run", async () => {
    const { sessions } = await harness.gang(2, {
      *batches({ rank }) {
        const data = new Uint8Array(32).fill(rank);
        yield { step: 0, input: 0, offsetBytes: 0, data, endOfStep: true, batchHash: crc32(data) };
      },
    });
    assignGang(sessions, tinyProgram({ ranks: 2 }), { steps: 1 });
    await startGang(sessions);
    const failed = await Promise.race(sessions.map((session) => session.next("failed")));
    expect(failed.code).to.equal("ABORTED");
    expect(failed.message).to.contain("were given different batches at step 0");
    expect(failed.peer).to.equal(1 - failed.rank);
    expect(failed.step).to.equal(0);
  });

  it("memory that the system refuses is a typed error, and the worker stays", async () => {
    const { sessions } = await harness.gang(1, {}, { device: "refuse" });
    assignGang(sessions, tinyProgram({ ranks: 1 }), { steps: 1 });
    expect(await sessions[0]?.next("failed")).to.deep.include({
      code: "RESOURCE_EXHAUSTED",
      message: "fake: the system refuses 104 bytes",
    });
    await sessions[0]?.next("released");
  });

  it("1 MiB more than predicted shows in the reported peak", async () => {
    const { sessions } = await harness.gang(1, {}, { device: "extra:1048576" });
    const program = tinyProgram({ ranks: 1 });
    assignGang(sessions, program, { steps: 1 });
    await startGang(sessions);
    expect((await sessions[0]?.next("step"))?.peakMemoryBytes).to.equal(
      program.arenaBytes + (1 << 20),
    );
    expect((await sessions[0]?.next("finished"))?.peakMemoryBytes).to.equal(
      program.arenaBytes + (1 << 20),
    );
  });

  it("a compute thread that crashes fails its rank, and ends the worker, whose memory it took along", async () => {
    const { sessions, handles } = await harness.gang(1);
    assignGang(sessions, tinyProgram({ ranks: 1, prelude: prelude("crash", { step: 1 }) }), {
      steps: 5,
    });
    await startGang(sessions);
    const failed = await sessions[0]?.next("failed");
    expect(failed?.code).to.equal("INTERNAL");
    const error = await handles[0]?.done.then(
      () => undefined,
      (reason: unknown) => reason,
    );
    expect(String(error)).to.contain("the compute thread ended without freeing its arena");
    expect(sessions[0]?.all("released")).to.deep.equal([]);
  });

  it("a backend that keeps memory ends the worker: the next job would not find it", async () => {
    const { sessions, handles } = await harness.gang(1, {}, { device: "leak" });
    assignGang(sessions, tinyProgram({ ranks: 1 }), { steps: 1 });
    await startGang(sessions);
    await sessions[0]?.next("finished");
    sessions[0]?.send({ release: JOB });
    const error = await handles[0]?.done.then(
      () => undefined,
      (reason: unknown) => reason,
    );
    expect(String(error)).to.contain("still holds 104 bytes");
    expect((await sessions[0]?.next("leaving"))?.reason).to.contain("still holds 104 bytes");
  });

  it("stop reports a running rank as failed, with the reason, and leaves the session", async () => {
    const { sessions, handles, fake } = await harness.gang(2);
    assignGang(sessions, tinyProgram({ ranks: 2, prelude: prelude("sleep", { ms: 5 }) }), {
      steps: 100_000,
    });
    await startGang(sessions);
    await sessions[0]?.next("step");
    await handles[0]?.stop(2_000);
    await handles[0]?.done;
    expect(await sessions[0]?.next("failed")).to.deep.include({
      code: "UNAVAILABLE",
      message: "the worker is shutting down",
    });
    await sessions[0]?.next("released");
    await until(() => fake.live().length === 1, "one session left");
    expect((await sessions[1]?.next("failed"))?.peer).to.equal(0);
  });

  it("a process ends with code 0 on SIGTERM, in mid-run too", async () => {
    const fake = await harness.coordinator();
    const child = await harness.process(fake.address, "p");
    const sessions = await fake.registered(1);
    assignGang(sessions, tinyProgram({ ranks: 1, prelude: prelude("sleep", { ms: 5 }) }), {
      steps: 100_000,
    });
    await startGang(sessions);
    await sessions[0]?.next("step");
    const exit = new Promise((resolve) =>
      child.once("exit", (code, signal) => resolve(code ?? signal)),
    );
    child.kill("SIGTERM");
    expect(await exit).to.equal(0);
    expect((await sessions[0]?.next("failed"))?.code).to.equal("UNAVAILABLE");
  });

  describe("reading a shard", () => {
    it("is refused for a job that is not served, by name", async () => {
      const { sessions } = await harness.gang(1);
      const error = await readShard(sessions[0] as never, 0, 0).catch((reason: unknown) => reason);
      expect(String(error)).to.contain(
        "does not serve rank 0 of job job, generation 1; it serves no job",
      );
    });

    it("is refused before the last step, for a tensor that is not there, and after the release", async () => {
      const { sessions } = await harness.gang(1);
      const [session] = sessions;
      assignGang(sessions, tinyProgram({ ranks: 1 }), { steps: 1 });
      await session?.next("ready");
      const read = (stored: number) =>
        readShard(session as never, stored, 0).catch((reason: unknown) => String(reason));
      expect(await read(0)).to.contain("FAILED_PRECONDITION");
      session?.send({ start: JOB });
      await session?.next("finished");
      expect(await read(2)).to.contain("the program stores tensors 0 to 1, not 2");
      expect(await read(0)).to.have.length(8);
      session?.send({ release: JOB });
      await session?.next("released");
      expect(await read(0)).to.contain("NOT_FOUND");
    });

    it("of many megabytes comes whole to several readers at once", async () => {
      const { sessions } = await harness.gang(1);
      const weightRows = 300_000;
      assignGang(sessions, tinyProgram({ ranks: 1, weightRows }), { steps: 0 });
      await startGang(sessions);
      await sessions[0]?.next("finished");
      const shards = await Promise.all(
        [0, 0, 1, 0, 1, 0].map((stored) => readShard(sessions[0] as never, stored, 0)),
      );
      for (const [i, stored] of [0, 0, 1, 0, 1, 0].entries()) {
        expect(shards[i]).to.have.length(weightRows * 4);
        expect(shards[i]?.every((value) => value === (stored === 0 ? 3 : 7))).to.equal(true);
      }
    });

    it("by clients that take nothing holds up neither the release nor the next job", async () => {
      const { sessions } = await harness.gang(1);
      const [session] = sessions;
      assignGang(sessions, tinyProgram({ ranks: 1, weightRows: 10_000_000 }), { steps: 0 });
      await startGang(sessions);
      await session?.next("finished");
      const client = new (services().collective.Client)(
        session?.register?.address ?? "",
        credentials.createInsecure(),
      );
      const request = { jobId: "job", generation: 1, rank: 0, stored: 0 };
      const calls = Array.from({ length: 6 }, () => client.readShard(request).pause());
      const ends = calls.map(
        (call) =>
          new Promise<string>((resolve) => {
            call.on("error", (error: Error) => resolve(error.message));
            call.on("end", () => resolve("read to its end"));
          }),
      );
      // The calls are open, and what the connection takes has been sent: less than a shard.
      await new Promise((resolve) => setTimeout(resolve, 300));
      session?.send({ release: JOB });
      await session?.next("released");
      assignGang(sessions, tinyProgram({ ranks: 1 }), { steps: 1, jobId: "next" });
      await startGang(sessions, { jobId: "next", generation: 1 });
      await session?.next("finished");
      for (const call of calls) call.resume();
      for (const end of await Promise.all(ends))
        expect(end).to.match(/^1 CANCELLED: the (rank was released|assignment is over)/);
      client.close();
    });
  });
});
