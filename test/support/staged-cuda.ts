import type { ChosenBackend } from "../../worker/backend/create-backend.ts";
import { CudaBackend } from "../../worker/backend/cuda/cuda-backend.ts";
import type { BackendChoice } from "../../worker/compute/backend-loader.ts";

/** URL of this module, for `WorkerOptions.backendModule`. */
export const STAGED_CUDA = import.meta.url;

/**
 * The cuda backend; `device` is the least bytes of a piece in which it stages operands of collectives.
 *
 * @public
 */
export function createBackend({ device }: BackendChoice): ChosenBackend {
  const backend = new CudaBackend({ leastPieceBytes: Number(device) });
  return Object.assign(backend, { reason: "a test asked for it" });
}
