import { expect } from "chai";
import { Backoff } from "../../../worker/backoff.ts";
import {
  COLLECTIVE_DONE,
  ComputeAborted,
  ControlBlock,
  MainThreadSilent,
  NOT_WAITING,
} from "../../../worker/compute/control-block.ts";

describe("ControlBlock", () => {
  it("shows both sides the same words", () => {
    const main = new ControlBlock({ numCollectives: 3 });
    const compute = new ControlBlock(main.buffer);
    expect(main.waiting).to.equal(NOT_WAITING);
    compute.stepsDone = 2 ** 40;
    compute.batchHash = 0xffff_fff0;
    compute.step = 2 ** 41;
    compute.microbatch = 3;
    expect([main.stepsDone, main.batchHash, main.step, main.microbatch]).to.deep.equal([
      2 ** 40,
      0xffff_fff0,
      2 ** 41,
      3,
    ]);
    main.completeCollective(2);
    expect([0, 1, 2].map((i) => compute.collectiveState(i))).to.deep.equal([0, 0, COLLECTIVE_DONE]);
  });

  it("counts pieces of inputs that are there, and has a bit for each of outputs that is final, by collective", () => {
    const main = new ControlBlock({ numCollectives: 3 });
    const compute = new ControlBlock(main.buffer);
    compute.setArrivedPieces(1, 32);
    for (const piece of [0, 5, 31]) main.finishPiece(1, piece);
    main.finishPiece(2, 1);
    expect([0, 1, 2].map((i) => main.arrivedPieces(i))).to.deep.equal([0, 32, 0]);
    expect([0, 1, 2].map((i) => compute.finalPieces(i) >>> 0)).to.deep.equal([0, 0x8000_0021, 2]);
    expect([0, 1, 2].map((i) => compute.collectiveState(i))).to.deep.equal([0, 0, 0]);
    compute.clearPieces(1);
    expect([main.arrivedPieces(1), main.finalPieces(1), main.finalPieces(2)]).to.deep.equal([
      0, 0, 2,
    ]);
  });

  it("ends a wait by abort", () => {
    const main = new ControlBlock({ numCollectives: 0 });
    const compute = new ControlBlock(main.buffer);
    main.abort();
    expect(() => compute.waitUntil(() => false, 0, 60_000)).to.throw(ComputeAborted);
    expect(main.waiting).to.equal(NOT_WAITING);
  });

  it("ends a wait when the main thread no longer ticks", () => {
    const compute = new ControlBlock({ numCollectives: 0 });
    expect(() => compute.waitUntil(() => false, 0, 10)).to.throw(
      MainThreadSilent,
      "no sign of life for 1 s",
    );
  });
});

describe("Backoff", () => {
  it("doubles up to its limit, spread over the upper half, and starts anew", () => {
    for (const [random, share] of [
      [0, 0.5],
      [1, 1],
    ] as const) {
      const backoff = new Backoff(100, 1_000, () => random);
      const delays = Array.from({ length: 6 }, () => backoff.next());
      expect(delays).to.deep.equal([100, 200, 400, 800, 1_000, 1_000].map((ms) => ms * share));
      backoff.reset();
      expect(backoff.next()).to.equal(100 * share);
    }
  });
});
