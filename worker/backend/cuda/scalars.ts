import type { StepScalars } from "../../../shared/optimizer/step-scalars.ts";
import type { Address } from "../kernels.ts";
import type { CudaContext } from "./cuda-context.ts";

/** The step's scalars in device memory, as `step_scalars` in common.cuh, rounded to float32 once. */
export class DeviceScalars {
  readonly address: Address;
  readonly #context: CudaContext;
  // Pageable on purpose: the driver has taken so few bytes when the call returns, so the block is free at once.
  readonly #block = new ArrayBuffer(40);
  readonly #floats = new Float32Array(this.#block, 0, 8);
  readonly #step = new BigUint64Array(this.#block, 32, 1);
  #loaded: StepScalars | undefined;

  constructor(context: CudaContext) {
    this.#context = context;
    this.address = context.scalars;
  }

  load(scalars: StepScalars): void {
    if (scalars === this.#loaded) return;
    this.#loaded = scalars;
    this.#floats.set([
      scalars.oneMinusBeta1,
      scalars.beta2,
      scalars.oneMinusBeta2,
      scalars.decay,
      scalars.stepSize,
      scalars.rootScale,
      scalars.eps,
      scalars.momentum,
    ]);
    this.#step[0] = BigInt(scalars.step);
    const { driver, computeStream } = this.#context;
    const bytes = new Uint8Array(this.#block);
    driver.cuMemcpyHtoDAsync_v2(this.address, bytes, bytes.length, computeStream);
  }
}
