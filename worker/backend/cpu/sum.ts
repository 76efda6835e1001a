import koffi from "koffi";
import { type DType, dtypeBytes } from "../../../shared/program/program.ts";
import { checkLengths, type SumKernel } from "../../collective/sum-kernel.ts";
import { openCpuLibrary } from "./library.ts";

type NativeSum = (target: Uint8Array, left: Uint8Array, right: Uint8Array, n: number) => void;

/**
 * Sums for collectives in native code: on the calling thread alone, so that they never take threads from the
 * backend, at any alignment.
 * @throws FailedPreconditionError where the library is missing
 */
export function nativeSum(): SumKernel {
  const library = koffi.load(openCpuLibrary().path);
  const bind = (name: string): NativeSum =>
    library.func(name, "void", ["void *", "void *", "void *", "uint64_t"]) as NativeSum;
  const sums: Readonly<Record<DType, NativeSum>> = {
    float32: bind("rm_sum2_float"),
    float64: bind("rm_sum2_double"),
    int32: bind("rm_sum2_int"),
    bfloat16: bind("rm_sum2_bfloat16"),
  };
  return (dtype, target, left, right) => {
    checkLengths(dtype, target, left, right);
    if (target.length > 0) {
      sums[dtype](target, left, right, target.length / dtypeBytes(dtype));
    }
  };
}
