import type { Kernels } from "../../kernels.ts";
import type { Launcher } from "../launcher.ts";
import { blocksOf, STREAM_THREADS } from "./blocks.ts";

type Random = "fillUniform" | "dropout";

/** Dims of `tensor_slice` in random.cu. */
const MOST_DIMS = 8;

export function randomKernels(l: Launcher): Pick<Kernels, Random> {
  return random(l, "f32", 4);
}

export function randomHalfKernels(l: Launcher): Pick<Kernels, Random> {
  return random(l, "bf16", 8);
}

/** @param lanes elements that one thread draws for, in dropout */
function random(l: Launcher, suffix: "f32" | "bf16", lanes: number): Pick<Kernels, Random> {
  const fillUniform = l.kernel("random", "rm_fill_uniform", "atuud");
  const dropout = l.kernel("random", `rm_dropout_${suffix}`, "aatuuanf");
  const sliceOf = packedSlices();

  return {
    fillUniform(y, shape, dims, seed, nameHash, bound) {
      const { n, slice } = sliceOf(shape, dims);
      fillUniform(blocksOf(n, 4), STREAM_THREADS, 0, y, slice, seed, nameHash, bound / 2 ** 23);
    },

    // The step is read on the device, so that a recorded launch serves every step.
    dropout(x, y, shape, dims, seed, name, _step, threshold, scale) {
      const { n, slice } = sliceOf(shape, dims);
      const blocks = blocksOf(n, lanes);
      dropout(blocks, STREAM_THREADS, 0, x, y, slice, seed, name, l.scalars, threshold, scale);
    },
  };
}

interface PackedSlice {
  readonly n: number;
  /** `tensor_slice`: n, dims, then MOST_DIMS global sizes, starts and local sizes. */
  readonly slice: BigUint64Array;
}

/** Slices as kernels take them, made once for each table of sizes. */
function packedSlices(): (shape: BigUint64Array, dims: number) => PackedSlice {
  const packed = new WeakMap<BigUint64Array, PackedSlice>();
  return (shape, dims) => {
    let found = packed.get(shape);
    if (found === undefined) {
      const local = shape.subarray(2 * dims, 3 * dims);
      const n = local.reduce((product, size) => product * size, 1n);
      const slice = new BigUint64Array(2 + 3 * MOST_DIMS);
      slice.set([n, BigInt(dims)]);
      for (let part = 0; part < 3; part++) {
        slice.set(shape.subarray(part * dims, (part + 1) * dims), 2 + part * MOST_DIMS);
      }
      found = { n: Number(n), slice };
      packed.set(shape, found);
    }
    return found;
  };
}
