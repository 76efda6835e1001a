import type { Kernels } from "../../kernels.ts";
import type { Launcher } from "../launcher.ts";
import { blocksOf, STREAM_THREADS } from "./blocks.ts";

type Reduce = "sum" | "mse" | "mseGrad" | "broadcast" | "sumSquares" | "sqrt" | "clipFactor";

/** Elements that a thread takes at a time in a sum, and elements of one thread elsewhere: as in reduce.cu. */
const SUMMED = 16;
const ELEMENTS = 8;

/** Parts that a sum is cut into at most: enough blocks for any device, few enough for one block to add. */
const MOST_PARTS = 1024;

/** Sums to scalars, and what is made of scalars. All are of float32 operands. */
export function reduceKernels(l: Launcher): Pick<Kernels, Reduce> {
  const sum = l.kernel("reduce", "rm_sum", "andaa");
  const mse = l.kernel("reduce", "rm_mse", "aandaa");
  const sumParts = l.kernel("reduce", "rm_sum_parts", "aida");
  const sumSquares = l.kernel("reduce", "rm_sum_squares", "ana");
  const sumSquaresParts = l.kernel("reduce", "rm_sum_squares_parts", "aia");
  const mseGrad = l.kernel("reduce", "rm_mse_grad", "aaaand");
  const broadcast = l.kernel("reduce", "rm_broadcast", "aand");
  const sqrt = l.kernel("reduce", "rm_sqrt", "aa");
  const clipFactor = l.kernel("reduce", "rm_clip_factor", "aad");
  const parts = l.scratch.address;
  // An empty sum is 0: one block writes it.
  const blocks = (n: number): number => Math.min(MOST_PARTS, Math.max(1, blocksOf(n, SUMMED)));
  const threads = STREAM_THREADS;

  return {
    sum(x, n, divisor, s) {
      const count = blocks(n);
      sum(count, threads, 0, x, n, divisor, parts, s);
      if (count > 1) sumParts(1, threads, 0, parts, count, divisor, s);
    },

    mse(x, y, n, divisor, s) {
      const count = blocks(n);
      mse(count, threads, 0, x, y, n, divisor, parts, s);
      if (count > 1) sumParts(1, threads, 0, parts, count, divisor, s);
    },

    sumSquares(x, n, s) {
      const count = blocks(n);
      sumSquares(count, threads, 0, x, n, count > 1 ? parts : s);
      if (count > 1) sumSquaresParts(1, threads, 0, parts, count, s);
    },

    mseGrad: (ds, x, y, dx, n, count) =>
      mseGrad(blocksOf(n, ELEMENTS), threads, 0, ds, x, y, dx, n, 2 / count),
    broadcast: (s, y, n, factor) => broadcast(blocksOf(n, ELEMENTS), threads, 0, s, y, n, factor),
    sqrt: (x, y) => sqrt(1, 32, 0, x, y),
    clipFactor: (norm, factor, maxNorm) => clipFactor(1, 32, 0, norm, factor, maxNorm),
  };
}
