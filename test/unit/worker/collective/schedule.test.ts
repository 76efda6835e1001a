import { expect } from "chai";
import fc from "fast-check";
import { wireBytes } from "../../../../shared/collective/algorithm.ts";
import type { CollectiveOp } from "../../../../shared/program/program.ts";
import type { CollectiveShape, Region } from "../../../../worker/collective/chunk-layout.ts";
import { forEachRun, fullBytes, segmentsOf } from "../../../../worker/collective/chunk-layout.ts";
import { laneBytes, type Schedule } from "../../../../worker/collective/schedule.ts";
import { scheduleOf } from "../../../../worker/collective/schedule-of.ts";

const shapes = fc
  .record({
    op: fc.constantFrom<CollectiveOp>("allReduce", "allGather", "reduceScatter"),
    algorithm: fc.constantFrom("ring" as const, "direct" as const),
    size: fc.integer({ min: 1, max: 8 }),
    outer: fc.integer({ min: 1, max: 5 }),
    chunkElements: fc.integer({ min: 0, max: 40 }),
    elementBytes: fc.constantFrom(4, 8),
    segmentBytes: fc.integer({ min: 1, max: 200 }),
  })
  .map((shape) => ({ ...shape, outer: shape.op === "allReduce" ? 1 : shape.outer }));

function schedules(shape: Omit<CollectiveShape, "index">): Schedule[] {
  return Array.from({ length: shape.size }, (_, index) => scheduleOf({ ...shape, index }));
}

function bytesIn({ start, end }: Region): number {
  return end - start;
}

describe("schedules", () => {
  it("pair every frame sent with one received: same place in the lane, same region", () => {
    fc.assert(
      fc.property(shapes, (shape) => {
        const all = schedules(shape);
        all.forEach((schedule, from) => {
          for (const lane of schedule.sends) {
            const other = all[lane.peer]?.receives.find((receive) => receive.peer === from);
            expect(other?.items.map(({ region }) => region)).to.deep.equal(
              lane.items.map(({ region }) => region),
            );
          }
          const sources = schedule.receives.filter(({ items }) => items.length > 0);
          for (const { peer } of sources) {
            expect(all[peer]?.sends.some((lane) => lane.peer === from)).to.equal(true);
          }
        });
      }),
    );
  });

  it("send at most wireBytes, and one rank sends exactly that", () => {
    fc.assert(
      fc.property(shapes, (shape) => {
        const { op, algorithm, size, elementBytes, outer, chunkElements } = shape;
        const full = outer * chunkElements * elementBytes * (op === "allReduce" ? 1 : size);
        const sent = schedules(shape).map(({ sends }) => laneBytes(sends));
        expect(Math.max(...sent)).to.equal(wireBytes(op, algorithm, full, size, elementBytes));
      }),
    );
  });

  it("of a ring reduce every chunk once on every rank it passes: N - 1 additions in all", () => {
    fc.assert(
      fc.property(shapes, (shape) => {
        if (shape.algorithm !== "ring" || shape.op === "allGather" || shape.size < 2) return;
        const additions = new Map<number, number>();
        for (const { receives } of schedules(shape)) {
          for (const { region, action } of receives.flatMap(({ items }) => items)) {
            if (action === "store") continue;
            additions.set(region.chunk, (additions.get(region.chunk) ?? 0) + bytesIn(region));
          }
        }
        const [first] = schedules(shape);
        if (first === undefined) return;
        for (const [chunk, bytes] of additions) {
          const whole = segmentsOf(first.layout, chunk, 1 << 20).reduce(
            (sum, region) => sum + bytesIn(region),
            0,
          );
          expect(bytes).to.equal(whole * (shape.size - 1));
        }
      }),
    );
  });

  it("pass on only what has come before: a relay's frame lies earlier in the lane and has its region", () => {
    fc.assert(
      fc.property(shapes, (shape) => {
        for (const { sends, receives } of schedules(shape)) {
          for (const { region, relays } of sends.flatMap(({ items }) => items)) {
            if (relays < 0) continue;
            expect(receives[0]?.items[relays]?.region).to.deep.equal(region);
          }
        }
      }),
    );
  });
});

describe("chunk layout", () => {
  it("cuts the full tensor into runs that cover every byte once", () => {
    fc.assert(
      fc.property(shapes, (shape) => {
        const { layout } = scheduleOf({ ...shape, index: 0 });
        const covered = new Uint8Array(fullBytes(layout));
        for (let chunk = 0; chunk < layout.chunks; chunk++) {
          for (const region of segmentsOf(layout, chunk, shape.segmentBytes)) {
            let next = 0;
            forEachRun(layout, region, (offset, at, length) => {
              expect(at).to.equal(next);
              next += length;
              for (let i = offset; i < offset + length; i++) covered[i] = (covered[i] ?? 0) + 1;
            });
            expect(next).to.equal(bytesIn(region));
            expect(next % shape.elementBytes).to.equal(0);
          }
        }
        expect(covered.every((count) => count === 1)).to.equal(true);
      }),
    );
  });
});
