import type { Kernels } from "../../../kernels.ts";
import type { Launcher } from "../launcher.ts";
import { attention } from "./attention.ts";
import { crossEntropy } from "./cross-entropy.ts";
import { elementwise, sums } from "./elementwise.ts";
import { embeddings } from "./embedding.ts";
import { linear } from "./linear.ts";
import { movement } from "./movement.ts";
import { norms } from "./norm.ts";
import { random } from "./random.ts";
import { reductions } from "./reduce.ts";
import { rope } from "./rope.ts";
import { type HostMemory, sampling } from "./sampling.ts";
import { type CurrentScalars, updates } from "./updates.ts";

/** All kernels on one device's memory. Those that return a value to the host wait for it; the others are queued. */
export function webGpuKernels(
  launcher: Launcher,
  scalars: CurrentScalars,
  memory: HostMemory,
): Kernels {
  const moves = movement(launcher);
  return {
    ...elementwise(launcher),
    ...sums(launcher),
    ...moves,
    ...updates(launcher, scalars),
    ...linear(launcher, scalars),
    ...reductions(launcher),
    ...norms(launcher),
    ...random(launcher),
    ...rope(launcher),
    ...attention(launcher, moves.copy),
    ...crossEntropy(launcher),
    ...embeddings(launcher, scalars, moves.fill),
    ...sampling(memory),
  };
}
