import { FailedPreconditionError } from "../../shared/errors.ts";
import { nativeSum } from "../backend/cpu/sum.ts";
import { type SumKernel, sumInJavaScript } from "./sum-kernel.ts";

/** The fastest sum this machine has, and its name for logs. */
export function bestSumKernel(): { readonly sum: SumKernel; readonly name: string } {
  try {
    return { sum: nativeSum(), name: "native" };
  } catch (error) {
    // The kernels are not built here. Sums are right without them, and slower.
    if (!(error instanceof FailedPreconditionError)) throw error;
    return { sum: sumInJavaScript, name: "JavaScript" };
  }
}
