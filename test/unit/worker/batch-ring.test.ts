import { expect } from "chai";
import fc from "fast-check";
import { type Round, roundName } from "../../../shared/job/rounds.ts";
import { BatchRing, type BatchVisitor } from "../../../worker/compute/batch-ring.ts";

/** Bytes by step and input, and the ends, in the order in which they came. */
class Collector implements BatchVisitor {
  readonly events: string[] = [];
  readonly bytes: number[] = [];
  #next = 0;

  piece(round: Round, input: number, offsetBytes: number, bytes: Uint8Array): void {
    expect(offsetBytes).to.equal(this.#next);
    this.#next += bytes.length;
    const key = `piece of ${roundName(round)}, input ${input}`;
    if (this.events.at(-1) !== key) this.events.push(key);
    this.bytes.push(...bytes);
  }

  end(round: Round, batchHash: number): void {
    this.events.push(`end of ${roundName(round)}, ${batchHash}`);
    this.#next = 0;
  }
}

describe("BatchRing", () => {
  it("hands on every byte in order, whatever the sizes and whoever is faster", () => {
    fc.assert(
      fc.property(
        fc.array(fc.integer({ min: 1, max: 700 }), { minLength: 1, maxLength: 30 }),
        fc.integer({ min: 160, max: 600 }),
        fc.infiniteStream(fc.boolean()),
        (sizes, capacityBytes, turns) => {
          const writer = new BatchRing({ capacityBytes });
          const reader = new BatchRing(writer.buffer);
          const collector = new Collector();
          const sent: number[] = [];
          const wanted: string[] = [];
          let wakes = 0;
          let asleep = false;
          const read = (): void => {
            if (reader.empty) return;
            reader.take(collector);
            if (reader.takeStalled()) {
              wakes++;
              asleep = false;
            }
          };
          const blocked = (done: () => boolean): void => {
            while (!done()) {
              asleep = true;
              // A writer that was refused must be woken by the reader alone.
              while (asleep) {
                expect(reader.empty, "a full ring that is empty").to.equal(false);
                read();
              }
            }
          };
          sizes.forEach((size, step) => {
            const round = { step, evaluation: step % 3 === 0 ? undefined : step % 3 };
            const bytes = Uint8Array.from({ length: size }, (_, i) => (step * 31 + i) & 255);
            sent.push(...bytes);
            wanted.push(
              `piece of ${roundName(round)}, input 2`,
              `end of ${roundName(round)}, ${4_000_000_000 + step}`,
            );
            let at = 0;
            blocked(() => {
              for (;;) {
                const taken = writer.writePiece(round, 2, at, bytes.subarray(at));
                at += taken;
                if (at === size) return true;
                if (taken === 0) return false;
              }
            });
            blocked(() => writer.writeEnd(round, 4_000_000_000 + step));
            if (turns.next().value) read();
          });
          while (!reader.empty) reader.take(collector);
          expect(collector.bytes).to.deep.equal(sent);
          expect(collector.events).to.deep.equal(wanted);
          expect(wakes).to.be.at.least(0);
        },
      ),
      { numRuns: 200 },
    );
  });

  it("carries steps and evaluations past 2^32", () => {
    const ring = new BatchRing({ capacityBytes: 256 });
    const collector = new Collector();
    ring.writePiece({ step: 2 ** 40, evaluation: 2 ** 33 }, 0, 0, Uint8Array.of(1));
    ring.take(collector);
    expect(collector.events).to.deep.equal([
      `piece of evaluation after step ${2 ** 40}, batch ${2 ** 33}, input 0`,
    ]);
  });

  it("says once that the writer was refused", () => {
    const ring = new BatchRing({ capacityBytes: 160 });
    while (ring.writeEnd({ step: 0, evaluation: undefined }, 0)) {
      // Fill it.
    }
    expect(ring.takeStalled()).to.equal(true);
    expect(ring.takeStalled()).to.equal(false);
  });
});
