import { expect } from "chai";
import fc from "fast-check";
import { PeerError, UnavailableError } from "../../../../shared/errors.ts";
import type { Collective } from "../../../../shared/program/program.ts";
import type { CollectiveBuffers, Frame } from "../../../../worker/collective/collective.ts";
import { PeerCollectiveGroup } from "../../../../worker/collective/collective-group.ts";
import { scheduleOf, shapeOf } from "../../../../worker/collective/schedule-of.ts";
import { StagedProgress } from "../../../../worker/collective/staged-progress.ts";
import { caught } from "../../../support/caught.ts";
import {
  buffersFor,
  bytesOf,
  descriptor,
  key,
  lineMesh,
  ranksInMemory,
} from "../../../support/collectives.ts";
import { ScriptedTransport } from "../../../support/scripted-transport.ts";
import { DeviceOperands, POISON } from "../../../support/staged-operands.ts";

const KINDS = [
  ["allReduce", "ring"],
  ["allReduce", "direct"],
  ["reduceScatter", "ring"],
  ["reduceScatter", "direct"],
  ["allGather", "ring"],
  ["allGather", "direct"],
  ["allToAll", "direct"],
] as const;

/** Values whose sums round, differently in every order. */
function values(rank: number, elements: number): number[] {
  return Array.from(
    { length: elements },
    (_, i) => Math.sin(i * 1.7 + rank * 0.3) * 10 ** ((i + rank) % 9),
  );
}

function hostBuffers(collective: Collective, size: number, inPlace: boolean): CollectiveBuffers[] {
  const { op, outer, chunkElements } = collective;
  const full = outer * chunkElements * (op === "allReduce" ? 1 : size);
  return Array.from({ length: size }, (_, rank) => {
    if (op !== "allToAll") {
      const source = op === "allGather" ? 0 : rank;
      return buffersFor(collective, size, rank, values(source, full), inPlace);
    }
    const input = bytesOf(values(rank, full));
    return { input, output: new Uint8Array(input.length).fill(POISON) };
  });
}

/** What every rank has in the end when all of its input is there from the beginning. */
async function unstaged(collective: Collective, size: number): Promise<Uint8Array[]> {
  const { groups } = ranksInMemory(lineMesh(size), [collective]);
  const buffers = hostBuffers(collective, size, false);
  await Promise.all(
    buffers.map(async (own, rank) => await groups[rank]?.run(collective, key(), own, 0)),
  );
  return buffers.map(({ output }) => output);
}

function same(a: Uint8Array, b: Uint8Array): boolean {
  return Buffer.compare(a, b) === 0;
}

async function turns(count: number): Promise<void> {
  for (let turn = 0; turn < count; turn++)
    await new Promise<void>((resolve) => setImmediate(resolve));
}

/** A permutation of `items` by numbers in [0, 1). */
function shuffled<T>(items: readonly T[], random: readonly number[]): T[] {
  return items
    .map((item, i) => ({ item, at: random[i % random.length] ?? 0, i }))
    .sort((a, b) => a.at - b.at || a.i - b.i)
    .map(({ item }) => item);
}

describe("collectives of operands in pieces", () => {
  for (const [op, algorithm] of KINDS) {
    for (const size of [2, 3, 4]) {
      it(`${op} by ${algorithm} over ${size} ranks gives the bytes of one in whole, whenever and in whatever order pieces come`, async () => {
        await fc.assert(
          fc.asyncProperty(
            fc.record({
              elements: fc.integer({ min: 1100, max: 9000 }),
              outer: fc.constantFrom(1, 3, 40),
              segmentBytes: fc.constantFrom(512, 1000, 4096, 20_000),
              inPlace: fc.boolean(),
              planned: fc.boolean(),
              quiet: fc.boolean(),
              random: fc.array(fc.double({ min: 0, max: 0.999, noNaN: true }), {
                minLength: 5,
                maxLength: 40,
              }),
              network: fc.record({
                seed: fc.nat(1000),
                maxDelayTurns: fc.nat(3),
                backpressure: fc.constantFrom(0, 0.3, 0.7),
              }),
              paceFrames: fc.constantFrom(1, 3, 100),
              earlyBytes: fc.constantFrom(1000, 1 << 20),
            }),
            async (c) => {
              const outer = op === "allReduce" || op === "allToAll" ? 1 : c.outer;
              const { segmentBytes, paceFrames, earlyBytes, random } = c;
              const chunkElements = Math.ceil(c.elements / outer);
              const fields = { op, algorithm, outer, chunkElements, segmentBytes };
              const collective = descriptor(size, fields);
              const wanted = await unstaged(collective, size);
              const { groups } = ranksInMemory(lineMesh(size), [collective], c.network, {
                paceFrames,
                earlyBytes,
              });
              const order = (planned: readonly number[]): readonly number[] =>
                c.planned ? planned : shuffled(planned, random);
              const ranks = hostBuffers(collective, size, c.inPlace).map((host, index) =>
                DeviceOperands.of(host, collective, { size, index }, order),
              );
              await Promise.all(
                ranks.map(async (own, rank) => {
                  own.bring();
                  const running = groups[rank]?.run(collective, key(), own.buffers, 0);
                  for (let i = 0; !own.all; i++) {
                    await turns(Math.floor(9 * (random[(i + 7 * rank) % random.length] ?? 0)));
                    // The run may see a piece before it is told; the last it always is told of.
                    own.bring(c.quiet && own.arrived() + 1 < own.pieces.order.length);
                  }
                  await running;
                }),
              );
              ranks.forEach((own, rank) => {
                const want = wanted[rank] ?? new Uint8Array();
                expect(same(own.buffers.output, want), `host of rank ${rank}`).to.equal(true);
                expect(own.ended, `all final at rank ${rank}`).to.equal(true);
                expect(same(own.returned, want), `device of rank ${rank}`).to.equal(true);
              });
            },
          ),
          { numRuns: 12 },
        );
      });
    }
  }

  it("copies what a group of one has, piece by piece", async () => {
    const collective = descriptor(1, { op: "allReduce", algorithm: "direct", chunkElements: 5000 });
    const { groups } = ranksInMemory(lineMesh(1), [collective]);
    const [host] = hostBuffers(collective, 1, false);
    if (host === undefined) throw new Error("no buffers");
    const want = host.input.slice();
    const own = DeviceOperands.of(host, collective, { size: 1, index: 0 });
    own.bring();
    const running = groups[0]?.run(collective, key(), own.buffers, 0);
    expect(own.finals).to.deep.equal([0]);
    while (!own.all) own.bring();
    await running;
    expect(same(own.returned, want)).to.equal(true);
  });
});

/** Poison on the wire is a byte that was sent before it came. */
class PoisonWatch extends ScriptedTransport {
  override send(peer: number, frame: Frame): Promise<void> | undefined {
    if (frame.payload.includes(POISON)) throw new Error(`segment ${frame.segment} is poison`);
    return super.send(peer, frame);
  }
}

describe("a collective whose input is still coming", () => {
  const groups: PeerCollectiveGroup[] = [];
  afterEach(() => {
    for (const group of groups.splice(0)) group.abort(new UnavailableError("the test is over"));
  });

  /** Rank 0 of a ring of three that all-reduces 3 x 4096 floats, a piece of input every 1024, in segments of as many. */
  function ring(options = {}) {
    const collective = descriptor(3, {
      op: "allReduce",
      chunkElements: 3 * 4096,
      segmentBytes: 4096,
      label: "grad of w1",
    });
    const transport = new PoisonWatch();
    const program = { mesh: lineMesh(3), collectives: [collective] };
    const timeoutMs = 60_000;
    const group = new PeerCollectiveGroup({ program, rank: 0, transport, timeoutMs, ...options });
    groups.push(group);
    const input = new Uint8Array(3 * 4096 * 4).fill(1);
    const host = { input, output: input };
    const own = DeviceOperands.of(host, collective, { size: 3, index: 0 });
    own.bring();
    const running = group.run(collective, key(0, 7), own.buffers, 0);
    running.catch(() => undefined);
    const frame = (segment: number): Frame => {
      const payload = new Uint8Array(4096).fill(1);
      return { ...key(0, 7), segment, batchHash: 0, payload };
    };
    return { transport, group, own, running, frame };
  }

  it("brings first what is sent and summed first, chunk by chunk", () => {
    const { own } = ring();
    const [sent, first, second] = [0, 2, 1].map((chunk) => [0, 1, 2, 3].map((i) => 4 * chunk + i));
    const interleaved = (sent ?? []).flatMap((piece, i) =>
      [piece, first?.[i]].sort((a = 0, b = 0) => a - b),
    );
    expect(own.pieces.order).to.deep.equal([...interleaved, ...(second ?? [])]);
  });

  it("sends the frames of the pieces that are there, and sums and passes on what came when its own is there", () => {
    const { transport, own, frame } = ring();
    expect(transport.sentSegments).to.deep.equal([0]);
    transport.arrive(2, frame(0));
    transport.arrive(2, frame(1));
    // Summed with input that is not there, they wait.
    expect(transport.sentSegments).to.deep.equal([0]);
    own.bring();
    expect(transport.sentSegments).to.deep.equal([0]);
    own.bring();
    expect(transport.sentSegments).to.deep.equal([0, 1]);
    for (let i = 3; i < 8; i++) own.bring();
    // Own chunk, then the two segments that came.
    expect(transport.sentSegments).to.deep.equal([0, 1, 2, 3, 4, 5]);
    expect(own.finals).to.deep.equal([]);
  });

  it("tells what is final while frames are still to come", async () => {
    const { transport, own, running, frame } = ring();
    while (!own.all) own.bring();
    for (let segment = 0; segment < 8; segment++) transport.arrive(2, frame(segment));
    // The second round ends the sums of chunk 1; of chunk 2 there are partial sums.
    expect(own.finals).to.deep.equal([4, 5, 6, 7]);
    for (let segment = 8; segment < 15; segment++) transport.arrive(2, frame(segment));
    expect(own.finals).to.deep.equal([4, 5, 6, 7, 0, 1, 2, 3, 8, 9, 10]);
    transport.arrive(2, frame(15));
    await running;
    expect(own.finals.at(-1)).to.equal(11);
  });

  it("pauses a peer whose frames wait for too much, and lets it go on when they have been taken", () => {
    const { transport, own, frame } = ring({ earlyBytes: 3 * 4096 });
    for (let segment = 0; segment < 3; segment++) transport.arrive(2, frame(segment));
    expect([...transport.paused]).to.deep.equal([]);
    transport.arrive(2, frame(3));
    expect([...transport.paused]).to.deep.equal([2]);
    while (own.arrived() < 4) own.bring();
    expect([...transport.paused]).to.deep.equal([2]);
    while (own.arrived() < 6) own.bring();
    expect([...transport.paused]).to.deep.equal([]);
  });

  it("writes nothing of the output where input is still to come, however they overlap", () => {
    const collective = descriptor(2, {
      op: "reduceScatter",
      algorithm: "direct",
      chunkElements: 4096,
      segmentBytes: 4096,
    });
    // The output lies in the second half of the input.
    const input = new Uint8Array(2 * 4096 * 4).fill(1);
    const host = { input, output: input.subarray(input.length / 2) };
    const own = DeviceOperands.of(host, collective, { size: 2, index: 0 });
    const { op } = collective;
    const schedule = scheduleOf(shapeOf(collective, 2, 0));
    const progress = new StagedProgress(op, schedule, own);
    const may = () => schedule.sumUnits.map((region) => progress.mayWrite(region));
    expect(own.pieces.order).to.deep.equal([0, 4, 1, 5, 2, 6, 3, 7]);
    own.bring();
    expect(may()).to.deep.equal([false, false, false, false]);
    for (let i = 0; i < 3; i++) own.bring();
    expect(may()).to.deep.equal([true, true, false, false]);
  });

  it("fails by the peer that is lost", async () => {
    const { transport, running } = ring();
    transport.lose(2, new UnavailableError("gone"));
    const error = await caught(running);
    expect(error).to.be.instanceOf(PeerError);
    expect(String(error)).to.include("rank 0 <- rank 2: stream lost while segment 0 of");
  });

  it("fails by the device that brings no more, not by the peers that wait for it", async () => {
    const { running } = ring({ timeoutMs: 60 });
    const error = await caught(running);
    expect(error).to.be.instanceOf(UnavailableError);
    expect(String(error)).to.include(
      'rank 0: the device brought 1 of 12 pieces of the input of allReduce "grad of w1" (step 7), and no more within 60 ms',
    );
  });

  it("does nothing more after an abort, whatever comes", async () => {
    const { transport, group, own, running, frame } = ring();
    transport.arrive(2, frame(0));
    group.abort(new UnavailableError("cancelled"));
    expect(String(await caught(running))).to.include("cancelled");
    while (!own.all) own.bring();
    transport.arrive(2, frame(1));
    expect(transport.sentSegments).to.deep.equal([0]);
    expect(own.finals).to.deep.equal([]);
  });
});
