import { InternalError } from "../../../../../shared/errors.ts";
import type { Kernels } from "../../../kernels.ts";
import type { Launcher } from "../launcher.ts";
import type { WgslKernel } from "../wgsl-kernel.ts";
import { doubleWords } from "./reduce.ts";

const MOST_DIMS = 8;
const WORD = 2n ** 32n;

/** float((2u - 1) bound) with u = (word >> 8) / 2^24: unit is bound / 2^23, and all but the product, in float64, is exact. */
const FILL_UNIFORM = {
  name: "fillUniform",
  operands: { y: "f32" },
  params: {
    dims: "u32",
    key0: "u32",
    key1: "u32",
    name0: "u32",
    name1: "u32",
    unitLow: "u32",
    unitHigh: "u32",
  },
  table: { of: "vec4<u32>", length: MOST_DIMS },
  libraries: ["float64", "philox"],
  by: "each",
  code: `
    fn run(i: u32) {
      let e = global_index(i);
      let words = philox(vec4<u32>((e.x >> 2u) | (e.y << 30u), e.y >> 2u, params.name0, params.name1));
      let whole = f32(i32(words[e.x & 3u] >> 8u) - 8388608);
      let unit = vec2<u32>(params.unitLow, params.unitHigh);
      set_y(i, f64_to_f32(f64_mul(f64_from_f32(whole), unit)));
    }`,
} as const satisfies WgslKernel;

/** Element e is kept when lane e % 4 of block (e / 4, step, name) is at least the threshold. */
const DROPOUT = {
  name: "dropout",
  operands: { x: "f32", y: "f32" },
  params: {
    dims: "u32",
    key0: "u32",
    key1: "u32",
    name0: "u32",
    name1: "u32",
    step: "u32",
    threshold: "u32",
    scale: "f32",
  },
  table: { of: "vec4<u32>", length: MOST_DIMS },
  libraries: ["float64", "philox"],
  by: "each",
  code: `
    fn run(i: u32) {
      let e = global_index(i);
      let words = philox(vec4<u32>((e.x >> 2u) | (e.y << 30u), params.step, params.name0, params.name1));
      let kept = x(i) * params.scale;
      set_y(i, select(0.0f, kept, words[e.x & 3u] >= params.threshold));
    }`,
} as const satisfies WgslKernel;

export function random(launcher: Launcher): Pick<Kernels, "fillUniform" | "dropout"> {
  return {
    fillUniform(y, shape, dims, seed, nameHash, bound) {
      const { table, n } = sliceTable(shape, dims);
      const unit = doubleWords(bound / 8388608);
      const [key0, key1] = wordsOf(seed);
      const [name0, name1] = wordsOf(nameHash);
      launcher.launch(FILL_UNIFORM, {
        operands: { y: [y, n] },
        params: { dims, key0, key1, name0, name1, unitLow: unit.low, unitHigh: unit.high },
        table,
        n,
      });
    },
    dropout(x, y, shape, dims, seed, name, step, threshold, scale) {
      const { table, n } = sliceTable(shape, dims);
      const [key0, key1] = wordsOf(seed);
      const [name0, name1] = wordsOf(name);
      launcher.launch(DROPOUT, {
        operands: { x: [x, n], y: [y, n] },
        params: { dims, key0, key1, name0, name1, step, threshold, scale },
        table,
        n,
      });
    },
  };
}

/** Global size, start and local size of every dim, and elements of the slice. */
function sliceTable(shape: BigUint64Array, dims: number): { table: Uint32Array; n: number } {
  const table = new Uint32Array(4 * MOST_DIMS);
  let n = 1;
  for (let dim = 0; dim < dims; dim++) {
    [0, 1, 2].forEach((field) => {
      const value = shape[field * dims + dim] ?? 0n;
      if (value >= WORD) throw new InternalError(`a dim of ${value} does not fit in 32 bits`);
      table[4 * dim + field] = Number(value);
    });
    n *= table[4 * dim + 2] ?? 0;
  }
  return { table, n };
}

function wordsOf(x: bigint): [low: number, high: number] {
  return [Number(x % WORD), Number((x / WORD) % WORD)];
}
