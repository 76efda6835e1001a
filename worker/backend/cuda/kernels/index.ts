import type { Kernels } from "../../kernels.ts";
import type { Launcher } from "../launcher.ts";

/** Kernels of float32 activations. */
export function cudaKernels(l: Launcher): Kernels {
  void l;
  return {} as Kernels;
}

/** Kernels of bfloat16 activations and weights. */
export function cudaHalfKernels(l: Launcher): Kernels {
  void l;
  return {} as Kernels;
}
