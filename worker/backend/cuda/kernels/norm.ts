import type { Address, Kernels } from "../../kernels.ts";
import type { Launch, Launcher } from "../launcher.ts";

type Norm = "norm" | "normGrad";

/** Rows of a block where each warp has one, as in norm.cu. */
const WARPS = 4;
/** Columns of a block of `rm_norm_columns`, and rows that it adds at once, at most. */
const COLUMNS = 32;
const COLUMN_ROWS = 32;
/** Rows that one warp or block sums at least, before it hands its sums on. */
const SUMMED_ROWS = 4;
/** Threads of a multiprocessor that the registers of gradients leave room for. */
const RESIDENT_THREADS = { warp8: 1024, warp32: 512, block16: 768, block32: 512, any: 1024 };

/** How rows of a width are shared out: the kernels' name, threads of a block, and rows that a block has at once. */
interface Shape {
  readonly name: keyof typeof RESIDENT_THREADS;
  readonly threads: number;
  readonly rows: number;
}

export function normKernels(l: Launcher): Pick<Kernels, Norm> {
  return norms(l, "f32", 4);
}

export function normHalfKernels(l: Launcher): Pick<Kernels, Norm> {
  return norms(l, "bf16", 2);
}

function norms(l: Launcher, suffix: "f32" | "bf16", elementBytes: number): Pick<Kernels, Norm> {
  const both = (name: string): { forward: Launch; gradient: Launch } => ({
    forward: l.kernel("norm", `rm_norm_${name}_${suffix}`, "aaaannf"),
    gradient: l.kernel("norm", `rm_norm_grad_${name}_${suffix}`, "iaaaaannf"),
  });
  const launches = {
    warp8: both("warp8"),
    warp32: both("warp32"),
    block16: both("block16"),
    block32: both("block32"),
    any: both("any"),
  };
  const columns = l.kernel("norm", "rm_norm_columns", "aann");

  return {
    norm(x, g, b, y, M, D, eps) {
      if (D === 0) return;
      const { name, threads, rows } = shapeOf(D, elementBytes, x, g, b, y);
      launches[name].forward(Math.ceil(M / rows), threads, 0, x, g, b, y, M, D, eps);
    },

    normGrad(layer, dy, x, g, dx, dg, M, D, eps) {
      if (D === 0) return;
      const { name, threads, rows } = shapeOf(D, elementBytes, dy, x, g, dx);
      const { gradient } = launches[name];
      if (dg === 0) {
        gradient(Math.ceil(M / rows), threads, 0, layer, dy, x, g, dx, 0, M, D, eps);
        return;
      }
      if (M === 0) {
        l.zero(dg, 4 * D);
        return;
      }
      const resident =
        Math.max(1, Math.floor(RESIDENT_THREADS[name] / threads)) * l.multiprocessors;
      const fitting = Math.floor(l.scratch.bytes / (4 * D));
      const wanted = Math.min(Math.ceil(M / (rows * SUMMED_ROWS)), resident, fitting);
      // One block's sums are dg itself. So are those of rows too wide for the scratch.
      const blocks = Math.max(1, wanted);
      const sums = blocks === 1 && (name === "any" || dg % 16 === 0) ? dg : l.scratch.address;
      gradient(blocks, threads, 0, layer, dy, x, g, dx, sums, M, D, eps);
      if (sums === dg) return;
      const adding = Math.min(COLUMN_ROWS, Math.ceil(blocks / 4));
      columns(Math.ceil(D / COLUMNS), 32 * adding, 0, sums, dg, blocks, D);
    },
  };
}

/** Rows stay in registers where they are whole aligned vectors and not too wide. */
function shapeOf(D: number, elementBytes: number, ...operands: readonly Address[]): Shape {
  const isVector = (D * elementBytes) % 16 === 0 && operands.every((address) => address % 16 === 0);
  if (!isVector || D > 16384) {
    return { name: "any", threads: Math.min(256, 32 * Math.ceil(D / 32)), rows: 1 };
  }
  if (D <= 256) return { name: "warp8", threads: 32 * WARPS, rows: WARPS };
  if (D <= 1024) return { name: "warp32", threads: 32 * WARPS, rows: WARPS };
  if (D <= 8192) return { name: "block16", threads: 32 * Math.ceil(D / 512), rows: 1 };
  return { name: "block32", threads: 32 * Math.ceil(D / 1024), rows: 1 };
}
