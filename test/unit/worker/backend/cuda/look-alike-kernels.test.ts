import { expect } from "chai";
import { fromBfloat16, toBfloat16 } from "../../../../../shared/bfloat16.ts";
import { pseudoRandom } from "../../../../support/conformance.ts";
import { f32, f64, i32, ok } from "../../../../support/cuda-calls.ts";
import { buildLookAlike, lookAlike } from "../../../../support/look-alike.ts";
import { LookAlikeDevice } from "../../../../support/look-alike-device.ts";

const range = <T>(count: number, f: (i: number) => T): T[] =>
  Array.from({ length: count }, (_, i) => f(i));
const lanes = (f: (lane: number) => number): number[] => range(32, f);

describe("the look-alike driver", () => {
  let device: LookAlikeDevice;
  before(buildLookAlike);
  beforeEach(() => {
    device = new LookAlikeDevice();
  });
  afterEach(() => device.close());

  const random = (count: number, salt: number): Float32Array =>
    Float32Array.from(range(count, (i) => pseudoRandom(i, salt)));

  describe("runs kernels", () => {
    it("over more blocks than one thread of the host takes at once", () => {
      const n = 100_003;
      const [x, y] = [random(n, 1), random(n, 2)];
      const [dx, dy] = [device.upload(x), device.upload(y)];
      ok(device.launch("probe_axpy", [Math.ceil(n / 256), 256], [dx, dy, f32(2), BigInt(n)]));
      // Twice a float is exact, so that fusing the product into the sum changes nothing.
      const want = y.map((value, i) => Math.fround(value + 2 * (x[i] ?? 0)));
      expect(device.floats(dy, n)).to.deep.equal(want);
    });

    it("with indices along three axes of grids and blocks", () => {
      const out = device.alloc(4 * 24 * 30);
      const grid = [2, 3, 4] as const;
      const block = [5, 3, 2] as const;
      ok(device.launch("probe_indices", [grid, block], [out]));
      const want = range(24 * 30, (i) => {
        const t = i % 30;
        return (
          (t % 5) +
          100 * (Math.floor(t / 5) % 3) +
          10000 * Math.floor(t / 15) +
          1e6 * Math.floor(i / 30)
        );
      });
      expect([...device.ints(out, 24 * 30)]).to.deep.equal(want);
    });

    it("with arguments of every size, and structs by value", () => {
      const out = device.alloc(12);
      const struct = new DataView(new ArrayBuffer(24));
      struct.setFloat64(0, 0.5, true);
      struct.setInt32(8, 3, true);
      struct.setBigUint64(16, out, true);
      const bytes = new Uint8Array(struct.buffer);
      const half = new Uint8Array(Uint16Array.of(1000).buffer);
      ok(device.launch("probe_arguments", [1, 1], [bytes, Uint8Array.of(0), half, f64(0.25)]));
      expect([...device.floats(out, 3)]).to.deep.equal([999.75, 999.75, 999.75]);
    });

    it("whose threads meet at barriers, in static shared memory", () => {
      const x = Float32Array.from(range(70 * 256, (i) => (i * 37) % 101));
      const out = device.alloc(4 * 70);
      ok(device.launch("probe_tree", [70, 256], [device.upload(x), out]));
      const want = range(70, (b) => x.subarray(b * 256, (b + 1) * 256).reduce((s, v) => s + v, 0));
      expect([...device.floats(out, 70)]).to.deep.equal(want);
    });

    it("in dynamic shared memory, with blocks that end in half a warp", () => {
      const x = random(3 * 80, 3);
      const out = device.alloc(4 * 240);
      ok(device.launch("probe_reverse", [3, 80], [device.upload(x), out], { shared: 320 }));
      const want = range(240, (i) => x[Math.floor(i / 80) * 80 + 79 - (i % 80)] ?? 0);
      expect([...device.floats(out, 240)]).to.deep.equal(want);
    });

    it("whose lanes shuffle and vote as in CUDA", () => {
      const out = device.alloc(4 * 11 * 32);
      ok(device.launch("probe_warp", [1, 32], [out]));
      const got = device.ints(out, 11 * 32);
      const way = (k: number): number[] => [...got.subarray(32 * k, 32 * (k + 1))];
      expect(way(0), "shfl").to.deep.equal(lanes(() => 5));
      expect(way(1), "shfl of 8").to.deep.equal(lanes((l) => (l & ~7) + 3));
      expect(way(2), "shfl_down").to.deep.equal(lanes((l) => (l + 4 < 32 ? l + 4 : l)));
      expect(way(3), "shfl_down of 8").to.deep.equal(lanes((l) => (l % 8 < 4 ? l + 4 : l)));
      expect(way(4), "shfl_up").to.deep.equal(lanes((l) => (l >= 3 ? l - 3 : l)));
      expect(way(5), "shfl_up of 16").to.deep.equal(lanes((l) => (l % 16 >= 3 ? l - 3 : l)));
      expect(way(6), "shfl_xor").to.deep.equal(lanes((l) => l ^ 17));
      expect(way(7), "ballot").to.deep.equal(lanes(() => 0b01001001001001001001001001001001 | 0));
      expect(way(8), "any and all").to.deep.equal(lanes(() => 3));
      expect(way(9), "halves apart").to.deep.equal(
        lanes((l) => (l < 16 ? 2 * (l & ~1) + 1 : 4 * (2 * (l & ~1) + 1))),
      );
      expect(way(10), "double").to.deep.equal(lanes((l) => 2 * (l ^ 1) + 1));
    });

    it("whose lanes leave while others go on", () => {
      const out = device.alloc(4 * 32);
      ok(device.launch("probe_leaving", [1, 32], [out]));
      // Lane l takes part in rounds 0 to l, and adds the round's number.
      const want = lanes((l) => range(Math.min(l, 7) + 1, (i) => i).reduce((s, v) => s + v, 0));
      expect([...device.ints(out, 32)]).to.deep.equal(want);
    });

    it("backwards in every other block, and launch of one block, so that a missing barrier shows", () => {
      const x = device.upload(Float32Array.from({ length: 192 }, (_, i) => i));
      const out = device.alloc(4 * 192);
      const right = (blocks: number): boolean[] => {
        ok(device.launch("probe_race", [blocks, 96], [x, out], { shared: 384 }));
        const got = device.floats(out, 96 * blocks);
        return range(blocks, (b) =>
          range(96, (t) => got[96 * b + t] === 96 * b + (t < 32 ? t : t - 32)).every(Boolean),
        );
      };
      expect(right(2).sort()).to.deep.equal([false, true]);
      expect([...right(1), ...right(1)].sort()).to.deep.equal([false, true]);
    });

    it("whose barriers count votes, without threads that have left", () => {
      const out = device.alloc(4 * 5);
      ok(device.launch("probe_count", [5, 100], [out]));
      expect([...device.ints(out, 5)]).to.deep.equal([33, 33, 33, 33, 33]);
    });
  });

  describe("has tensor cores", () => {
    const half = (count: number, salt: number): Uint16Array =>
      Uint16Array.from(random(count, salt), toBfloat16);
    const product = (a: Uint16Array, b: Uint16Array): number[] =>
      range(128, (i) => {
        const [row, column] = [Math.floor(i / 8), i % 8];
        const terms = range(
          16,
          (k) => fromBfloat16(a[row * 16 + k] ?? 0) * fromBfloat16(b[k * 8 + column] ?? 0),
        );
        return terms.reduce((s, v) => s + v, 0);
      });

    for (const kernel of ["probe_mma", "probe_ldmatrix_mma"]) {
      it(`that multiply fragments: ${kernel}`, () => {
        const [a, b] = [half(256, 4), half(128, 5)];
        const d = device.alloc(4 * 128);
        ok(
          device.launch(kernel, [1, 32], [device.upload(a), device.upload(b), d], { shared: 768 }),
        );
        const want = product(a, b);
        device.floats(d, 128).forEach((value, i) => {
          expect(value, `element ${i}`).to.be.closeTo(want[i] ?? 0, 1e-6);
        });
      });
    }

    it("whose ldmatrix hands out rows, or columns, of four matrices", () => {
      const out = device.alloc(4 * 128);
      for (const transposed of [0, 1]) {
        ok(device.launch("probe_ldmatrix", [1, 32], [out, i32(transposed)], { shared: 512 }));
        const want = range(128, (i) => {
          const [matrix, lane] = [Math.floor(i / 32), i % 32];
          const [g, t] = [Math.floor(lane / 4), lane % 4];
          const at = (row: number, column: number): number => 64 * matrix + 8 * row + column;
          const [low, high] = transposed
            ? [at(2 * t, g), at(2 * t + 1, g)]
            : [at(g, 2 * t), at(g, 2 * t + 1)];
          return low + high * 65536;
        });
        expect([...device.ints(out, 128)], `transposed: ${transposed}`).to.deep.equal(want);
      }
    });

    it("whose copies arrive when the thread waits for their group, and not before", () => {
      const x = device.upload(Float32Array.from(range(12, (i) => i + 1)));
      const out = device.alloc(48);
      const seen = (keep: number): number[] => {
        ok(device.launch("probe_async", [1, 1], [x, out, i32(keep)], { shared: 48 }));
        return [...device.floats(out, 12)];
      };
      const groups = [
        [1, 2, 3, 4],
        [5, 6, 7, 8],
        [0, 0, 0, 0],
      ];
      const missing = lanes(() => Number.NaN).slice(0, 4);
      expect(seen(0)).to.deep.equal(groups.flat());
      expect(seen(1)).to.deep.equal([...groups.slice(0, 2), missing].flat());
      expect(seen(2)).to.deep.equal([...groups.slice(0, 1), missing, missing].flat());
    });

    it("that round pairs to bfloat16, halves to even", () => {
      const values = [
        1,
        -2,
        1 + 2 ** -8,
        1 + 3 * 2 ** -8,
        3e38,
        3.4e38,
        Number.NaN,
        Number.NEGATIVE_INFINITY,
      ];
      const out = device.alloc(16);
      ok(device.launch("probe_pack", [1, 4], [device.upload(Float32Array.from(values)), out]));
      const halves = new Uint16Array(device.ints(out, 4).buffer);
      expect([...halves]).to.deep.equal([
        0x3f80, 0xc000, 0x3f80, 0x3f82, 0x7f62, 0x7f80, 0x7fff, 0xff80,
      ]);
    });
  });

  describe("ends the context when a kernel", () => {
    const wrongs: readonly (readonly [
      what: string,
      how: number,
      at: bigint,
      status: number,
      heard: RegExp,
    ])[] = [
      [
        "writes just past an allocation",
        0,
        16n,
        700,
        /^probe_wrong wrote past the end of an allocation of 64 bytes$/,
      ],
      [
        "writes just before an allocation",
        0,
        -1n,
        700,
        /wrote before the start of an allocation of 64 bytes/,
      ],
      [
        "waits at a barrier that others never reach",
        1,
        0n,
        719,
        /7 wait at __syncthreads and 25 in functions of their warp/,
      ],
      [
        "shuffles under a mask without itself",
        2,
        0n,
        719,
        /a lane shuffles under a mask without it/,
      ],
      [
        "shuffles under masks that do not agree",
        3,
        0n,
        719,
        /of 64 threads, 0 wait at __syncthreads and 64 in/,
      ],
      ["writes to an address that is no memory", 4, 4096n, 700, /reached for address 0x1000/],
      ["makes an access that is not aligned", 5, 1n, 716, /not aligned to its size/],
      [
        "writes past its dynamic shared memory",
        6,
        64n,
        700,
        /past the end of its 256 bytes of dynamic shared memory/,
      ],
      ["traps", 7, 0n, 717, /__trap/],
      ["divides by zero", 8, 0n, 719, /divided an integer by zero/],
      [
        "copies 16 bytes to where they are not aligned",
        9,
        0n,
        716,
        /cp_async16: the shared address is not aligned/,
      ],
      ["needs more stack than there is", 10, 0n, 719, /more than 64 KiB of stack/],
    ];
    for (const [what, how, at, status, heard] of wrongs) {
      it(what, () => {
        const { cuda } = device;
        const x = device.alloc(64);
        ok(device.launch("probe_wrong", [3, 64], [i32(how), x, at], { shared: 256 }));
        expect(cuda.cuCtxSynchronize()).to.equal(status);
        const said = lookAlike().heard().join();
        expect(said, said).to.match(heard);
        // And all that comes after is told the same.
        expect(cuda.cuMemFree_v2(x)).to.equal(status);
        expect(device.launch("probe_wrong", [1, 1], [i32(-1), x, 0n])).to.equal(status);
        expect(cuda.cuMemcpyDtoH_v2(new Uint8Array(4), x, 4)).to.equal(status);
        // Until the context is a new one.
        ok(cuda.cuDevicePrimaryCtxReset_v2(0));
        ok(cuda.cuCtxSynchronize());
        expect(device.alloc(64)).not.to.equal(0n);
      });
    }

    it("is given an address of no memory", () => {
      ok(device.launch("probe_indices", [1, 1], [0x1234_5678_9000n]));
      expect(device.cuda.cuCtxSynchronize()).to.equal(700);
      expect(lookAlike().heard()).to.deep.equal([
        "probe_indices was given 0x123456789000 as argument 0: in no memory that the device knows",
      ]);
    });
  });

  describe("refuses a launch", () => {
    const refusals: readonly (readonly [
      what: string,
      name: string,
      grid: Parameters<LookAlikeDevice["launch"]>[1],
      shared: number,
    ])[] = [
      ["without blocks", "probe_indices", [0, 32], 0],
      ["without threads", "probe_indices", [1, 0], 0],
      ["of more than 1024 threads", "probe_indices", [1, [32, 32, 2]], 0],
      ["of more than 65535 blocks along y", "probe_indices", [[1, 65536, 1], 32], 0],
      [
        "with more than 48 KiB of shared memory that nobody opted in to",
        "probe_indices",
        [1, 32],
        49153,
      ],
    ];
    for (const [what, name, grid, shared] of refusals) {
      it(what, () => {
        expect(device.launch(name, grid, [device.alloc(1 << 20)], { shared })).to.equal(1);
      });
    }

    it("but for shared memory that was opted in to, as far as the device has it", () => {
      const { cuda } = device;
      const [MAX_SHARED_PER_BLOCK, MAX_DYNAMIC_SHARED] = [97, 8];
      const out = new Int32Array(1);
      ok(cuda.cuDeviceGetAttribute(out, MAX_SHARED_PER_BLOCK, 0));
      const [limit = 0] = out;
      const kernel = device.kernel("probe_reverse");
      expect(cuda.cuFuncSetAttribute(kernel, MAX_DYNAMIC_SHARED, limit + 1)).to.equal(1);
      ok(cuda.cuFuncSetAttribute(kernel, MAX_DYNAMIC_SHARED, limit));
      const x = device.upload(Float32Array.of(1, 2, 3, 4));
      ok(device.launch("probe_reverse", [1, 4], [x, x], { shared: limit }));
      expect([...device.floats(x, 4)]).to.deep.equal([4, 3, 2, 1]);
      expect(device.launch("probe_reverse", [1, 4], [x, x], { shared: limit + 1 })).to.equal(1);
    });
  });
});
