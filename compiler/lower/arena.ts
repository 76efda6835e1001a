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
    .map((buffer, index) => ({ index, bytes: align(buffer.bytes), start: buffer.start }))
    .sort((a, b) => b.bytes - a.bytes || a.start - b.start || a.index - b.index);
  // Placed buffers by offset, field by field: the loop over them is what placing thousands of buffers costs.
  const placed = {
    offset: new Float64Array(buffers.length),
    end: new Float64Array(buffers.length),
    firstUse: new Float64Array(buffers.length),
    lastUse: new Float64Array(buffers.length),
  };
  const fields = Object.values(placed);
  let total = 0;
  order.forEach(({ index, bytes }, numPlaced) => {
    const own = buffers[index];
    if (own === undefined) throw new InternalError(`no buffer ${index}`);
    const offset = tightestGap(placed, numPlaced, own, bytes);
    offsets[index] = offset;
    total = Math.max(total, offset + bytes);
    const position = firstBehind(placed.offset, numPlaced, offset);
    for (const field of fields) field.copyWithin(position + 1, position, numPlaced);
    placed.offset[position] = offset;
    placed.end[position] = offset + bytes;
    placed.firstUse[position] = own.start;
    placed.lastUse[position] = own.end;
  });
  return { offsets, bytes: total };
}

/** Buffers that have their places; [i] of each field belongs to the i-th by offset. */
interface Placed {
  readonly offset: Float64Array;
  /** Behind its last byte. */
  readonly end: Float64Array;
  readonly firstUse: Float64Array;
  readonly lastUse: Float64Array;
}

/** Offset of the smallest gap that holds `bytes` between buffers that live beside `own`; behind them where none does. */
function tightestGap(
  { offset, end, firstUse, lastUse }: Placed,
  numPlaced: number,
  own: LiveBuffer,
  bytes: number,
): number {
  let best = -1;
  let bestGap = Number.POSITIVE_INFINITY;
  let free = 0;
  for (let i = 0; i < numPlaced; i++) {
    if ((lastUse[i] ?? 0) < own.start || (firstUse[i] ?? 0) > own.end) continue;
    const gap = (offset[i] ?? 0) - free;
    if (gap >= bytes && gap < bestGap) {
      best = free;
      bestGap = gap;
    }
    free = Math.max(free, end[i] ?? 0);
  }
  return best >= 0 ? best : free;
}

/** Index of the first placed buffer with an offset beyond this one. */
function firstBehind(offsets: Float64Array, numPlaced: number, offset: number): number {
  let [low, high] = [0, numPlaced];
  while (low < high) {
    const middle = (low + high) >>> 1;
    if ((offsets[middle] ?? 0) > offset) high = middle;
    else low = middle + 1;
  }
  return low;
}
