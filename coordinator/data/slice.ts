import type { Interval } from "../../shared/mesh/placement.ts";

/** Bytes of an element of every dtype that data has. */
const ELEMENT_BYTES = 4;

/**
 * The block of a dense tensor [shape] that `intervals` cut out (one a dim), dense itself. The bytes are shared with
 * `data` where the block is all of it or a run of whole rows.
 */
export function sliceBlock(
  data: Uint8Array,
  shape: readonly number[],
  intervals: readonly Interval[],
): Uint8Array {
  // Dims after the last one that is cut move as one run.
  let last = shape.length - 1;
  while (last >= 0 && isWhole(intervals[last], shape[last])) last--;
  if (last < 0) return data;
  const runUnit = ELEMENT_BYTES * product(shape.slice(last + 1));
  const { start, end } = intervals[last] ?? { start: 0, end: 0 };
  const runBytes = (end - start) * runUnit;
  if (last === 0) return data.subarray(start * runUnit, start * runUnit + runBytes);

  const outer = intervals.slice(0, last);
  const runs = product(outer.map((interval) => interval.end - interval.start));
  const result = new Uint8Array(runs * runBytes);
  const position = outer.map((interval) => interval.start);
  for (let run = 0; run < runs; run++) {
    let index = 0;
    for (let dim = 0; dim < last; dim++) index = index * (shape[dim] ?? 1) + (position[dim] ?? 0);
    const from = (index * (shape[last] ?? 1) + start) * runUnit;
    result.set(data.subarray(from, from + runBytes), run * runBytes);
    advance(position, outer);
  }
  return result;
}

function advance(position: number[], intervals: readonly Interval[]): void {
  for (let dim = position.length - 1; dim >= 0; dim--) {
    const interval = intervals[dim] ?? { start: 0, end: 0 };
    const next = (position[dim] ?? 0) + 1;
    position[dim] = next < interval.end ? next : interval.start;
    if (next < interval.end) return;
  }
}

function isWhole(interval: Interval | undefined, size: number | undefined): boolean {
  return interval === undefined || (interval.start === 0 && interval.end === size);
}

function product(sizes: readonly number[]): number {
  return sizes.reduce((all, size) => all * size, 1);
}
