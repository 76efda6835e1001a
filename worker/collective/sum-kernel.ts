import { endianness } from "node:os";
import { fromBfloat16, toBfloat16 } from "../../shared/bfloat16.ts";
import { InternalError, unreachable } from "../../shared/errors.ts";
import { type DType, dtypeBytes } from "../../shared/program/program.ts";

/**
 * target[i] = left[i] + right[i] over little-endian elements. All three have the same whole number of elements,
 * at any alignment; `target` is one of the operands or apart from both.
 */
export type SumKernel = (
  dtype: DType,
  target: Uint8Array,
  left: Uint8Array,
  right: Uint8Array,
) => void;

/** Bytes that a misaligned operand is copied by: stays in the first-level cache. */
const BLOCK_BYTES = 8192;

/** The sum in plain JavaScript: for hosts without the native helper, and what the helper is tested against. */
export const sumInJavaScript: SumKernel = (dtype, target, left, right) => {
  checkLengths(dtype, target, left, right);
  if (aligned(dtype, target) && aligned(dtype, left) && aligned(dtype, right)) {
    sumViews(elements(dtype, target), elements(dtype, left), elements(dtype, right));
    return;
  }
  const a = new Uint8Array(BLOCK_BYTES);
  const b = new Uint8Array(BLOCK_BYTES);
  for (let start = 0; start < target.length; start += BLOCK_BYTES) {
    const end = Math.min(target.length, start + BLOCK_BYTES);
    const blockA = a.subarray(0, end - start);
    const blockB = b.subarray(0, end - start);
    blockA.set(left.subarray(start, end));
    blockB.set(right.subarray(start, end));
    sumViews(elements(dtype, blockA), elements(dtype, blockA), elements(dtype, blockB));
    target.set(blockA, start);
  }
};

/** bfloat16 as the bits that it is. */
type Elements = Float32Array | Float64Array | Int32Array | Uint16Array;

function sumViews(target: Elements, left: Elements, right: Elements): void {
  if (target instanceof Uint16Array) {
    for (let i = 0; i < target.length; i++) {
      target[i] = toBfloat16(fromBfloat16(left[i] ?? 0) + fromBfloat16(right[i] ?? 0));
    }
    return;
  }
  for (let i = 0; i < target.length; i++) target[i] = (left[i] ?? 0) + (right[i] ?? 0);
}

function elements(dtype: DType, bytes: Uint8Array): Elements {
  const { buffer, byteOffset, byteLength } = bytes;
  switch (dtype) {
    case "float32":
      return new Float32Array(buffer, byteOffset, byteLength / 4);
    case "float64":
      return new Float64Array(buffer, byteOffset, byteLength / 8);
    case "int32":
      return new Int32Array(buffer, byteOffset, byteLength / 4);
    case "bfloat16":
      return new Uint16Array(buffer, byteOffset, byteLength / 2);
    default:
      return unreachable(dtype, "dtype");
  }
}

function aligned(dtype: DType, bytes: Uint8Array): boolean {
  return bytes.byteOffset % dtypeBytes(dtype) === 0;
}

/** @throws InternalError when the operands are not equally long or not whole elements. */
export function checkLengths(
  dtype: DType,
  target: Uint8Array,
  left: Uint8Array,
  right: Uint8Array,
): void {
  const bytes = target.length;
  if (left.length !== bytes || right.length !== bytes || bytes % dtypeBytes(dtype) !== 0) {
    throw new InternalError(
      `sum of ${left.length} and ${right.length} bytes of ${dtype} into ${bytes}`,
    );
  }
  if (endianness() !== "LE") throw new InternalError("sums need a little-endian machine");
}
