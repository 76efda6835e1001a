import type { Interval } from "../../shared/mesh/placement.ts";
import { sliceBytes, sliceRuns } from "../../shared/safetensors/box.ts";

/** Bytes of an element of every dtype that data has. */
const ELEMENT_BYTES = 4;

/**
 * The block of a dense tensor [shape] that `intervals` cut out (one a dim), dense itself. The bytes are shared with
 * `data` where they lie in it as one run, as whole rows do.
 */
export function sliceBlock(
  data: Uint8Array,
  shape: readonly number[],
  intervals: readonly Interval[],
): Uint8Array {
  const bytes = sliceBytes(intervals, ELEMENT_BYTES);
  let block: Uint8Array | undefined;
  for (const { tensorByte, sliceByte, length } of sliceRuns(shape, intervals, ELEMENT_BYTES)) {
    const run = data.subarray(tensorByte, tensorByte + length);
    if (length === bytes) return run;
    block ??= new Uint8Array(bytes);
    block.set(run, sliceByte);
  }
  return block ?? new Uint8Array(0);
}
