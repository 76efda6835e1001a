import { InternalError } from "../errors.ts";
import { axisSize, coordinates, type Mesh } from "./mesh.ts";

/**
 * How a tensor lies on one mesh axis, in the form programs print and store:
 * `R` (every rank holds it whole), `S0`, `S1`, ... (split along that dim), `P` (ranks hold summands),
 * `L` (ranks hold the softmax statistics of their classes, to be merged; only the cross-entropy's statistics lie so).
 */
export type Placement = "R" | "P" | "L" | `S${number}`;

/** One placement per mesh axis, in mesh order. */
export type Layout = readonly Placement[];

export function shard(dim: number): Placement {
  return `S${dim}`;
}

export function isShard(placement: Placement): boolean {
  return placement.charCodeAt(0) === 83; // 'S'
}

/** The dim that a shard placement splits; -1 for `R` and `P`. */
export function shardDim(placement: Placement): number {
  return isShard(placement) ? Number(placement.slice(1)) : -1;
}

/** [start, end) of one dim of a shard, in global indices. */
export interface Interval {
  readonly start: number;
  readonly end: number;
}

/** Shape of one rank's part. Every sharded dim divides (checked when placements are chosen). */
export function localShape(globalShape: readonly number[], layout: Layout, mesh: Mesh): number[] {
  const shape = [...globalShape];
  layout.forEach((placement, axis) => {
    if (!isShard(placement)) return;
    const dim = shardDim(placement);
    const parts = axisSize(mesh, axis);
    const size = shape[dim];
    if (size === undefined || size % parts !== 0) {
      throw new InternalError(
        `dim ${dim} of [${globalShape.join(", ")}] does not divide by ${parts}`,
      );
    }
    shape[dim] = size / parts;
  });
  return shape;
}

/**
 * The [start, end) of every dim that `rank` holds. When two axes split the same dim, the later mesh axis is
 * the outer split and the earlier one subdivides its part, so that gathering the earlier axis stays contiguous.
 */
export function shardIntervals(
  globalShape: readonly number[],
  layout: Layout,
  mesh: Mesh,
  rank: number,
): Interval[] {
  const coords = coordinates(mesh, rank);
  const intervals = globalShape.map((size) => ({ start: 0, end: size }));
  for (let axis = layout.length - 1; axis >= 0; axis--) {
    const placement = layout[axis] ?? "R";
    if (!isShard(placement)) continue;
    const interval = intervals[shardDim(placement)];
    if (interval === undefined)
      throw new InternalError(`placement ${placement} of a ${globalShape.length}-d tensor`);
    const length = (interval.end - interval.start) / axisSize(mesh, axis);
    interval.start += length * (coords[axis] ?? 0);
    interval.end = interval.start + length;
  }
  return intervals;
}

/**
 * Which of how many parts of a dim a rank holds, where the mesh axes in the bit mask `axes` split it; the later axis
 * is the outer split, as in `shardIntervals`. The part begins at index * (its own length).
 */
export function partOf(
  axes: number,
  mesh: Mesh,
  coords: readonly number[],
): { readonly index: number; readonly parts: number } {
  let [index, parts] = [0, 1];
  for (let axis = mesh.axes.length - 1; axis >= 0; axis--) {
    if ((axes & (1 << axis)) === 0) continue;
    const size = axisSize(mesh, axis);
    index = index * size + (coords[axis] ?? 0);
    parts *= size;
  }
  return { index, parts };
}
