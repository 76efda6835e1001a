import { type SumKernel, sumInJavaScript } from "./sum-kernel.ts";

/** The fastest sum this machine has, and its name for logs. */
export function bestSumKernel(): { readonly sum: SumKernel; readonly name: string } {
  return { sum: sumInJavaScript, name: "JavaScript" };
}
