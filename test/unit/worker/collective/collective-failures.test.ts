import { expect } from "chai";
import {
  CancelledError,
  InternalError,
  PeerError,
  UnavailableError,
} from "../../../../shared/errors.ts";
import type { Collective } from "../../../../shared/program/program.ts";
import type { Frame } from "../../../../worker/collective/collective.ts";
import { PeerCollectiveGroup, sourcesOf } from "../../../../worker/collective/collective-group.ts";
import {
  bytesOf,
  descriptor,
  floatsOf,
  key,
  lineMesh,
  ranksInMemory,
} from "../../../support/collectives.ts";
import { ScriptedTransport } from "../../../support/scripted-transport.ts";

function scripted(size: number, collectives: readonly Collective[], options = {}) {
  const transport = new ScriptedTransport();
  const program = { mesh: lineMesh(size), collectives };
  const group = new PeerCollectiveGroup({
    program,
    rank: 0,
    transport,
    timeoutMs: 5000,
    ...options,
  });
  const run = (index = 0, step = 7, hash = 0xabc, values = [1, 2, 3, 4]) => {
    const collective = collectives[index];
    if (collective === undefined) throw new Error("no such collective");
    const buffer = bytesOf(values);
    return group
      .run(collective, key(index, step), { input: buffer, output: buffer }, hash)
      .then(() => floatsOf(buffer));
  };
  return { transport, group, run };
}

function frame(fields: Partial<Frame> = {}): Frame {
  const payload = bytesOf([10, 20, 30, 40]);
  return {
    step: 7,
    microbatch: 0,
    collective: 0,
    segment: 0,
    batchHash: 0xabc,
    payload,
    ...fields,
  };
}

async function failure(promise: Promise<unknown>): Promise<PeerError> {
  try {
    await promise;
  } catch (error) {
    if (error instanceof PeerError) return error;
    throw error;
  }
  throw new Error("it did not fail");
}

const PAIR = descriptor(2, {
  op: "allReduce",
  algorithm: "direct",
  label: "w2.output",
  sameInputs: true,
});

describe("collective failures", () => {
  it("names the silent peer, the collective, step, segment and time", async () => {
    const collective = descriptor(3, {
      op: "allReduce",
      chunkElements: 12,
      segmentBytes: 8,
      label: "w2.output",
    });
    const { network, groups } = ranksInMemory(lineMesh(3), [collective], {}, { timeoutMs: 60 });
    network.transport(1).silent = true;
    const errors = await Promise.all(
      groups.map((group) => {
        const buffer = new Uint8Array(48);
        return failure(group.run(collective, key(0, 118), { input: buffer, output: buffer }, 0));
      }),
    );
    const stuck = errors.find(({ rank }) => rank === 2);
    expect(stuck?.message).to.equal(
      'rank 2 <- rank 1: no segment 0 of allReduce "w2.output" (step 118) within 60 ms',
    );
    expect(stuck?.code).to.equal("DEADLINE_EXCEEDED");
    expect([stuck?.peer, stuck?.step]).to.deep.equal([1, 118]);
  });

  it("says what a peer sent in place of what is awaited", async () => {
    const other = descriptor(2, { op: "allReduce", algorithm: "direct", label: "other" });
    const { transport, run } = scripted(2, [PAIR, other], { timeoutMs: 40 });
    const waiting = failure(run());
    transport.arrive(1, frame({ collective: 1 }));
    expect((await waiting).message).to.equal(
      'rank 0 <- rank 1: no segment 0 of allReduce "w2.output" (step 7) within 40 ms; it sent allReduce "other" (step 7, microbatch 0) instead',
    );
  });

  it("lets a slow peer go on as long as segments come", async () => {
    const collective = descriptor(2, {
      op: "allReduce",
      algorithm: "direct",
      chunkElements: 4,
      segmentBytes: 4,
    });
    const { transport, run } = scripted(2, [collective], { timeoutMs: 500 });
    const result = run();
    for (let segment = 0; segment < 4; segment++) {
      await new Promise((resolve) => setTimeout(resolve, 150));
      transport.arrive(1, frame({ segment, payload: bytesOf([segment]) }));
    }
    expect(await result).to.deep.equal([1, 3, 5, 7]);
  });

  it("rejects waits on a lost peer at once and later runs that need it", async () => {
    const { transport, run } = scripted(2, [PAIR]);
    const waiting = failure(run());
    transport.lose(1, new UnavailableError("connection dropped"));
    const error = await waiting;
    expect(error.message).to.equal(
      'rank 0 <- rank 1: stream lost while segment 0 of allReduce "w2.output" (step 7) was awaited: connection dropped',
    );
    expect([error.code, error.peer]).to.deep.equal(["UNAVAILABLE", 1]);
    expect(await failure(run(0, 8))).to.equal(error);
  });

  it("does not mind a peer that ends after it has sent all", async () => {
    const { transport, run } = scripted(2, [PAIR]);
    transport.arrive(1, frame());
    transport.lose(1, new UnavailableError("rank 1 ended its stream"));
    expect(await run()).to.deep.equal([11, 22, 33, 44]);
    expect((await failure(run(0, 8))).message).to.contain("rank 1 ended its stream");
  });

  it("refuses a peer's frame of another batch", async () => {
    const { transport, run } = scripted(2, [PAIR]);
    const waiting = failure(run());
    transport.arrive(1, frame({ batchHash: 0xdef }));
    const error = await waiting;
    expect(error.message).to.equal(
      "rank 1 and rank 0 were given different batches at step 7 (hash 00000def / 00000abc)",
    );
    expect(error.code).to.equal("ABORTED");
  });

  it("takes another batch's frame where inputs may differ", async () => {
    const { transport, run } = scripted(2, [{ ...PAIR, sameInputs: false }]);
    const result = run();
    transport.arrive(1, frame({ batchHash: 0xdef }));
    expect(await result).to.deep.equal([11, 22, 33, 44]);
  });

  const misfits: readonly [string, number, Partial<Frame>, string][] = [
    [
      "a segment of another length",
      1,
      { payload: new Uint8Array(12) },
      'got segment 0 of 12 bytes where allReduce "w2.output" (step 7) expects segment 0 of 16 bytes; rank 0 runs allReduce of 4 float32, direct, segments of 1024 bytes, rank 1 sent step 7, microbatch 0, collective 0',
    ],
    ["a segment out of order", 1, { segment: 1 }, "got segment 1 of 16 bytes where"],
    [
      "a collective that the program lacks",
      1,
      { collective: 9 },
      "of collective 9 (step 7, microbatch 0), the program has 1 collectives",
    ],
    ["a step that is over", 1, { step: 6 }, '"w2.output" (step 6, microbatch 0), which is over'],
    ["a segment past the end", 1, { step: 8, segment: 5 }, "of which rank 0 expects 1 segments"],
    ["a rank that is not in the group", 2, { step: 8 }, "of which rank 0 expects 0 segments"],
  ];
  for (const [name, peer, fields, text] of misfits) {
    it(`refuses ${name} as DATA_LOSS, with both sides' words`, async () => {
      const { transport, run } = scripted(2, [PAIR]);
      const waiting = failure(run());
      transport.arrive(peer, frame(fields));
      const error = await waiting;
      expect(error.message).to.contain(text).and.contain(`rank 0 <- rank ${peer}: got segment`);
      expect([error.code, error.peer]).to.deep.equal(["DATA_LOSS", peer]);
    });
  }

  it("never adds a duplicate twice", async () => {
    const { transport, run } = scripted(2, [PAIR]);
    const first = run();
    transport.arrive(1, frame());
    expect(await first).to.deep.equal([11, 22, 33, 44]);
    const second = failure(run(0, 8));
    transport.arrive(1, frame());
    expect((await second).message).to.contain("which is over");
  });

  it("ends every wait at once on abort, drops late frames and refuses later runs", async () => {
    const { transport, group, run } = scripted(2, [PAIR]);
    const cause = new CancelledError("job cancelled");
    const waiting = run().catch((error: unknown) => error);
    group.abort(cause);
    group.abort(new CancelledError("again"));
    transport.arrive(1, frame());
    expect(await waiting).to.equal(cause);
    expect(await run(0, 8).catch((error: unknown) => error)).to.equal(cause);
    expect(group.receivedBytes).to.equal(0);
  });

  it("holds early frames, pauses a peer that is far ahead and takes it up again", async () => {
    const { transport, run } = scripted(2, [PAIR], { earlyBytes: 40 });
    for (let step = 0; step < 3; step++) transport.arrive(1, frame({ step }));
    expect([...transport.paused]).to.deep.equal([1]);
    for (let step = 0; step < 2; step++) expect(await run(0, step)).to.deep.equal([11, 22, 33, 44]);
    expect([...transport.paused]).to.deep.equal([]);
    expect(await run(0, 2)).to.deep.equal([11, 22, 33, 44]);
    for (let step = 3; step < 6; step++) transport.arrive(1, frame({ step }));
    expect([...transport.paused]).to.deep.equal([1]);
  });

  it("overwrites a segment in place only when the transport has it", async () => {
    const { transport, group } = scripted(2, [PAIR]);
    const buffer = bytesOf([1, 2, 3, 4]);
    let makeRoom = (): void => undefined;
    transport.room = new Promise((resolve) => {
      makeRoom = resolve;
    });
    const result = group.run(PAIR, key(0, 7), { input: buffer, output: buffer }, 0xabc);
    transport.arrive(1, frame());
    expect(floatsOf(transport.sent[0]?.frame.payload ?? new Uint8Array())).to.deep.equal([
      1, 2, 3, 4,
    ]);
    makeRoom();
    await result;
    expect(floatsOf(buffer)).to.deep.equal([11, 22, 33, 44]);
  });

  it("keeps a rank at most the pace ahead of a peer that is behind", async () => {
    const collective = descriptor(2, {
      op: "allReduce",
      algorithm: "direct",
      chunkElements: 8,
      segmentBytes: 4,
    });
    const { transport, group } = scripted(2, [collective], { paceFrames: 3 });
    const buffer = new Uint8Array(32);
    const result = group.run(collective, key(0, 7), { input: buffer, output: buffer }, 0);
    const sent: number[] = [transport.sent.length];
    for (let segment = 0; segment < 8; segment++) {
      transport.arrive(1, frame({ segment, payload: new Uint8Array(4) }));
      sent.push(transport.sent.length);
    }
    await result;
    expect(sent).to.deep.equal([3, 4, 5, 6, 7, 8, 8, 8, 8]);
  });

  it("waits for nobody when there is nothing to exchange", async () => {
    const empty = descriptor(3, { op: "allReduce", chunkElements: 0 });
    const { transport, group } = scripted(3, [empty]);
    const none = new Uint8Array();
    await group.run(empty, key(0), { input: none, output: none }, 0);
    expect(transport.sent).to.deep.equal([]);
  });

  it("connects a ring to one neighbour and a direct exchange to all", () => {
    const program = {
      mesh: lineMesh(4),
      collectives: [descriptor(4, { op: "allReduce", chunkElements: 8 })],
    };
    expect(sourcesOf(program, 0)).to.deep.equal([3]);
    const direct = descriptor(4, { op: "allReduce", algorithm: "direct" });
    expect(sourcesOf({ ...program, collectives: [direct] }, 2)).to.deep.equal([0, 1, 3]);
  });

  it("refuses buffers of another size and a key that was begun", async () => {
    const { group, run } = scripted(2, [PAIR]);
    const buffer = new Uint8Array(12);
    const small = group.run(PAIR, key(0, 7), { input: buffer, output: buffer }, 0);
    expect(await small.catch((error: unknown) => error))
      .to.be.instanceOf(InternalError)
      .with.property("message")
      .that.contains("takes 16 bytes and gives 16; the buffers have 12 and 12");
    void run().catch(() => undefined);
    const again = await run().catch((error: unknown) => error);
    expect(again)
      .to.be.instanceOf(InternalError)
      .with.property("message")
      .that.contains("begun twice");
    group.abort(new CancelledError("over"));
  });

  it("tells metrics how long which peer was waited for and what an op took and moved", async () => {
    const waits: [number, number][] = [];
    const ends: [string, number, number][] = [];
    const observer = {
      waited: (peer: number, seconds: number) => waits.push([peer, seconds]),
      finished: (op: string, _seconds: number, sent: number, received: number) =>
        ends.push([op, sent, received]),
    };
    const { transport, group, run } = scripted(2, [PAIR], { observer });
    const result = run();
    expect(group.waitingFor()).to.deep.equal([1]);
    await new Promise((resolve) => setTimeout(resolve, 30));
    transport.arrive(1, frame());
    await result;
    expect(group.waitingFor()).to.deep.equal([]);
    expect(ends).to.deep.equal([["allReduce", 16, 16]]);
    expect(waits).to.have.length(1);
    expect(waits[0]?.[0]).to.equal(1);
    expect(waits[0]?.[1]).to.be.within(0.02, 2);
    expect([group.sentBytes, group.receivedBytes]).to.deep.equal([16, 16]);
  });
});
