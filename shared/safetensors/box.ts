/** Pure: where a slice of a dense row-major tensor lies in the tensor's bytes. */
import { InternalError } from "../errors.ts";
import type { Interval } from "../mesh/placement.ts";

/** A contiguous part of a slice: `length` bytes at `tensorByte` of the tensor, and at `sliceByte` of the slice. */
export interface Run {
  readonly tensorByte: number;
  readonly sliceByte: number;
  readonly length: number;
}

/** The whole of a tensor, as intervals. */
export function wholeIntervals(shape: readonly number[]): Interval[] {
  return shape.map((size) => ({ start: 0, end: size }));
}

/** Bytes of the slice. */
export function sliceBytes(intervals: readonly Interval[], itemBytes: number): number {
  return intervals.reduce((bytes, { start, end }) => bytes * (end - start), itemBytes);
}

/**
 * The runs of a slice in ascending order, as few as there can be: dims that are taken whole at the end join
 * with the dim before them.
 * @throws InternalError when the intervals are not a box inside the shape
 */
export function* sliceRuns(
  shape: readonly number[],
  intervals: readonly Interval[],
  itemBytes: number,
): Generator<Run, void, void> {
  checkBox(shape, intervals);
  if (sliceBytes(intervals, itemBytes) === 0) return;
  // Dims from `inner` on are whole; the one before it is the last that is cut.
  let inner = shape.length;
  let rowBytes = itemBytes;
  while (inner > 0) {
    const { start, end } = at(intervals, inner - 1);
    if (start !== 0 || end !== at(shape, inner - 1)) break;
    rowBytes *= end;
    inner--;
  }
  if (inner === 0) {
    yield { tensorByte: 0, sliceByte: 0, length: rowBytes };
    return;
  }
  const cut = at(intervals, inner - 1);
  const length = (cut.end - cut.start) * rowBytes;
  const strides = outerStrides(shape, inner, rowBytes);
  const index = intervals.slice(0, inner - 1).map(({ start }) => start);
  for (let sliceByte = 0; ; sliceByte += length) {
    let tensorByte = cut.start * rowBytes;
    for (let dim = 0; dim < index.length; dim++) tensorByte += at(index, dim) * at(strides, dim);
    yield { tensorByte, sliceByte, length };
    if (!advance(index, intervals)) return;
  }
}

/** Bytes from one index to the next, for the dims before the cut one. */
function outerStrides(shape: readonly number[], inner: number, rowBytes: number): number[] {
  const strides = new Array<number>(Math.max(0, inner - 1));
  let bytes = rowBytes;
  for (let dim = inner - 1; dim > 0; dim--) {
    bytes *= at(shape, dim);
    strides[dim - 1] = bytes;
  }
  return strides;
}

/** Next index in row-major order; false after the last. */
function advance(index: number[], intervals: readonly Interval[]): boolean {
  for (let dim = index.length - 1; dim >= 0; dim--) {
    const { start, end } = at(intervals, dim);
    const next = at(index, dim) + 1;
    if (next < end) {
      index[dim] = next;
      return true;
    }
    index[dim] = start;
  }
  return false;
}

function checkBox(shape: readonly number[], intervals: readonly Interval[]): void {
  const inside = (size: number, interval: Interval | undefined): boolean =>
    interval !== undefined &&
    Number.isSafeInteger(interval.start) &&
    Number.isSafeInteger(interval.end) &&
    0 <= interval.start &&
    interval.start <= interval.end &&
    interval.end <= size;
  if (
    intervals.length !== shape.length ||
    !shape.every((size, dim) => inside(size, intervals[dim]))
  ) {
    const box = intervals.map(({ start, end }) => `${start}:${end}`).join(", ");
    throw new InternalError(`slice [${box}] is not inside a tensor of shape [${shape.join(", ")}]`);
  }
}

function at<T>(list: readonly T[], index: number): T {
  const value = list[index];
  if (value === undefined) throw new InternalError(`index ${index} of a list of ${list.length}`);
  return value;
}
