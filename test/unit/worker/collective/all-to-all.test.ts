import { expect } from "chai";
import { wireBytes } from "../../../../shared/collective/algorithm.ts";
import {
  bytesOf,
  descriptor,
  floatsOf,
  key,
  lineMesh,
  ranksInMemory,
} from "../../../support/collectives.ts";

describe("all-to-all", () => {
  for (const size of [1, 2, 3, 4, 7]) {
    for (const chunkElements of [0, 1, 5, 1000]) {
      it(`hands chunk p of ${chunkElements} floats to rank p, over ${size} ranks`, async () => {
        const fields = {
          op: "allToAll",
          algorithm: "direct",
          outer: 1,
          chunkElements,
          segmentBytes: 64,
        } as const;
        const collective = descriptor(size, fields);
        const { groups } = ranksInMemory(lineMesh(size), [collective], {}, {});
        const value = (from: number, to: number, i: number): number =>
          from * 10_000_019 + to * 1009 + i;
        const buffers = groups.map((_, from) => {
          const values = Array.from({ length: size * chunkElements }, (_x, at) =>
            value(from, Math.floor(at / chunkElements), at % chunkElements),
          );
          return { input: bytesOf(values), output: new Uint8Array(4 * values.length).fill(0xee) };
        });
        const inputs = buffers.map((b) => b.input.slice());
        await Promise.all(
          buffers.map(async (own, rank) => {
            await groups[rank]?.run(collective, key(0), own, 0);
          }),
        );
        buffers.forEach(({ input, output }, to) => {
          const want = Array.from({ length: size * chunkElements }, (_x, at) =>
            Math.fround(value(Math.floor(at / chunkElements), to, at % chunkElements)),
          );
          expect([...floatsOf(output)], `rank ${to}`).to.deep.equal(want);
          expect(input, `input of rank ${to}`).to.deep.equal(inputs[to]);
          expect(groups[to]?.sentBytes).to.equal(
            wireBytes("allToAll", "direct", input.length, size, 4),
          );
        });
      });
    }
  }
});
