import { expect } from "chai";
import { AlreadyExistsError, FailedPreconditionError } from "../../shared/errors.ts";
import { assignGang, assignRank, startGang, until } from "../support/fake-coordinator.ts";
import { tinyProgram } from "../support/tiny-program.ts";
import { WorkerHarness } from "../support/worker-harness.ts";

const JOB = { jobId: "job", generation: 1 };

describe("worker session", () => {
  const harness = new WorkerHarness();

  afterEach(() => harness.stop());

  it("registers with what it is and where it is reached, and sends heartbeats", async () => {
    const { sessions, handles } = await harness.gang(1, {}, { memoryLimitBytes: 123_456 });
    const [session] = sessions;
    expect(session?.register).to.deep.include({
      name: "w0",
      address: handles[0]?.grpcAddress,
      httpAddress: handles[0]?.httpAddress,
      backend: "reference",
      device: "fake",
      fingerprint: "fake 1",
      memoryLimitBytes: 123_456,
    });
    expect(session?.register?.version).to.match(/^\d+\.\d+\.\d+/);
    expect(await session?.next("heartbeat")).to.deep.equal({
      jobId: "",
      stepsDone: 0,
      waitingFor: "",
    });
    await session?.next("heartbeat");
  });

  it("names itself when it is given no name, and its available memory as its limit", async () => {
    const fake = await harness.coordinator();
    await harness.worker(fake.address, { name: undefined as never });
    await harness.worker(fake.address, { name: undefined as never });
    const sessions = await fake.registered(2);
    expect(new Set(sessions.map((session) => session.name)).size).to.equal(2);
    expect(sessions[0]?.register?.memoryLimitBytes).to.be.greaterThan(100e6);
  });

  it("waits for a coordinator that is not there yet, and joins it", async () => {
    const gone = await harness.coordinator();
    const { address } = gone;
    await gone.kill();
    await harness.worker(address);
    await new Promise((resolve) => setTimeout(resolve, 300));
    const fake = await harness.coordinator({ listen: address });
    await fake.registered(1);
  });

  it("rejoins when the coordinator comes back, and frees what it ran", async () => {
    const { fake, sessions } = await harness.gang(2);
    assignGang(sessions, tinyProgram({ ranks: 2 }), { steps: 1_000_000 });
    await startGang(sessions);
    await sessions[0]?.next("step");
    await fake.kill();
    const again = await harness.coordinator({ listen: fake.address });
    const rejoined = await again.registered(2);
    for (const session of rejoined) expect((await session.next("heartbeat")).jobId).to.equal("");
    assignGang(rejoined, tinyProgram({ ranks: 2 }), { steps: 3 });
    await startGang(rejoined);
    for (const session of rejoined) await session.next("finished");
  });

  it("aborts its rank when the session alone ends, and comes back free", async () => {
    const { fake, sessions } = await harness.gang(1);
    assignGang(sessions, tinyProgram({ ranks: 1 }), { steps: 1_000_000 });
    await startGang(sessions);
    await sessions[0]?.next("step");
    sessions[0]?.end();
    await until(() => fake.sessions.length === 2 && fake.live().length === 1, "a second session");
    const [again] = fake.live();
    expect((await again?.next("heartbeat"))?.jobId).to.equal("");
    expect(sessions[0]?.all("failed")).to.deep.equal([]);
  });

  it("tries again when its name is taken for now", async () => {
    let refusals = 2;
    const { fake } = await harness.gang(1, {
      refuse: ({ name }) =>
        refusals-- > 0 ? new AlreadyExistsError(`worker ${name} is registered`) : undefined,
    });
    expect(fake.sessions.length).to.equal(3);
  });

  it("ends when the coordinator refuses it for good, with the reason", async () => {
    const fake = await harness.coordinator({
      refuse: () => new FailedPreconditionError("version 9 workers only"),
    });
    const handle = await harness.worker(fake.address);
    const error = await handle.done.then(
      () => undefined,
      (reason: unknown) => reason,
    );
    expect(error).to.be.instanceOf(FailedPreconditionError);
    expect(String(error)).to.contain("version 9 workers only");
  });

  it("survives every kind of message that makes no sense", async () => {
    const { sessions } = await harness.gang(1);
    const [session] = sessions;
    session?.send({});
    session?.send({ start: { jobId: "nobody", generation: 4 } });
    session?.send({ registered: { workerId: "again", heartbeatIntervalSeconds: Number.NaN } });
    session?.send({ abort: { jobId: "nobody", generation: 4, reason: "?" } });
    expect(await session?.next("released")).to.deep.equal({ jobId: "nobody", generation: 4 });
    session?.send({ release: { jobId: "nobody", generation: 5 } });
    expect(await session?.next("released")).to.deep.equal({ jobId: "nobody", generation: 5 });
    assignGang(sessions, tinyProgram({ ranks: 1 }), { steps: 2 });
    await startGang(sessions);
    await session?.next("finished");
  });

  it("refuses an assignment whose program is broken, by field, and stays free", async () => {
    const { sessions } = await harness.gang(1);
    const [session] = sessions;
    const program = tinyProgram({ ranks: 1 });
    assignGang(sessions, { ...program, lossSlot: 77 }, { steps: 2 });
    const failed = await session?.next("failed");
    expect(failed).to.deep.include({ code: "INVALID_ARGUMENT", rank: 0, ...JOB });
    expect(failed?.message).to.contain("program.lossSlot: is 77, the table has 5 entries");
    await session?.next("released");
    assignGang(sessions, program, { steps: 2 });
    await startGang(sessions);
    await session?.next("finished");
  });

  it("refuses a second job while it serves one, and goes on with the first", async () => {
    const { sessions } = await harness.gang(1);
    const [session] = sessions;
    assignGang(sessions, tinyProgram({ ranks: 1 }), { steps: 2 });
    await session?.next("ready");
    assignGang(sessions, tinyProgram({ ranks: 1 }), { steps: 2, jobId: "other" });
    const failed = await session?.next("failed");
    expect(failed).to.deep.include({ code: "FAILED_PRECONDITION", jobId: "other" });
    expect(failed?.message).to.contain("this worker serves rank 0 of job job, generation 1");
    session?.send({ start: JOB });
    await session?.next("finished");
  });

  it("gives way to a newer generation of its job, and not to an older one", async () => {
    const { sessions } = await harness.gang(1);
    const [session] = sessions;
    assignGang(sessions, tinyProgram({ ranks: 1 }), { steps: 1_000_000 });
    await startGang(sessions);
    await session?.next("step");
    assignGang(sessions, tinyProgram({ ranks: 1 }), { steps: 2, generation: 2 });
    expect(await session?.next("released")).to.deep.equal(JOB);
    await session?.next("ready");
    assignGang(sessions, tinyProgram({ ranks: 1 }), { steps: 2, generation: 1 });
    expect(await session?.next("failed")).to.deep.include({
      code: "FAILED_PRECONDITION",
      generation: 1,
    });
    session?.send({ start: { jobId: "job", generation: 2 } });
    expect(await session?.next("finished")).to.deep.include({ generation: 2 });
  });

  it("refuses more memory than its limit, with both numbers", async () => {
    const { sessions } = await harness.gang(1, {}, { memoryLimitBytes: 100 });
    assignGang(sessions, tinyProgram({ ranks: 1 }), { steps: 2 });
    const failed = await sessions[0]?.next("failed");
    expect(failed?.code).to.equal("RESOURCE_EXHAUSTED");
    expect(failed?.message).to.contain("rank 0 needs 104 bytes, this worker may use 100");
    await sessions[0]?.next("released");
  });

  it("stops waiting for a peer that was never assigned as soon as it is told to", async () => {
    const { sessions } = await harness.gang(2);
    // Rank 1 hears nothing of the job.
    assignRank(sessions, 0, tinyProgram({ ranks: 2 }), { steps: 2 });
    await until(() => sessions[0]?.all("heartbeat").at(-1)?.jobId === "job", "a busy worker");
    await new Promise((resolve) => setTimeout(resolve, 300));
    expect(sessions[0]?.all("ready")).to.deep.equal([]);
    const beganMs = performance.now();
    sessions[0]?.send({ abort: { ...JOB, reason: "test" } });
    await sessions[0]?.next("released");
    expect(performance.now() - beganMs).to.be.lessThan(1_000);
  });
});
