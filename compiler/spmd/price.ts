import { InternalError } from "../../shared/errors.ts";
import { isShard, type Placement, shardDim } from "../../shared/mesh/placement.ts";

/** What a collective costs beside its bytes, in bytes: at 1 GB/s about two microseconds. */
const LATENCY_BYTES = 2048;

/** Floating-point operations in the time of one byte, where a request does not say: 100 GFLOP/s beside 10 GbE. */
export const FLOPS_PER_BYTE = 80;

/** What the price of a move depends on beside its placements. */
export interface MovedValue {
  /** Bytes of the value with this axis unsharded (the other axes' shards taken off). */
  readonly bytes: number;
  readonly dims: number;
  readonly elements: number;
  /** A forward value whose gradient will be moved back the other way. */
  readonly movesGradient: boolean;
}

/**
 * Price in bytes of moving a value between placements on an axis of `size` ranks; Infinity for a move that is not
 * offered. An all-to-all is priced as the gather of the whole value: priced by its own bytes it drags
 * layouts meant for batches along an axis meant for tensors. A forward slice pays for the
 * gather of its gradient, half as much again along the last dim: cheap slices of features would drag a data-parallel
 * layout along an axis meant for tensors. (docs/decisions/0002-placement-choice.md.)
 */
export function movePrice(from: Placement, to: Placement, value: MovedValue, size: number): number {
  if (from === to) return 0;
  const share = ((size - 1) / size) * value.bytes;
  // Statistics of every rank's classes are gathered and merged; there is no other way to move them.
  if (from === "L")
    return to === "R" ? (size - 1) * value.bytes + LATENCY_BYTES : Number.POSITIVE_INFINITY;
  if (to === "L") return Number.POSITIVE_INFINITY;
  if (from === "P") return (to === "R" ? 2 * share : share) + LATENCY_BYTES;
  if (from === "R") {
    if (to === "P") return value.elements <= 1 ? 1 : Number.POSITIVE_INFINITY;
    if (!value.movesGradient) return 1;
    return 1 + share * (shardDim(to) === value.dims - 1 ? 1.5 : 1);
  }
  if (!isShard(from)) throw new InternalError(`no price from ${from}`);
  if (to === "P") return Number.POSITIVE_INFINITY;
  return to === "R" ? share + LATENCY_BYTES : 1.01 * (share + LATENCY_BYTES);
}
