import { expect } from "chai";
import fc from "fast-check";
import { ALIGN_BYTES, type LiveBuffer, planArena } from "../../../compiler/lower/arena.ts";

const buffer = fc
  .record({ bytes: fc.integer({ min: 0, max: 5000 }), start: fc.nat(40), length: fc.nat(15) })
  .map(({ bytes, start, length }): LiveBuffer => ({ bytes, start, end: start + length }));

describe("arena plan", () => {
  it("never lets two buffers that live at one time share a byte", () => {
    fc.assert(
      fc.property(fc.array(buffer, { maxLength: 60 }), (buffers) => {
        const { offsets, bytes } = planArena(buffers);
        buffers.forEach((a, i) => {
          const [from, to] = [offsets[i] ?? -1, (offsets[i] ?? 0) + a.bytes];
          expect(from % ALIGN_BYTES).to.equal(0);
          expect(to).to.be.at.most(bytes);
          buffers.slice(0, i).forEach((b, j) => {
            if (a.end < b.start || b.end < a.start) return;
            const [otherFrom, otherTo] = [offsets[j] ?? -1, (offsets[j] ?? 0) + b.bytes];
            expect(
              to <= otherFrom || otherTo <= from,
              `${i} [${from}, ${to}) and ${j} [${otherFrom}, ${otherTo})`,
            ).to.equal(true);
          });
        });
      }),
      { numRuns: 300 },
    );
  });

  it("reaches the sum of what lives at one time for buffers of one size", () => {
    const chain = Array.from(
      { length: 20 },
      (_, i): LiveBuffer => ({ bytes: 1024, start: i, end: i + 1 }),
    );
    expect(planArena(chain).bytes).to.equal(2 * 1024);
  });

  it("is empty for no buffers", () => {
    expect(planArena([])).to.deep.equal({ offsets: [], bytes: 0 });
  });
});
