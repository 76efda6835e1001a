import { InternalError } from "../../shared/errors.ts";

/** Offsets are multiples of this: kernels read aligned, and a WebGPU binding may begin at any buffer. */
export const ALIGN_BYTES = 256;

export const align = (bytes: number): number => Math.ceil(bytes / ALIGN_BYTES) * ALIGN_BYTES;

/** Buffers from this size on are worth staggering. */
const SPREAD_BYTES = 64 * 1024;
const PAGE_BYTES = 4096;

/**
 * Aligned size of a buffer that others of its size follow: two pages and a unit more where the next would begin at the same
 * distance into a page. An update streams through weight and moments side by side; with equal low address bits their
 * loads and stores are taken for each other's, which cost it half its speed; one unit alone won most of it back, the
 * pages the rest.
 */
export function spread(bytes: number): number {
  const aligned = align(bytes);
  return aligned >= SPREAD_BYTES && aligned % PAGE_BYTES === 0
    ? aligned + 2 * PAGE_BYTES + ALIGN_BYTES
    : aligned;
}

/** A buffer that lives from schedule position `start` to `end`, both included. */
export interface LiveBuffer {
  readonly bytes: number;
  readonly start: number;
  readonly end: number;
}

export interface ArenaPlan {
  /** Offset of each buffer, in the order given. */
  readonly offsets: readonly number[];
  readonly bytes: number;
}

/**
 * Places buffers so that no two that live at one time share a byte: largest first, each into the tightest gap that the
 * buffers living beside it leave (Pisarchyk and Lee 2020, arXiv:2001.03288, greedy by size). O(n^2) in the buffers.
 */
export function planArena(buffers: readonly LiveBuffer[]): ArenaPlan {
  const offsets = new Array<number>(buffers.length).fill(0);
  const order = buffers
    .map((_, index) => index)
    .sort((a, b) => size(b) - size(a) || startOf(a) - startOf(b) || a - b);
  /** Placed buffers by offset. */
  const placed: number[] = [];
  let total = 0;
  for (const index of order) {
    const own = at(index);
    const bytes = size(index);
    let best = -1;
    let bestGap = Number.POSITIVE_INFINITY;
    let free = 0;
    for (const other of placed) {
      const buffer = at(other);
      if (buffer.end < own.start || buffer.start > own.end) continue;
      const offset = offsets[other] ?? 0;
      const gap = offset - free;
      if (gap >= bytes && gap < bestGap) [best, bestGap] = [free, gap];
      free = Math.max(free, offset + size(other));
    }
    const offset = best >= 0 ? best : free;
    offsets[index] = offset;
    total = Math.max(total, offset + bytes);
    let position = placed.findIndex((other) => (offsets[other] ?? 0) > offset);
    if (position < 0) position = placed.length;
    placed.splice(position, 0, index);
  }
  return { offsets, bytes: total };

  function at(index: number): LiveBuffer {
    const buffer = buffers[index];
    if (buffer === undefined) throw new InternalError(`no buffer ${index}`);
    return buffer;
  }
  function size(index: number): number {
    return align(at(index).bytes);
  }
  function startOf(index: number): number {
    return at(index).start;
  }
}
