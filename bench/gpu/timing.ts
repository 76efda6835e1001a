import { median } from "../statistics.ts";
import type { OpenGpu } from "./gpu.ts";
import type { Sizes } from "./sizes.ts";

/** Times in one recording, at most: its making takes the host microseconds each. */
const MAX_REPEATS = 64;
/** Samples of work that takes so long that fewer say as much. */
const FEWEST_SAMPLES = 3;

/**
 * Seconds that the device takes for what `work` launches: the median of samples, each of some repetitions in one recording, so
 * that launching costs next to nothing. What a repetition leaves in caches the next one finds there.
 */
export function timeOnDevice(gpu: OpenGpu, work: () => void, timing: Sizes["timing"]): number {
  // Loads modules, and warms up libraries and clocks.
  work();
  const once = gpu.seconds(work);
  const { sampleSeconds, samples } = timing;
  // What launches nothing takes no time at all.
  const wanted = once > 0 ? Math.round(sampleSeconds / once) : 1;
  const repeats = Math.min(MAX_REPEATS, Math.max(1, wanted));
  const enough = once > 2 * sampleSeconds ? Math.min(samples, FEWEST_SAMPLES) : samples;
  const repeated = (): void => {
    for (let i = 0; i < repeats; i++) work();
  };
  return gpu.recorded(repeated, (launch) => {
    launch();
    return median(Array.from({ length: enough }, () => gpu.seconds(launch) / repeats));
  });
}
