import { expect } from "chai";
import fc from "fast-check";
import type { Interval } from "../../../../shared/mesh/placement.ts";
import { fillStandardNormals } from "../../../../shared/random/normal.ts";
import { seededPermutation } from "../../../../shared/random/permutation.ts";
import { nameHash, PhiloxStream, philox4x32 } from "../../../../shared/random/philox.ts";
import { fillUniformSlice } from "../../../../shared/random/uniform.ts";

/** The answers that Random123 publishes for philox4x32-10: counter, key, result. */
const KNOWN_ANSWERS = [
  [
    "00000000 00000000 00000000 00000000",
    "00000000 00000000",
    "6627e8d5 e169c58d bc57ac4c 9b00dbd8",
  ],
  [
    "ffffffff ffffffff ffffffff ffffffff",
    "ffffffff ffffffff",
    "408f276d 41c83b0e a20bc7c6 6d5451fd",
  ],
  [
    "243f6a88 85a308d3 13198a2e 03707344",
    "a4093822 299f31d0",
    "d16cfe09 94fdcceb 5001e420 24126ea1",
  ],
] as const;

const words = (text: string): Uint32Array =>
  Uint32Array.from(text.split(" "), (word) => Number.parseInt(word, 16));

describe("philox4x32-10", () => {
  for (const [counter, key, result] of KNOWN_ANSWERS) {
    it(`gives ${result} for counter ${counter}`, () => {
      const out = new Uint32Array(4);
      const [low, high] = words(key);
      philox4x32(out, words(counter), low ?? 0, high ?? 0);
      expect([...out]).to.deep.equal([...words(result)]);
    });
  }

  it("hashes names by FNV-1a, 64 bits", () => {
    expect(nameHash("")).to.deep.equal({ low: 0x84222325, high: 0xcbf29ce4 });
    expect(nameHash("a")).to.deep.equal({ low: 0x8601ec8c, high: 0xaf63dc4c });
    expect(nameHash("foobar")).to.deep.equal({ low: 0xf739_67e8, high: 0x8594_4171 });
  });

  it("puts seed, block and name hash into key and counter", () => {
    const seed = 5 * 2 ** 32 + 7;
    const block = 2 ** 33 + 3;
    const { low, high } = nameHash("w1.weight");
    const out = new Uint32Array(4);
    philox4x32(out, Uint32Array.of(3, 2, low, high), 7, 5);
    const stream = new PhiloxStream(seed, "w1.weight");
    expect([0, 1, 2, 3].map((lane) => stream.word(block * 4 + lane))).to.deep.equal([...out]);
  });

  it("reads the same words in any order", () => {
    const forward = new PhiloxStream(3, "x");
    const backward = new PhiloxStream(3, "x");
    const ahead = Array.from({ length: 40 }, (_, i) => forward.word(i));
    const back = Array.from({ length: 40 }, (_, i) => backward.word(39 - i)).reverse();
    expect(back).to.deep.equal(ahead);
    expect(new Set(ahead).size).to.equal(40);
  });
});

describe("uniform initial values", () => {
  const whole = (globalShape: number[], bound = 0.5): Float32Array => {
    const target = new Float32Array(globalShape.reduce((n, dim) => n * dim, 1));
    const intervals = globalShape.map((end) => ({ start: 0, end }));
    fillUniformSlice(target, { seed: 1, name: "w", bound, globalShape, intervals });
    return target;
  };

  it("makes any slice equal to that part of the whole tensor", () => {
    const dims = fc.array(fc.integer({ min: 0, max: 6 }), { minLength: 0, maxLength: 4 });
    const cuts = fc.array(fc.tuple(fc.nat(6), fc.nat(6)), { minLength: 4, maxLength: 4 });
    fc.assert(
      fc.property(dims, cuts, (globalShape, cut) => {
        const intervals: Interval[] = globalShape.map((size, dim) => {
          const ends = (cut[dim] ?? [0, 0])
            .map((value) => Math.min(value, size))
            .sort((a, b) => a - b);
          return { start: ends[0] ?? 0, end: ends[1] ?? 0 };
        });
        const all = whole(globalShape);
        const wanted = [...all].filter((_, flat) => {
          let rest = flat;
          return [...globalShape].reverse().every((size, i) => {
            const { start, end } = intervals[globalShape.length - 1 - i] ?? { start: 0, end: 0 };
            const index = rest % size;
            rest = Math.floor(rest / size);
            return start <= index && index < end;
          });
        });
        const part = new Float32Array(
          intervals.reduce((n, { start, end }) => n * (end - start), 1),
        );
        fillUniformSlice(part, { seed: 1, name: "w", bound: 0.5, globalShape, intervals });
        expect([...part]).to.deep.equal(wanted);
      }),
    );
  });

  it("stays in [-bound, bound) with the mean and variance of a uniform distribution", () => {
    const values = whole([100, 1000], 2);
    const mean = values.reduce((sum, x) => sum + x, 0) / values.length;
    const variance = values.reduce((sum, x) => sum + x * x, 0) / values.length;
    expect(Math.max(...values))
      .to.be.below(2)
      .and.above(1.999);
    expect(Math.min(...values))
      .to.be.at.least(-2)
      .and.below(-1.999);
    // Five standard deviations of the estimates over 1e5 values.
    expect(mean).to.be.closeTo(0, 0.02);
    expect(variance).to.be.closeTo(4 / 3, 0.02);
  });

  it("differs by name and by seed", () => {
    const make = (seed: number, name: string): number[] => {
      const target = new Float32Array(8);
      fillUniformSlice(target, {
        seed,
        name,
        bound: 1,
        globalShape: [8],
        intervals: [{ start: 0, end: 8 }],
      });
      return [...target];
    };
    expect(make(0, "w1")).to.deep.equal(make(0, "w1"));
    expect(make(0, "w1")).not.to.deep.equal(make(0, "w2"));
    expect(make(0, "w1")).not.to.deep.equal(make(1, "w1"));
    expect(make(1, "w1")).not.to.deep.equal(make(1 + 2 ** 32, "w1"));
  });
});

describe("standard normal values", () => {
  it("are the Box-Muller pair of each two words", () => {
    const stream = new PhiloxStream(9, "x");
    const radius = Math.sqrt(-2 * Math.log((stream.word(2) + 1) / 2 ** 32));
    const angle = 2 * Math.PI * (stream.word(3) / 2 ** 32);
    const pair = new Float32Array(2);
    fillStandardNormals(pair, { seed: 9, name: "x", start: 2 });
    expect([...pair]).to.deep.equal([
      Math.fround(radius * Math.cos(angle)),
      Math.fround(radius * Math.sin(angle)),
    ]);
  });

  for (const start of [0, 1, 7]) {
    it(`can be made from value ${start} on`, () => {
      const all = new Float32Array(20);
      fillStandardNormals(all, { seed: 4, name: "y" });
      const part = new Float32Array(10);
      fillStandardNormals(part, { seed: 4, name: "y", start });
      expect([...part]).to.deep.equal([...all.subarray(start, start + 10)]);
    });
  }

  it("have mean 0 and variance 1", () => {
    const values = new Float32Array(100_000);
    fillStandardNormals(values, { seed: 0, name: "x" });
    const mean = values.reduce((sum, x) => sum + x, 0) / values.length;
    const variance = values.reduce((sum, x) => sum + x * x, 0) / values.length;
    // Five standard deviations of the estimates.
    expect(mean).to.be.closeTo(0, 0.016);
    expect(variance).to.be.closeTo(1, 0.023);
  });
});

describe("seeded permutation", () => {
  for (const length of [0, 1, 2, 3, 100]) {
    it(`holds each of ${length} numbers once`, () => {
      const order = seededPermutation(length, 5, "shuffle/0");
      expect([...order].sort((a, b) => a - b)).to.deep.equal(Array.from({ length }, (_, i) => i));
    });
  }

  it("repeats for a seed and name, and differs for others", () => {
    const make = (seed: number, name: string): number[] => [...seededPermutation(50, seed, name)];
    expect(make(1, "shuffle/0")).to.deep.equal(make(1, "shuffle/0"));
    expect(make(1, "shuffle/0")).not.to.deep.equal(make(1, "shuffle/1"));
    expect(make(1, "shuffle/0")).not.to.deep.equal(make(2, "shuffle/0"));
  });

  it("puts every number in every place about equally often", () => {
    const counts = new Array<number>(25).fill(0);
    for (let seed = 0; seed < 5000; seed++) {
      seededPermutation(5, seed, "s").forEach((value, place) => {
        const cell = value * 5 + place;
        counts[cell] = (counts[cell] ?? 0) + 1;
      });
    }
    // 1000 expected, standard deviation 28: six of them.
    for (const count of counts) expect(count).to.be.within(830, 1170);
  });
});
