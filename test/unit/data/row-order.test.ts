import { expect } from "chai";
import fc from "fast-check";
import { permutation, rowsOfBatch } from "../../../coordinator/data/row-order.ts";

function upTo(count: number): number[] {
  return Array.from({ length: count }, (_, i) => i);
}

describe("the order of rows", () => {
  it("is (step * batchSize + j) mod rows without a shuffle", () => {
    const order = { rows: 5, batchSize: 3, shuffleSeed: undefined };
    expect(rowsOfBatch(order, 0, 0, 3)).to.deep.equal([0, 1, 2]);
    expect(rowsOfBatch(order, 1, 0, 3)).to.deep.equal([3, 4, 0]);
    expect(rowsOfBatch(order, 1, 1, 3)).to.deep.equal([4, 0]);
    expect(rowsOfBatch(order, 7, 0, 3)).to.deep.equal([1, 2, 3]);
  });

  it("repeats rows inside a batch larger than the data", () => {
    const order = { rows: 2, batchSize: 5, shuffleSeed: undefined };
    expect(rowsOfBatch(order, 1, 0, 5)).to.deep.equal([1, 0, 1, 0, 1]);
  });

  it("stays exact past 2^53 rows in all", () => {
    const order = { rows: 7, batchSize: 2 ** 24 + 1, shuffleSeed: undefined };
    const step = Number.MAX_SAFE_INTEGER;
    const first = Number((BigInt(step) * BigInt(order.batchSize)) % 7n);
    expect(rowsOfBatch(order, step, 0, 3)).to.deep.equal([0, 1, 2].map((j) => (first + j) % 7));
  });

  for (const rows of [1, 2, 3, 4, 5, 17, 60, 64, 65, 1000]) {
    it(`shuffles ${rows} rows into a permutation`, () => {
      for (const pass of [0n, 1n, 2n ** 40n]) {
        const image = upTo(rows).map(permutation(rows, 3, pass));
        expect([...image].sort((a, b) => a - b)).to.deep.equal(upTo(rows));
      }
    });
  }

  it("shuffles anew for each pass and each seed", () => {
    const image = (seed: number, pass: bigint): string =>
      upTo(60)
        .map(permutation(60, seed, pass))
        .join();
    const images = [
      image(0, 0n),
      image(0, 1n),
      image(1, 0n),
      image(2 ** 33, 0n),
      image(0, 2n ** 32n),
    ];
    expect(new Set(images).size).to.equal(images.length);
    expect(image(0, 0n)).to.equal(image(0, 0n));
  });

  it("sends every row to every place about equally often", () => {
    const rows = 10;
    const passes = 2000;
    const counts = new Array<number>(rows * rows).fill(0);
    for (let pass = 0; pass < passes; pass++) {
      const permute = permutation(rows, 11, BigInt(pass));
      for (let i = 0; i < rows; i++) {
        const cell = i * rows + permute(i);
        counts[cell] = (counts[cell] ?? 0) + 1;
      }
    }
    // Each cell is binomial with mean 200 and deviation 13.4: five deviations are one in a million.
    for (const count of counts) expect(count).to.be.within(200 - 67, 200 + 67);
  });

  it("gives each pass every row once, however batches are cut into parts", () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 40 }),
        fc.integer({ min: 1, max: 12 }),
        fc.option(fc.nat(), { nil: undefined }),
        fc.array(fc.nat(12), { maxLength: 3 }),
        (rows, batchSize, shuffleSeed, cuts) => {
          const order = { rows, batchSize, shuffleSeed };
          const all: number[] = [];
          for (let step = 0; step * batchSize < 3 * rows; step++) {
            const bounds = [
              0,
              ...cuts.filter((c) => c < batchSize).sort((a, b) => a - b),
              batchSize,
            ];
            for (let i = 1; i < bounds.length; i++) {
              all.push(...rowsOfBatch(order, step, bounds[i - 1] ?? 0, bounds[i] ?? 0));
            }
          }
          for (let pass = 0; pass < 3; pass++) {
            const seen = all.slice(pass * rows, (pass + 1) * rows).sort((a, b) => a - b);
            expect(seen).to.deep.equal(upTo(rows));
          }
        },
      ),
    );
  });
});
