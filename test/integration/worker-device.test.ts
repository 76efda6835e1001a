import { expect } from "chai";
import { checkHealth } from "../../cli/health.ts";
import type { Instruction } from "../../shared/program/program.ts";
import type { WorkerHandle } from "../../worker/worker-daemon.ts";
import { caught } from "../support/caught.ts";
import { runCli } from "../support/cli.ts";
import {
  assignGang,
  type FakeSession,
  readShard,
  startGang,
  until,
} from "../support/fake-coordinator.ts";
import { tinyProgram } from "../support/tiny-program.ts";
import { WorkerHarness } from "../support/worker-harness.ts";

const JOB = { jobId: "job", generation: 1 };
const LOST = "FAKE_ERROR_DEVICE_LOST (7)";

/** An instruction of the fake backend without operands. */
function prelude(op: string, attrs: Record<string, number>): Instruction[] {
  return [{ kind: "compute", op, inputs: [], outputs: [], attrs }];
}

function first<T>(items: readonly T[]): T {
  const [item] = items;
  if (item === undefined) throw new Error("there is none");
  return item;
}

async function healthz({ httpAddress }: WorkerHandle): Promise<readonly [number, string]> {
  const response = await fetch(`http://${httpAddress}/healthz`);
  return [response.status, await response.text()];
}

/** The worker has left for good, says why to whoever asks, and is still there to be asked. */
async function expectRetired(
  handle: WorkerHandle,
  session: FakeSession,
  sessions: readonly FakeSession[],
  message: string,
): Promise<void> {
  expect(await session.next("leaving")).to.deep.equal({ reason: `device lost: ${message}` });
  await until(() => session.ended, "end of the session");
  expect(await checkHealth(handle.grpcAddress)).to.equal("NOT_SERVING");
  expect(await healthz(handle)).to.deep.equal([503, `device lost: ${message}\n`]);
  // Longer than it would take to come back.
  await new Promise((resolve) => setTimeout(resolve, 500));
  expect(sessions).to.have.length(1);
}

describe("a worker whose device is lost", () => {
  const harness = new WorkerHarness();

  afterEach(() => harness.stop());

  it("in a step: fails its rank with call and status, leaves, and is unhealthy but there", async () => {
    const { fake, sessions, handles } = await harness.gang(1);
    const [session, handle] = [first(sessions), first(handles)];
    assignGang(sessions, tinyProgram({ ranks: 1, prelude: prelude("loseDevice", { step: 2 }) }), {
      steps: 5,
    });
    await startGang(sessions);
    const message = `fakeLaunch(0x7f0000001000, 4096) failed: ${LOST}`;
    expect(await session.next("failed")).to.deep.include({ code: "UNAVAILABLE", message, step: 2 });
    await expectRetired(handle, session, fake.sessions, message);
    const { code, stdout } = await runCli(["doctor", "--health", "--address", handle.grpcAddress]);
    expect(code).to.equal(3);
    expect(stdout).to.equal(`FAIL  health: ${handle.grpcAddress} is NOT_SERVING\n`);
  });

  it("as it loads a program", async () => {
    const { fake, sessions, handles } = await harness.gang(1, {}, { device: "lost" });
    const session = first(sessions);
    assignGang(sessions, tinyProgram({ ranks: 1 }), { steps: 1 });
    const message = `fakeAllocate(0x7f0000001000, 4096) failed: ${LOST}`;
    expect(await session.next("failed")).to.deep.include({ code: "UNAVAILABLE", message });
    await expectRetired(first(handles), session, fake.sessions, message);
  });

  it("after its last step, as its weights are read: reader and coordinator are told", async () => {
    const { fake, sessions, handles } = await harness.gang(1, {}, { device: "lost-read" });
    const session = first(sessions);
    assignGang(sessions, tinyProgram({ ranks: 1 }), { steps: 1 });
    await startGang(sessions);
    await session.next("finished");
    const message = `fakeCopy(0x7f0000001000, 4096) failed: ${LOST}`;
    expect(String(await caught(readShard(session, 0, 0)))).to.contain(message);
    expect(await session.next("failed")).to.deep.include({ code: "UNAVAILABLE", message });
    await expectRetired(first(handles), session, fake.sessions, message);
  });

  it("leaves the peers of its rank free, and well", async () => {
    const { sessions, handles } = await harness.gang(2);
    const program = tinyProgram({ ranks: 2, prelude: prelude("loseDevice", { step: 1, rank: 1 }) });
    assignGang(sessions, program, { steps: 5 });
    await startGang(sessions);
    await sessions[1]?.next("leaving");
    expect(await sessions[0]?.next("failed")).to.deep.include({ code: "UNAVAILABLE", peer: 1 });
    await sessions[0]?.next("released");
    expect(await checkHealth(handles[0]?.grpcAddress ?? "")).to.equal("SERVING");
    assignGang(sessions.slice(0, 1), tinyProgram({ ranks: 1 }), { steps: 1, jobId: "next" });
    await startGang(sessions.slice(0, 1), { jobId: "next", generation: 1 });
    await sessions[0]?.next("finished");
  });

  it("ends at once when it is stopped", async () => {
    const { sessions, handles } = await harness.gang(1, {}, { device: "lost" });
    assignGang(sessions, tinyProgram({ ranks: 1 }), { steps: 1 });
    await sessions[0]?.next("leaving");
    await handles[0]?.stop(1_000);
    await handles[0]?.done;
  });
});

describe("a worker whose device is full", () => {
  const harness = new WorkerHarness();

  afterEach(() => harness.stop());

  it("fails its rank with call and status, and serves the next job", async () => {
    const { sessions, handles } = await harness.gang(1);
    const session = first(sessions);
    assignGang(sessions, tinyProgram({ ranks: 1, prelude: prelude("fillDevice", { step: 1 }) }), {
      steps: 5,
    });
    await startGang(sessions);
    expect(await session.next("failed")).to.deep.include({
      code: "RESOURCE_EXHAUSTED",
      message: "fakeAllocate(0x7f0000001000, 4096) failed: FAKE_ERROR_OUT_OF_MEMORY (7)",
      step: 1,
    });
    await session.next("released");
    expect(await healthz(first(handles))).to.deep.equal([200, "ok\n"]);
    assignGang(sessions, tinyProgram({ ranks: 1 }), { steps: 1, jobId: "next" });
    await startGang(sessions, { jobId: "next", generation: 1 });
    await session.next("finished");
    expect(session.all("leaving")).to.deep.equal([]);
  });
});

describe("a worker whose device has memory of its own", () => {
  const harness = new WorkerHarness();
  const program = tinyProgram({ ranks: 1 });
  const { arenaBytes } = program;

  afterEach(() => harness.stop());

  it("announces it, with what the backend takes, computes in, and is chosen for", async () => {
    const { sessions } = await harness.gang(1, {}, { device: "gpu:4096:1000000" });
    expect(first(sessions).register).to.deep.include({
      memoryLimitBytes: 1_000_000,
      workspaceBytes: 4096,
      precisions: ["float32", "bfloat16"],
      backendReason: "a test asked for auto",
    });
  });

  it("announces the limit that it was given", async () => {
    const options = { device: "gpu:4096:1000000", memoryLimitBytes: 5_000 };
    const { sessions } = await harness.gang(1, {}, options);
    expect(first(sessions).register?.memoryLimitBytes).to.equal(5_000);
  });

  it("takes a rank that fills it with its workspace to the last byte, and reports both", async () => {
    const device = `gpu:4096:${arenaBytes + 4096}`;
    const { sessions, handles } = await harness.gang(1, {}, { device });
    assignGang(sessions, program, { steps: 1 });
    await startGang(sessions);
    const finished = await first(sessions).next("finished");
    expect(finished.peakMemoryBytes).to.equal(arenaBytes + 4096);
    const metrics = await (await fetch(`http://${first(handles).httpAddress}/metrics`)).text();
    const labels = `job_id="job",rank="0",device="${device}",backend="reference"`;
    expect(metrics.split("\n")).to.include.members([
      `rankmesh_rank_memory_bytes{${labels},kind="workspace"} 4096`,
      `rankmesh_rank_peak_memory_bytes{${labels}} ${arenaBytes + 4096}`,
    ]);
    first(sessions).send({ release: JOB });
    await first(sessions).next("released");
  });

  it("refuses one byte more, and says what its backend takes", async () => {
    const { sessions } = await harness.gang(1, {}, { device: `gpu:4096:${arenaBytes + 4095}` });
    assignGang(sessions, program, { steps: 1 });
    expect(await first(sessions).next("failed")).to.deep.include({
      code: "RESOURCE_EXHAUSTED",
      message: `rank 0 needs ${arenaBytes} bytes and 4096 for its backend, this worker may use ${arenaBytes + 4095}; split the model over more ranks, or raise --memory-limit`,
    });
  });
});
