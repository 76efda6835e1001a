import type { RunContext } from "../benchmark.ts";
import type { Gpu } from "./gpu.ts";
import type { Sizes } from "./sizes.ts";
import type { Torch } from "./torch.ts";

/** What every benchmark of a GPU gets. */
export interface GpuContext extends RunContext {
  readonly gpu: Gpu;
  readonly sizes: Sizes;
  readonly torch: Torch;
  readonly measured: Measured;
}

/** Measurements that several benchmarks need: made once in a series, by the first that asks. */
export class Measured {
  readonly #made = new Map<string, Promise<unknown>>();

  once<T>(what: string, measure: () => Promise<T>): Promise<T> {
    const made = this.#made.get(what) ?? measure();
    this.#made.set(what, made);
    return made as Promise<T>;
  }
}
