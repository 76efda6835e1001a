import type { Kernels } from "../../kernels.ts";
import type { Launcher } from "../launcher.ts";
import { attentionHalfKernels, attentionKernels } from "./attention.ts";
import { crossEntropyHalfKernels, crossEntropyKernels } from "./cross-entropy.ts";
import { decodeKernels } from "./decode.ts";
import { elementwiseHalfKernels, elementwiseKernels } from "./elementwise.ts";
import { embeddingKernels } from "./embedding.ts";
import { factorHalfKernels, factorKernels } from "./factors.ts";
import { linearHalfKernels, linearKernels } from "./linear.ts";
import { movementHalfKernels, movementKernels } from "./movement.ts";
import { normHalfKernels, normKernels } from "./norm.ts";
import { randomHalfKernels, randomKernels } from "./random.ts";
import { reduceKernels } from "./reduce.ts";
import { ropeHalfKernels, ropeKernels } from "./rope.ts";
import { updateKernels } from "./update.ts";

/** Kernels of float32 activations. */
export function cudaKernels(l: Launcher): Kernels {
  return {
    ...attentionKernels(l),
    ...crossEntropyKernels(l),
    ...decodeKernels(l),
    ...elementwiseKernels(l),
    ...embeddingKernels(l),
    ...factorKernels(l),
    ...linearKernels(l),
    ...movementKernels(l),
    ...normKernels(l),
    ...randomKernels(l),
    ...reduceKernels(l),
    ...ropeKernels(l),
    ...updateKernels(l),
  };
}

/** Kernels of bfloat16 activations and weights; what has neither is the float32 set's. */
export function cudaHalfKernels(l: Launcher): Kernels {
  return {
    ...cudaKernels(l),
    ...attentionHalfKernels(l),
    ...crossEntropyHalfKernels(l),
    ...elementwiseHalfKernels(l),
    ...factorHalfKernels(l),
    ...linearHalfKernels(l),
    ...movementHalfKernels(l),
    ...normHalfKernels(l),
    ...randomHalfKernels(l),
    ...ropeHalfKernels(l),
  };
}
