import type { Kernels } from "../../kernels.ts";
import type { Launcher } from "../launcher.ts";
import { blocksOf, laneBits, rowBlocks, STREAM_THREADS } from "./blocks.ts";

/** Of one thread, as in bias.cu. */
const ROWS = 4;

/** Groups of neighbouring columns that a block sums. */
const GROUPS = 32;

/**
 * Blocks that sums of columns are cut into, about: four for each multiprocessor of the largest devices. A number of its own, so
 * that the order of the sums depends on sizes alone.
 */
const SUM_BLOCKS = 528;

/** Rows of a chunk at least. */
const CHUNK_ROWS = 64;

export function biasKernels(l: Launcher, suffix: "f32" | "bf16"): Pick<Kernels, "bias" | "biasDb"> {
  const bias = l.kernel("bias", `rm_bias_${suffix}`, "aaannii");
  const biasDb = l.kernel("bias", `rm_bias_db_${suffix}`, "aaannni");
  const biasDbParts = l.kernel("bias", "rm_bias_db_parts", "aann");
  const lanes = suffix === "f32" ? 4 : 8;
  const vectorLanes = (O: number, ...addresses: readonly number[]): number =>
    O % lanes === 0 && addresses.every((address) => address % 16 === 0) ? lanes : 1;

  return {
    bias(x, b, y, M, O) {
      const V = vectorLanes(O, x, y);
      const [blocks, bits] = [rowBlocks(O / V, M, ROWS), laneBits(O / V)];
      bias(blocks, STREAM_THREADS, 0, x, b, y, M, O, bits, V > 1 ? 1 : 0);
    },

    biasDb(dy, db, M, O) {
      if (O === 0) return;
      const V = vectorLanes(O, dy);
      const across = Math.ceil(O / V / GROUPS);
      const wanted = Math.min(
        Math.ceil(SUM_BLOCKS / across),
        Math.ceil(M / CHUNK_ROWS),
        Math.floor(l.scratch.bytes / (8 * O)),
      );
      const rows = Math.ceil(M / Math.max(1, wanted));
      const chunks = M === 0 ? 1 : Math.ceil(M / rows);
      const parts = chunks > 1 ? l.scratch.address : 0;
      const vectors = V > 1 ? 1 : 0;
      biasDb(across * chunks, STREAM_THREADS, 0, dy, db, parts, M, O, rows, vectors);
      if (chunks > 1) biasDbParts(blocksOf(O, 1), STREAM_THREADS, 0, parts, db, chunks, O);
    },
  };
}
