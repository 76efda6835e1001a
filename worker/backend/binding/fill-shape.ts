import { InternalError } from "../../../shared/errors.ts";
import type { Interval } from "../../../shared/mesh/placement.ts";

/** Dims that the kernel walks at most. */
const MAX_DIMS = 8;

/**
 * The operand of the fill kernel: global sizes, starts and local sizes of the dims, in a row. Dims that a slice
 * holds whole are merged into the one before, so that runs of consecutive elements are as long as can be.
 * @throws InternalError for a slice that takes more than eight dims even so
 */
export function fillShape(
  globalShape: readonly number[],
  intervals: readonly Interval[],
): { values: BigUint64Array; dims: number } {
  let [sizes, starts, lengths] = [[1], [0], [1]];
  globalShape.forEach((size, dim) => {
    const { start, end } = intervals[dim] ?? { start: 0, end: size };
    if (end - start === size && sizes.length > 0) {
      const last = sizes.length - 1;
      sizes = sizes.with(last, (sizes[last] ?? 1) * size);
      starts = starts.with(last, (starts[last] ?? 0) * size);
      lengths = lengths.with(last, (lengths[last] ?? 1) * size);
    } else {
      sizes.push(size);
      starts.push(start);
      lengths.push(end - start);
    }
  });
  if (sizes.length > MAX_DIMS) {
    throw new InternalError(
      `slice of [${globalShape.join(", ")}] is cut along more than ${MAX_DIMS} dims`,
    );
  }
  return {
    values: BigUint64Array.from([...sizes, ...starts, ...lengths].map(BigInt)),
    dims: sizes.length,
  };
}
