/** Where the bytes of a chunk lie in a full tensor. Pure. */
import { chunkLength, chunkStart } from "../../shared/collective/algorithm.ts";
import type { CollectiveOp } from "../../shared/program/program.ts";

/** What a schedule needs to know of a collective; the same on all ranks of the group but for `index`. */
export interface CollectiveShape {
  readonly op: CollectiveOp;
  readonly algorithm: "direct" | "ring";
  /** Ranks in the group. */
  readonly size: number;
  /** This rank's place in the group. */
  readonly index: number;
  readonly outer: number;
  /** Elements of one chunk row; for allReduce all elements. */
  readonly chunkElements: number;
  readonly elementBytes: number;
  readonly segmentBytes: number;
}

/** Bytes [start, end) of a chunk, counted through its rows as if they were joined. */
export interface Region {
  readonly chunk: number;
  readonly start: number;
  readonly end: number;
}

/** A full tensor [outer, chunks, row]: row k of chunk c begins at k * strideBytes + offset of c. */
export interface ChunkLayout {
  readonly chunks: number;
  readonly outer: number;
  readonly strideBytes: number;
  readonly elementBytes: number;
  /** Elements of a whole row of all chunks. */
  readonly rowElements: number;
}

/** How the full tensor of `shape` is cut: ragged by elements for a ring all-reduce, whole for a direct one. */
export function layoutOf(shape: CollectiveShape): ChunkLayout {
  const { op, algorithm, size, outer, chunkElements, elementBytes } = shape;
  if (op === "allReduce") {
    const chunks = algorithm === "ring" ? size : 1;
    const rowElements = outer * chunkElements;
    return { chunks, outer: 1, strideBytes: rowElements * elementBytes, elementBytes, rowElements };
  }
  const rowElements = size * chunkElements;
  return {
    chunks: size,
    outer,
    strideBytes: rowElements * elementBytes,
    elementBytes,
    rowElements,
  };
}

export function fullBytes(layout: ChunkLayout): number {
  return layout.outer * layout.strideBytes;
}

/** Bytes of one row of a chunk. */
export function rowBytes(layout: ChunkLayout, chunk: number): number {
  return chunkLength(layout.rowElements, layout.chunks, chunk) * layout.elementBytes;
}

/** Bytes of all rows of a chunk. */
export function chunkBytes(layout: ChunkLayout, chunk: number): number {
  return layout.outer * rowBytes(layout, chunk);
}

/** The segments of a chunk in order, each of whole elements and at most `segmentBytes` (but of one element at least). */
export function segmentsOf(layout: ChunkLayout, chunk: number, segmentBytes: number): Region[] {
  const { elementBytes } = layout;
  const step = Math.max(1, Math.floor(segmentBytes / elementBytes)) * elementBytes;
  const total = chunkBytes(layout, chunk);
  const segments: Region[] = [];
  for (let start = 0; start < total; start += step) {
    segments.push({ chunk, start, end: Math.min(total, start + step) });
  }
  return segments;
}

/** Whether a chunk's bytes are one run of the full tensor. */
export function isContiguous(layout: ChunkLayout): boolean {
  return layout.outer <= 1 || layout.chunks === 1;
}

/**
 * Visits the runs of a region: `offset` in the full tensor, `at` from the start of the region, `length` bytes.
 */
export function forEachRun(
  layout: ChunkLayout,
  region: Region,
  visit: (offset: number, at: number, length: number) => void,
): void {
  const base = chunkStart(layout.rowElements, layout.chunks, region.chunk) * layout.elementBytes;
  if (isContiguous(layout)) {
    if (region.end > region.start) visit(base + region.start, 0, region.end - region.start);
    return;
  }
  const row = rowBytes(layout, region.chunk);
  for (let position = region.start; position < region.end; ) {
    const k = Math.floor(position / row);
    const inRow = position - k * row;
    const length = Math.min(row - inRow, region.end - position);
    visit(k * layout.strideBytes + base + inRow, position - region.start, length);
    position += length;
  }
}

/** The bytes of a region, in order: a view where they are one run, else a copy. */
export function regionBytes(layout: ChunkLayout, region: Region, full: Uint8Array): Uint8Array {
  if (isContiguous(layout)) {
    const base = chunkStart(layout.rowElements, layout.chunks, region.chunk) * layout.elementBytes;
    return full.subarray(base + region.start, base + region.end);
  }
  const bytes = new Uint8Array(region.end - region.start);
  forEachRun(layout, region, (offset, at, length) => {
    bytes.set(full.subarray(offset, offset + length), at);
  });
  return bytes;
}

/** Writes the bytes of a region into the full tensor. */
export function storeRegion(
  layout: ChunkLayout,
  region: Region,
  full: Uint8Array,
  bytes: Uint8Array,
): void {
  forEachRun(layout, region, (offset, at, length) => {
    full.set(at === 0 && length === bytes.length ? bytes : bytes.subarray(at, at + length), offset);
  });
}
