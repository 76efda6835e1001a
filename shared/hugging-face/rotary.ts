/**
 * Pure: the two orders of the rows of a query or key weight.
 *
 * The model rotates neighbouring features (2i, 2i + 1) of a head together, as Llama was published. Hugging Face
 * checkpoints rotate (i, i + headDim / 2) instead and have the rows of wq and wk moved so that the result is the same:
 * the even rows of a head come first, then the odd ones.
 */
import type { Interval } from "../mesh/placement.ts";

/** Row of a Hugging Face weight that is row `row` of the model's. `headDim` is even. */
export function huggingFaceRow(row: number, headDim: number): number {
  const inHead = row % headDim;
  return row - inHead + (inHead % 2) * (headDim / 2) + Math.floor(inHead / 2);
}

/** Row of the model's weight that is row `row` of a Hugging Face one: the inverse of `huggingFaceRow`. */
export function modelRow(row: number, headDim: number): number {
  const inHead = row % headDim;
  const half = headDim / 2;
  return row - inHead + 2 * (inHead % half) + Math.floor(inHead / half);
}

/** Neighbouring rows of the model's weight, and the two runs of Hugging Face rows that they interleave. */
export interface RotaryRows {
  /** Rows of the model's weight, all in one head. */
  readonly rows: Interval;
  /** Where its even rows lie in a Hugging Face weight; empty for a single odd row. */
  readonly even: Interval;
  /** Where its odd rows lie; empty for a single even row. */
  readonly odd: Interval;
}

/**
 * Cuts rows of the model's weight, which may begin and end inside a head, where a head ends and after at most `maxRows`
 * rows. In ascending order; together they are `rows`.
 */
export function* rotaryRows(
  rows: Interval,
  headDim: number,
  maxRows: number,
): Generator<RotaryRows, void, void> {
  const half = headDim / 2;
  for (let start = rows.start; start < rows.end; ) {
    const head = start - (start % headDim);
    const end = Math.min(rows.end, head + headDim, start + Math.max(1, maxRows));
    const [from, to] = [start - head, end - head];
    yield {
      rows: { start, end },
      even: { start: head + Math.ceil(from / 2), end: head + Math.ceil(to / 2) },
      odd: { start: head + half + Math.floor(from / 2), end: head + half + Math.floor(to / 2) },
    };
    start = end;
  }
}

/** Puts rows together again: `even` and `odd` hold the rows of `part`, `rowBytes` each, in order. */
export function interleaveRows(
  part: RotaryRows,
  even: Uint8Array,
  odd: Uint8Array,
  rowBytes: number,
): Uint8Array {
  const rows = new Uint8Array(even.byteLength + odd.byteLength);
  forEachRow(part, (row, from, isOdd) => {
    const source = isOdd ? odd : even;
    rows.set(source.subarray(from * rowBytes, (from + 1) * rowBytes), row * rowBytes);
  });
  return rows;
}

/** Takes rows apart, as `interleaveRows` puts them together. */
export function splitRows(
  part: RotaryRows,
  rows: Uint8Array,
  rowBytes: number,
): { readonly even: Uint8Array; readonly odd: Uint8Array } {
  const even = new Uint8Array((part.even.end - part.even.start) * rowBytes);
  const odd = new Uint8Array((part.odd.end - part.odd.start) * rowBytes);
  forEachRow(part, (row, to, isOdd) => {
    (isOdd ? odd : even).set(rows.subarray(row * rowBytes, (row + 1) * rowBytes), to * rowBytes);
  });
  return { even, odd };
}

/** Every row of a part, counted from its first, with its place among the even or the odd ones. */
function forEachRow(
  { rows }: RotaryRows,
  visit: (row: number, place: number, isOdd: boolean) => void,
): void {
  const count = rows.end - rows.start;
  const startsOdd = rows.start % 2;
  for (let row = 0; row < count; row++) {
    const isOdd = (row + startsOdd) % 2 === 1;
    visit(row, (row - (isOdd ? 1 - startsOdd : startsOdd)) / 2, isOdd);
  }
}
