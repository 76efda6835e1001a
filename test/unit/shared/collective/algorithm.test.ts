import { expect } from "chai";
import fc from "fast-check";
import {
  chooseAlgorithm,
  chunkLength,
  chunkStart,
  wireBytes,
} from "../../../../shared/collective/algorithm.ts";
import { InternalError } from "../../../../shared/errors.ts";

describe("choice of algorithm", () => {
  const choices: readonly [string, number, number, "direct" | "ring"][] = [
    ["two ranks, 4 KiB", 4096, 2, "direct"],
    ["two ranks, 64 MiB: a ring's bytes in half its latency", 64 << 20, 2, "direct"],
    ["four ranks, 4 KiB", 4096, 4, "direct"],
    ["four ranks, 64 MiB", 64 << 20, 4, "ring"],
  ];
  for (const [name, bytes, size, algorithm] of choices) {
    it(`${name}: ${algorithm}`, () => {
      expect(chooseAlgorithm("allReduce", bytes, size).algorithm).to.equal(algorithm);
    });
  }

  it("is a function of its arguments, with segments between 512 KiB and 1 MiB, whole in float64", () => {
    for (let bytes = 1; bytes < 1e9; bytes = bytes * 3 + 5) {
      for (const size of [1, 2, 3, 8, 64]) {
        const { segmentBytes } = chooseAlgorithm("allReduce", bytes, size);
        expect(segmentBytes).to.be.within(1 << 19, 1 << 20);
        expect(segmentBytes % 8).to.equal(0);
      }
    }
  });
});

describe("wire bytes", () => {
  const cases: readonly [Parameters<typeof wireBytes>, number][] = [
    [["allReduce", "ring", 262144, 2, 4], 262144],
    [["allReduce", "direct", 262144, 2, 4], 262144],
    [["allReduce", "ring", 4000, 4, 4], 6000],
    [["allReduce", "direct", 4000, 4, 4], 12000],
    [["allGather", "ring", 4000, 4, 4], 3000],
    [["reduceScatter", "direct", 4000, 4, 4], 3000],
    [["allReduce", "ring", 0, 4, 4], 0],
    [["allReduce", "ring", 4000, 1, 4], 0],
    // Chunks 2 2 1: a rank leaves out the chunks of the next two, here at least 2 + 1 of 5 elements.
    [["allReduce", "ring", 20, 3, 4], 28],
    // One element: it is rank 0's chunk, goes round once to be summed and once as the result.
    [["allReduce", "ring", 4, 4, 4], 8],
  ];
  for (const [args, bytes] of cases) {
    const [op, algorithm, full, size] = args;
    it(`${algorithm} ${op} of ${full} bytes over ${size} ranks: ${bytes}`, () => {
      expect(wireBytes(...args)).to.equal(bytes);
    });
  }

  it("refuses ragged chunks of an all-gather, with the numbers", () => {
    expect(() => wireBytes("allGather", "ring", 4004, 4, 4)).to.throw(
      InternalError,
      "allGather of 4004 bytes over 4 ranks leaves ragged chunks of 4-byte elements",
    );
  });
});

describe("chunks", () => {
  it("follow each other without gap and differ by one element at most", () => {
    fc.assert(
      fc.property(fc.nat(1e9), fc.integer({ min: 1, max: 64 }), (elements, parts) => {
        let end = 0;
        for (let i = 0; i < parts; i++) {
          expect(chunkStart(elements, parts, i)).to.equal(end);
          const length = chunkLength(elements, parts, i);
          expect(length - Math.floor(elements / parts)).to.be.within(0, 1);
          end += length;
        }
        expect(end).to.equal(elements);
      }),
    );
  });
});
