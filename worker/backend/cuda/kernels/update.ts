import { type Kernels, NULL } from "../../kernels.ts";
import type { Launcher } from "../launcher.ts";
import { blocksOf, STREAM_THREADS } from "./blocks.ts";

/** Elements that a thread updates at a time, as in update.cu. */
const ELEMENTS = 8;

/** Blocks for each multiprocessor: as many as it holds at once, twice over, so that none waits long for the last. */
const BLOCKS_EACH = 8;

/** Updates of float32 parameters from float32 gradients. */
export function updateKernels(l: Launcher): Pick<Kernels, "adamw" | "sgd"> {
  const adamw = l.kernel("update", "rm_adamw", "aaaanaa");
  const sgd = l.kernel("update", "rm_sgd", "aanaa");
  const sgdMomentum = l.kernel("update", "rm_sgd_momentum", "aaanaa");
  const most = BLOCKS_EACH * l.multiprocessors;
  const blocks = (n: number): number => Math.min(most, blocksOf(n, ELEMENTS));

  return {
    adamw: (w, g, m, v, n, factor, scalars) =>
      adamw(blocks(n), STREAM_THREADS, 0, w, g, m, v, n, factor, scalars),
    sgd(w, g, m, n, factor, scalars) {
      if (m === NULL) sgd(blocks(n), STREAM_THREADS, 0, w, g, n, factor, scalars);
      else sgdMomentum(blocks(n), STREAM_THREADS, 0, w, g, m, n, factor, scalars);
    },
  };
}
