// What the tests here run on: the first GPU that the driver shows.
import { CudaBackend } from "../../worker/backend/cuda/cuda-backend.ts";
import { bindDriver, type Driver, handleOf } from "../../worker/backend/cuda/driver.ts";
import { openCudaLibraries } from "../../worker/backend/cuda/libraries.ts";

/** Index of the GPU: processes of ranks share it too. */
export const DEVICE = "0";

export function makeBackend(): CudaBackend {
  return new CudaBackend({ device: DEVICE });
}

export function driver(): Driver {
  return bindDriver(openCudaLibraries().driver);
}

/**
 * Holds the GPU's context while `use` runs, so that it stays what it is whoever else takes and leaves it.
 * @param use gets a function that tells the bytes of device memory that nobody has
 */
export async function holdingContext<T>(
  use: (freeBytes: () => number) => T | Promise<T>,
): Promise<T> {
  const device = Number(DEVICE);
  driver().cuInit(0);
  const context = handleOf((out) => driver().cuDevicePrimaryCtxRetain(out, device));
  try {
    return await use(() => {
      driver().cuCtxSetCurrent(context);
      return handleOf((free) => driver().cuMemGetInfo_v2(free, new BigUint64Array(1)));
    });
  } finally {
    driver().cuCtxSetCurrent(0);
    driver().cuDevicePrimaryCtxRelease_v2(device);
  }
}

/** Flags and environment of `rankmesh run` on the GPU: the libraries are those of this process. */
export const RUN_ON_GPU = {
  args: ["--backend", "cuda", "--device", DEVICE],
  env: Object.fromEntries(
    Object.entries(process.env).filter(([name]) => /^RANKMESH_(CUDA|CUBLAS|LOOKALIKE)_/.test(name)),
  ),
  timeoutMs: 240_000,
} as const;
