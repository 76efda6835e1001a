import { InternalError } from "../../../../shared/errors.ts";
import type { Kernels } from "../../kernels.ts";
import type { Launch, Launcher } from "../launcher.ts";
import { blocksOf, laneBits, rowBlocks, STREAM_THREADS, wordBytes } from "./blocks.ts";

type Movement = "fill" | "zero" | "copy" | "transpose";

/** Of one thread, as in movement.cu. */
const FILLED = 16;
const ROWS = 4;
/** A tile's width in bytes. */
const TILE_BYTES = 128;

export function movementKernels(l: Launcher): Pick<Kernels, Movement> {
  return movement(l, 4);
}

export function movementHalfKernels(l: Launcher): Pick<Kernels, Movement> {
  return movement(l, 2);
}

/** @param elementBytes of the words that `transpose` moves */
function movement(l: Launcher, elementBytes: 2 | 4): Pick<Kernels, Movement> {
  const fill = l.kernel("movement", "rm_fill", "anf");
  const copyRows = byWord([1, 2, 4, 8, 16], (bytes) =>
    l.kernel("movement", `rm_copy_rows_${bytes}`, "anannni"),
  );
  const transposeRows = byWord([2, 4, 8, 16], (bytes) =>
    l.kernel("movement", `rm_transpose_rows_${bytes}`, "aannnnni"),
  );
  const transposeTiles = l.kernel("movement", `rm_transpose_tiles_${elementBytes}`, "aannn");

  return {
    fill(y, n, value) {
      if (Object.is(Math.fround(value), 0)) l.zero(y, 4 * n);
      else fill(blocksOf(n, FILLED), STREAM_THREADS, 0, y, n, value);
    },

    zero: (y, bytes) => l.zero(y, bytes),

    copy(to, toStride, from, fromStride, rowBytes, rows) {
      if (rows === 0 || rowBytes === 0) return;
      if (to === from && (rows === 1 || toStride === fromStride)) return;
      if (rows === 1 || (toStride === rowBytes && fromStride === rowBytes)) {
        l.copy(to, from, rowBytes * rows);
        return;
      }
      const bytes = wordBytes(to, toStride, from, fromStride, rowBytes);
      const words = rowBytes / bytes;
      const [blocks, bits] = [rowBlocks(words, rows, ROWS), laneBits(words)];
      copyRows(bytes)(blocks, STREAM_THREADS, 0, to, toStride, from, fromStride, words, rows, bits);
    },

    transpose(x, y, outer, A, between, B, inner) {
      const rows = outer * A * between * B;
      if (rows * inner === 0) return;
      if (inner === 1) {
        const tile = TILE_BYTES / elementBytes;
        const tiles = Math.ceil(A / tile) * Math.ceil(B / tile);
        transposeTiles(outer * between * tiles, STREAM_THREADS, 0, x, y, A, between, B);
        return;
      }
      const rowBytes = inner * elementBytes;
      const bytes = wordBytes(x, y, rowBytes);
      const words = rowBytes / bytes;
      const [blocks, bits] = [rowBlocks(words, rows, ROWS), laneBits(words)];
      transposeRows(bytes)(blocks, STREAM_THREADS, 0, x, y, rows, A, between, B, words, bits);
    },
  };
}

/** The launches of a kernel that there is for several word sizes. */
function byWord(
  sizes: readonly number[],
  kernel: (bytes: number) => Launch,
): (bytes: number) => Launch {
  const launches = new Map(sizes.map((bytes) => [bytes, kernel(bytes)]));
  return (bytes) => {
    const launch = launches.get(bytes);
    if (launch === undefined) throw new InternalError(`no kernel moves words of ${bytes} bytes`);
    return launch;
  };
}
