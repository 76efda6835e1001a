import { FailedPreconditionError } from "../../shared/errors.ts";
import { workspaceBytes } from "./cuda/cuda-context.ts";
import { capability, findDevice } from "./cuda/device.ts";
import { bindDriver, intOf } from "./cuda/driver.ts";
import { openCudaLibraries } from "./cuda/libraries.ts";

/** A GPU of this host, as `--device` names it and as ranks share it. */
export interface LocalDevice {
  /** Index among those that the driver shows to this process. */
  readonly ordinal: number;
  readonly name: string;
  readonly uuid: string;
  /** `9.0` */
  readonly computeCapability: string;
  /** Highest CUDA version of the driver: `13.0`. */
  readonly driver: string;
  readonly memoryBytes: number;
  /** What a rank takes of it beside its program. */
  readonly workspaceBytes: number;
}

/**
 * GPUs that the cuda backend runs on; allocates nothing on them.
 * @param choices indexes or UUIDs, in the order wanted; empty: all of the host's
 * @throws FailedPreconditionError when a library is missing, or no GPU serves
 * @throws InvalidArgumentError for a choice that is not there
 */
export function cudaDevices(choices: readonly string[] = []): LocalDevice[] {
  const driver = bindDriver(openCudaLibraries().driver);
  if (choices.length > 0) return choices.map((choice) => describe(findDevice(driver, choice)));
  const first = (): LocalDevice => describe(findDevice(driver, ""));
  driver.cuInit(0);
  const count = intOf((out) => driver.cuDeviceGetCount(out));
  const found = Array.from({ length: count }, (_, ordinal) => {
    try {
      return [describe(findDevice(driver, String(ordinal)))];
    } catch (error) {
      // Too old a GPU beside others that are not.
      if (error instanceof FailedPreconditionError) return [];
      throw error;
    }
  }).flat();
  return found.length > 0 ? found : [first()];
}

function describe(device: ReturnType<typeof findDevice>): LocalDevice {
  const { ordinal, name, uuid, memoryBytes, computeCapability } = device;
  return {
    ordinal,
    name,
    uuid,
    computeCapability: capability(device),
    driver: (device.driverVersion / 1000).toFixed(1),
    memoryBytes,
    workspaceBytes: workspaceBytes(computeCapability),
  };
}
