import koffi from "koffi";
import type { StepScalars } from "../../../shared/optimizer/step-scalars.ts";
import type { Address } from "../kernels.ts";

/** The step's scalars where kernels read them, rounded to float32 once. Order as `step_scalars` in update.c. */
export class StepScalarBlock {
  // A buffer of its own: V8 moves the contents of small typed arrays that have none.
  readonly #values = new Float32Array(new ArrayBuffer(32));
  readonly address: Address = Number(koffi.address(this.#values));
  #loaded: StepScalars | undefined;

  load(scalars: StepScalars): void {
    if (scalars === this.#loaded) return;
    this.#loaded = scalars;
    this.#values.set([
      scalars.oneMinusBeta1,
      scalars.beta2,
      scalars.oneMinusBeta2,
      scalars.decay,
      scalars.stepSize,
      scalars.rootScale,
      scalars.eps,
      scalars.momentum,
    ]);
  }
}
