import { InternalError } from "../../../../shared/errors.ts";
import type { Precision } from "../../../../shared/program/program.ts";
import type { Address, Kernels } from "../../kernels.ts";
import { NULL } from "../../kernels.ts";
import type { Launch, Launcher } from "../launcher.ts";
import { wordBytes } from "./blocks.ts";

type Linear = "linear" | "linearDx";

const THREADS = 256;

/**
 * Rows up to which the kernels of linear.cu run; more go to cuBLAS. They read every weight once, at M multiply-adds each, and
 * x or dy from caches, M bytes for each byte of four weights: at 16 float32 rows that is half of what an H100 multiplies and
 * reads in the time that the weights take. A weight of bfloat16 takes half of that time.
 */
const FEW_ROWS: Readonly<Record<Precision, number>> = { float32: 16, bfloat16: 8 };

/** Rows that there are kernels for, of weights in vectors and of others; fewer rows take the next. */
const ROW_COUNTS = {
  float32: { vectors: [1, 4, 8, 16], odd: [8, 16] },
  bfloat16: { vectors: [8], odd: [8] },
} as const;

/** Weight rows of a block of `linear`: 8 warps of 4. */
const LINEAR_ROWS = 32;

/** Weight rows that a warp of `linearDx` takes at a time, and its block of 8 warps at least. */
const WARP_ROWS = 32;
const LEAST_SPAN = 256;
/** Blocks of `linearDx` that fill a device: twice what an H100 holds. A number of shapes alone, since sums depend on it. */
const DX_BLOCKS = 512;

export function linearKernels(l: Launcher): Pick<Kernels, Linear> {
  return linearOf(l, "float32");
}

export function linearHalfKernels(l: Launcher): Pick<Kernels, Linear> {
  return linearOf(l, "bfloat16");
}

function linearOf(l: Launcher, precision: Precision): Pick<Kernels, Linear> {
  const [suffix, bytes] = precision === "float32" ? ["f32", 4] : ["bf16", 2];
  const mostRows = FEW_ROWS[precision];
  const forward = byRows(l, `rm_linear_${suffix}`, "aaainn", ROW_COUNTS[precision]);
  const backward = byRows(l, `rm_linear_dx_${suffix}`, "aaaainnn", ROW_COUNTS[precision]);
  const sumParts = l.kernel("linear", `rm_linear_dx_sum_${suffix}`, "aann");
  const operands = { inputs: precision, output: precision } as const;
  const inVectors = (I: number, ...addresses: readonly Address[]): boolean =>
    wordBytes(I * bytes, ...addresses) === 16;

  return {
    linear(x, w, y, M, O, I) {
      if (M === 0 || O === 0) return;
      if (I === 0) l.zero(y, M * O * bytes);
      else if (M > mostRows) {
        l.blas.multiply({
          ...operands,
          ...{ m: M, n: O, k: I, a: x, transposeA: false, b: w, transposeB: true, c: y },
        });
      } else {
        const launch = forward(M, inVectors(I, x, w));
        launch(Math.ceil(O / LINEAR_ROWS), THREADS, 0, x, w, y, M, O, I);
      }
    },

    linearDx(dy, w, dx, M, O, I) {
      if (M === 0 || I === 0) return;
      if (O === 0) l.zero(dx, M * I * bytes);
      else if (M > mostRows) {
        l.blas.multiply({
          ...operands,
          ...{ m: M, n: I, k: O, a: dy, transposeA: false, b: w, transposeB: false, c: dx },
        });
      } else {
        const vectors = inVectors(I, w);
        const across = (perLane: number): number => Math.ceil(I / (32 * perLane));
        const wanted = Math.min(DX_BLOCKS / across(16 / bytes), O / LEAST_SPAN);
        const parts = Math.max(1, Math.floor(wanted));
        const span = WARP_ROWS * Math.ceil(O / parts / WARP_ROWS);
        const sums = parts === 1 ? NULL : l.scratch.address;
        const blocks = across(vectors ? 16 / bytes : 4) * parts;
        backward(M, vectors)(blocks, THREADS, 0, dy, w, dx, sums, M, O, I, span);
        if (parts > 1) sumParts(Math.ceil((M * I) / THREADS), THREADS, 0, sums, dx, parts, M * I);
      }
    },
  };
}

/** Launches by how many rows there are: of the kernel that moves vectors, or of the one for rows that are not aligned to them. */
function byRows(
  l: Launcher,
  name: string,
  kinds: string,
  counts: Readonly<Record<"vectors" | "odd", readonly number[]>>,
): (M: number, vectors: boolean) => Launch {
  const launches = (list: readonly number[], end: string): (readonly [number, Launch])[] =>
    list.map((rows) => [rows, l.kernel("linear", `${name}_${rows}${end}`, kinds)]);
  const [aligned, odd] = [launches(counts.vectors, ""), launches(counts.odd, "_odd")];
  return (M, vectors) => {
    const found = (vectors ? aligned : odd).find(([rows]) => rows >= M);
    if (found === undefined) throw new InternalError(`no kernel of ${name} for ${M} rows`);
    return found[1];
  };
}
