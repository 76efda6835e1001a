import type { Kernels } from "../../kernels.ts";
import type { Launcher } from "../launcher.ts";

type Rows = "ceStats" | "ceGrad";
type CrossEntropy = Rows | "ceMerge" | "ceLoss";

/** Rows of a block where each warp has one, and widest such row. As in cross_entropy.cu, as all here. */
const WARPS = 4;
const WARP_ROW = 1024;
/** Vectors of a thread whose loads are in flight at once. */
const IN_FLIGHT = 4;
/** Threads of a block that sums up losses, and tokens of it. */
const LOSS_THREADS = 256;
const LOSS_TOKENS = 1024;
/** Threads of other blocks. Statistics of wide rows take more: they are shared by fewer blocks. */
const THREADS = 256;
const WIDE_THREADS = 512;
const WIDE_ROW = 16384;
/** How often a thread of a gradient goes on, once its loads are there: so it forms the row's quotients seldom. */
const ROUNDS = 4;

export function crossEntropyKernels(l: Launcher): Pick<Kernels, CrossEntropy> {
  const merge = l.kernel("cross_entropy", "rm_ce_merge", "aann");
  const loss = l.kernel("cross_entropy", "rm_ce_loss", "aaand");
  const lossSum = l.kernel("cross_entropy", "rm_ce_loss_sum", "anad");
  const partial = l.scratch.address;
  return {
    ...rows(l, "f32", 4),

    ceMerge(blocks, s, parts, M) {
      merge(Math.ceil(M / THREADS), THREADS, 0, blocks, s, parts, M);
    },

    ceLoss(s, to, M, count) {
      const blocks = Math.max(1, Math.ceil(M / LOSS_TOKENS));
      loss(blocks, LOSS_THREADS, 0, s, partial, to, M, count);
      if (blocks > 1) lossSum(1, LOSS_THREADS, 0, partial, blocks, to, count);
    },
  };
}

export function crossEntropyHalfKernels(l: Launcher): Pick<Kernels, Rows> {
  return rows(l, "bf16", 2);
}

function rows(l: Launcher, suffix: "f32" | "bf16", elementBytes: number): Pick<Kernels, Rows> {
  const both = (name: string, kinds: string) => ({
    warp: l.kernel("cross_entropy", `rm_ce_${name}_warp_${suffix}`, kinds),
    block: l.kernel("cross_entropy", `rm_ce_${name}_block_${suffix}`, kinds),
  });
  const stats = both("stats", "aaannn");
  const grad = both("grad", "aaaaannndi");
  const perRound = (THREADS * IN_FLIGHT * 16) / elementBytes;

  return {
    ceStats(z, t, s, M, V, first) {
      if (V <= WARP_ROW) stats.warp(Math.ceil(M / WARPS), 32 * WARPS, 0, z, t, s, M, V, first);
      else stats.block(M, V < WIDE_ROW ? THREADS : WIDE_THREADS, 0, z, t, s, M, V, first);
    },

    ceGrad(ds, z, t, s, dz, M, V, first, count) {
      if (V <= WARP_ROW) {
        grad.warp(Math.ceil(M / WARPS), 32 * WARPS, 0, ds, z, t, s, dz, M, V, first, count, 1);
        return;
      }
      const pieces = Math.ceil(V / (perRound * ROUNDS));
      grad.block(M * pieces, THREADS, 0, ds, z, t, s, dz, M, V, first, count, pieces);
    },
  };
}
