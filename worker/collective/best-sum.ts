import { FailedPreconditionError } from "../../shared/errors.ts";
import { nativeSum } from "../backend/cpu/sum.ts";
import { type SumKernel, sumInJavaScript } from "./sum-kernel.ts";

/** The fastest sum this machine has, and its name for logs. All give the same bits. */
export function bestSumKernel(): { readonly sum: SumKernel; readonly name: string } {
  try {
    return { sum: nativeSum(), name: "native" };
  } catch (error) {
    if (error instanceof FailedPreconditionError)
      return { sum: sumInJavaScript, name: "JavaScript" };
    throw error;
  }
}
