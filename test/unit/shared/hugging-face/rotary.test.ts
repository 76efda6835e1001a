import { expect } from "chai";
import fc from "fast-check";
import {
  huggingFaceRow,
  interleaveRows,
  modelRow,
  rotaryRows,
  splitRows,
} from "../../../../shared/hugging-face/rotary.ts";

const headDim = fc.integer({ min: 1, max: 9 }).map((half) => 2 * half);
const heads = fc.integer({ min: 1, max: 4 });

describe("rotary order", () => {
  it("has the even rows of a head of 6 first and then the odd ones", () => {
    const rows = Array.from({ length: 12 }, (_, row) => huggingFaceRow(row, 6));
    expect(rows).to.deep.equal([0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]);
  });

  it("is undone by the other direction, and moves no row to another head", () => {
    fc.assert(
      fc.property(headDim, heads, (size, count) => {
        for (let row = 0; row < size * count; row++) {
          expect(modelRow(huggingFaceRow(row, size), size)).to.equal(row);
          expect(huggingFaceRow(modelRow(row, size), size)).to.equal(row);
          expect(Math.floor(huggingFaceRow(row, size) / size)).to.equal(Math.floor(row / size));
        }
      }),
    );
  });

  it("brings the partner of a row, half a head on, beside it", () => {
    fc.assert(
      fc.property(headDim, heads, (size, count) => {
        for (let row = 0; row < size * count; row += 2) {
          expect(huggingFaceRow(row + 1, size)).to.equal(huggingFaceRow(row, size) + size / 2);
        }
      }),
    );
  });

  it("cuts any rows into parts whose even and odd rows lie together, each row once, in few parts", () => {
    const rows = fc.tuple(headDim, heads).chain(([size, count]) =>
      fc.record({
        size: fc.constant(size),
        start: fc.integer({ min: 0, max: size * count }),
        end: fc.integer({ min: 0, max: size * count }),
        maxRows: fc.integer({ min: 1, max: 2 * size }),
        rowBytes: fc.integer({ min: 1, max: 3 }),
      }),
    );
    fc.assert(
      fc.property(rows, ({ size, start, end, maxRows, rowBytes }) => {
        // Row r of the Hugging Face weight holds the row of the model that belongs there.
        const file = (from: number, to: number): Uint8Array =>
          Uint8Array.from({ length: Math.max(0, to - from) * rowBytes }, (_, byte) =>
            modelRow(from + Math.floor(byte / rowBytes), size),
          );
        const got: number[] = [];
        let parts = 0;
        for (const part of rotaryRows({ start, end }, size, maxRows)) {
          parts += 1;
          const even = file(part.even.start, part.even.end);
          const odd = file(part.odd.start, part.odd.end);
          const together = interleaveRows(part, even, odd, rowBytes);
          got.push(...together);
          expect(part.rows.end - part.rows.start).to.be.within(1, maxRows);
          expect(splitRows(part, together, rowBytes)).to.deep.equal({ even, odd });
        }
        const wanted = Math.max(0, end - start);
        expect(got).to.deep.equal(
          Array.from(
            { length: wanted * rowBytes },
            (_, byte) => start + Math.floor(byte / rowBytes),
          ),
        );
        const perHead = Math.ceil(size / maxRows);
        expect(parts).to.be.at.most((Math.floor(wanted / size) + 2) * perHead);
      }),
    );
  });
});
