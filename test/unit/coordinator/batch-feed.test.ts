import { expect } from "chai";
import type { BatchPart } from "../../../coordinator/data/batch-reader.ts";
import { BatchFeed, type BatchPiece, ROUNDS_AHEAD } from "../../../coordinator/gang/batch-feed.ts";
import { CancelledError, DataLossError, FailedPreconditionError } from "../../../shared/errors.ts";
import type { Round } from "../../../shared/job/rounds.ts";
import { caught } from "../../support/caught.ts";

const never = new AbortController().signal;

/** A feed over `inputs` (bytes of each) with a record of what it reads and says. */
function makeFeed(
  options: { inputs?: number[]; steps?: number; failAt?: number; evaluateEvery?: number } = {},
) {
  const { inputs = [8], steps = 10, failAt = -1, evaluateEvery = 0 } = options;
  const reads: [number, number][] = [];
  const sent: [number, number, number][] = [];
  const faults: unknown[] = [];
  let closed = 0;
  const feed = new BatchFeed({
    reader: {
      read: (round: number, _: Round, rank: number): Promise<BatchPart> => {
        reads.push([round, rank]);
        if (round === failAt) return Promise.reject(new DataLossError("the file shrank"));
        return Promise.resolve({
          hash: 1000 + round,
          inputs: inputs.map((n) => new Uint8Array(n).fill(round)),
        });
      },
      close: () => {
        closed += 1;
        return Promise.resolve();
      },
    },
    numRanks: 2,
    schedule: { steps, evaluateEvery, evaluationBatches: 2 },
    onSent: (...args) => sent.push(args),
    onFault: (error) => faults.push(error),
  });
  return { feed, reads, sent, faults, closed: () => closed };
}

/** Whether a promise is still pending after all that can happen now has happened. */
async function isPending(promise: Promise<unknown>): Promise<boolean> {
  const later = new Promise((resolve) => setTimeout(() => resolve("later"), 5));
  return (await Promise.race([promise.then(() => "settled"), later])) === "later";
}

describe("batch feed", () => {
  it(`sends ${ROUNDS_AHEAD} steps at once and one more for each that the rank reports`, async () => {
    const { feed, reads } = makeFeed();
    const stream = feed.stream(0, never);
    for (let step = 0; step < ROUNDS_AHEAD; step++) {
      expect((await stream.next()).value).to.include({
        step,
        endOfStep: true,
        batchHash: 1000 + step,
      });
    }
    const next = stream.next();
    expect(await isPending(next)).to.equal(true);
    // Another rank's progress is no reason.
    feed.progress(1, 5);
    expect(await isPending(next)).to.equal(true);
    expect(reads.length).to.equal(ROUNDS_AHEAD);
    feed.progress(0, 1);
    expect((await next).value).to.include({ step: ROUNDS_AHEAD });
  });

  it("ends after the last step", async () => {
    const { feed } = makeFeed({ steps: 2 });
    const pieces: BatchPiece[] = [];
    for await (const piece of feed.stream(0, never)) pieces.push(piece);
    expect(pieces.map((p) => p.step)).to.deep.equal([0, 1]);
  });

  it("sends the batches of an evaluation after their step, under their own numbers", async () => {
    const { feed, sent } = makeFeed({ steps: 3, evaluateEvery: 2 });
    const pieces: BatchPiece[] = [];
    for await (const piece of feed.stream(0, never)) {
      feed.progress(0, pieces.push(piece));
    }
    expect(pieces.map((p) => [p.step, p.evaluation])).to.deep.equal([
      [0, undefined],
      [1, undefined],
      [1, 0],
      [1, 1],
      [2, undefined],
      [2, 0],
      [2, 1],
    ]);
    expect(sent.map(([, round]) => round)).to.deep.equal([0, 1, 2, 3, 4, 5, 6]);
  });

  it("cuts inputs into pieces of at most 1 MiB, ends the step once, and gives an empty input its message", async () => {
    const { feed, sent } = makeFeed({ inputs: [(2 << 20) + 3, 0, 5], steps: 1 });
    const pieces: BatchPiece[] = [];
    for await (const piece of feed.stream(1, never)) {
      expect(sent.length).to.equal(piece.endOfStep ? 1 : 0);
      pieces.push(piece);
    }
    expect(
      pieces.map((p) => [p.input, p.offsetBytes, p.data.length, p.endOfStep, p.batchHash]),
    ).to.deep.equal([
      [0, 0, 1 << 20, false, 0],
      [0, 1 << 20, 1 << 20, false, 0],
      [0, 2 << 20, 3, false, 0],
      [1, 0, 0, false, 0],
      [2, 0, 5, true, 1000],
    ]);
    expect(sent).to.deep.equal([[1, 0, 1000]]);
  });

  it("refuses a rank's second stream: its batches are gone", async () => {
    const { feed } = makeFeed();
    await feed.stream(0, never).next();
    expect(await caught(feed.stream(0, never).next())).to.be.instanceOf(FailedPreconditionError);
    expect((await feed.stream(1, never).next()).done).to.equal(false);
  });

  it("ends waiting streams when it is closed, and closes the source once", async () => {
    const { feed, closed } = makeFeed();
    const stream = feed.stream(0, never);
    for (let step = 0; step < ROUNDS_AHEAD; step++) await stream.next();
    const waiting = caught(stream.next());
    await feed.close();
    await feed.close();
    expect(await waiting).to.be.instanceOf(CancelledError);
    expect(closed()).to.equal(1);
  });

  it("tells of a failing source, and ends the stream with the same error", async () => {
    const { feed, faults } = makeFeed({ failAt: 1 });
    const stream = feed.stream(0, never);
    await stream.next();
    const error = await caught(stream.next());
    expect(error).to.be.instanceOf(DataLossError);
    expect(faults).to.deep.equal([error]);
  });
});
