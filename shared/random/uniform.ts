import { InternalError } from "../errors.ts";
import type { Interval } from "../mesh/placement.ts";
import { PhiloxStream } from "./philox.ts";

/**
 * Fills a slice of a tensor whose elements are uniform on [-bound, bound): element g (row-major in the whole
 * tensor) comes from word g of the stream (seed, name), so that every mesh makes the same tensor.
 * @param target [product of the intervals' lengths], row-major
 * @param intervals the slice, one per dim of `globalShape`
 */
export function fillUniformSlice(
  target: Float32Array,
  from: {
    readonly seed: number;
    readonly name: string;
    readonly bound: number;
    readonly globalShape: readonly number[];
    readonly intervals: readonly Interval[];
  },
): void {
  const { bound, globalShape, intervals } = from;
  const length = intervals.reduce((count, { start, end }) => count * (end - start), 1);
  if (target.length !== length || intervals.length !== globalShape.length) {
    throw new InternalError(
      `slice of ${length} elements of ${from.name}, target of ${target.length}`,
    );
  }
  if (length === 0) return;
  const stream = new PhiloxStream(from.seed, from.name);
  const last = intervals.at(-1) ?? { start: 0, end: 1 };
  const rowLength = last.end - last.start;
  const index = intervals.slice(0, -1).map(({ start }) => start);
  for (let at = 0; at < length; at += rowLength) {
    let global = 0;
    index.forEach((i, dim) => {
      global = global * (globalShape[dim] ?? 1) + i;
    });
    global = global * (globalShape.at(-1) ?? 1) + last.start;
    for (let i = 0; i < rowLength; i++) {
      // 24 bits: exactly representable, so that C and JavaScript round alike.
      const u = (stream.word(global + i) >>> 8) * 2 ** -24;
      target[at + i] = (2 * u - 1) * bound;
    }
    for (let dim = index.length - 1; dim >= 0; dim--) {
      const next = (index[dim] ?? 0) + 1;
      if (next < (intervals[dim]?.end ?? 0)) {
        index[dim] = next;
        break;
      }
      index[dim] = intervals[dim]?.start ?? 0;
    }
  }
}
