import {
  DeviceError,
  FailedPreconditionError,
  InvalidArgumentError,
} from "../../../shared/errors.ts";
import { quote } from "../../../shared/quote.ts";
import { type Driver, handleOf, intOf } from "./driver.ts";

/** One GPU as the driver tells it, before anything is allocated on it. */
export interface CudaDevice {
  readonly ordinal: number;
  /** CUdevice */
  readonly handle: number;
  readonly name: string;
  /** `GPU-12345678-...`, as nvidia-smi -L shows it. */
  readonly uuid: string;
  /** Major and minor version: 75, 80, 90. */
  readonly computeCapability: number;
  readonly multiprocessors: number;
  /** Dynamic shared memory that a block may opt in to. */
  readonly maxSharedBytes: number;
  readonly memoryBytes: number;
  /** Highest CUDA version of the driver: 13000 for 13.0. */
  readonly driverVersion: number;
}

/** CUdevice_attribute */
const MULTIPROCESSORS = 16;
const CAPABILITY_MAJOR = 75;
const CAPABILITY_MINOR = 76;
const MAX_SHARED_OPTIN = 97;

/** Oldest architecture that the kernels' code is for. */
const LEAST_CAPABILITY = 75;

/**
 * The device that `choice` means: an index (`0`), a UUID or the beginning of one (`GPU-1a2b`), empty for the first.
 * @throws FailedPreconditionError when there is none; InvalidArgumentError for one that is not there, with those that are
 */
export function findDevice(driver: Driver, choice: string): CudaDevice {
  initialize(driver);
  const count = intOf((out) => driver.cuDeviceGetCount(out));
  if (count === 0) {
    throw new FailedPreconditionError(
      "cuda backend: the driver sees no GPU; check nvidia-smi and CUDA_VISIBLE_DEVICES",
    );
  }
  const devices = Array.from({ length: count }, (_, ordinal) => describe(driver, ordinal));
  const wanted = choice.trim().toLowerCase();
  const found = /^\d*$/.test(wanted)
    ? devices[wanted === "" ? 0 : Number(wanted)]
    : onlyOne(devices.filter(({ uuid }) => uuid.toLowerCase().startsWith(wanted)));
  if (found === undefined) {
    const list = devices.map(({ ordinal, name, uuid }) => `${ordinal} (${name}, ${uuid})`);
    throw new InvalidArgumentError(
      `device ${quote(choice)}: give an index or a UUID of ${list.join(", ")}`,
    );
  }
  if (found.computeCapability < LEAST_CAPABILITY) {
    throw new FailedPreconditionError(
      `cuda backend: ${found.name} has compute capability ${capability(found)}; 7.5 (Turing) is the least`,
    );
  }
  return found;
}

/** `9.0` */
export function capability({ computeCapability }: Pick<CudaDevice, "computeCapability">): string {
  return (computeCapability / 10).toFixed(1);
}

/** What a driver without a GPU, or unlike the kernel's part of it, says first of all. */
function initialize(driver: Driver): void {
  try {
    driver.cuInit(0);
  } catch (cause) {
    if (!(cause instanceof DeviceError) || cause.fatal) throw cause;
    throw new FailedPreconditionError(
      `cuda backend: ${cause.message}; check that nvidia-smi shows a GPU here, and CUDA_VISIBLE_DEVICES`,
      { cause },
    );
  }
}

function onlyOne<T>(found: readonly T[]): T | undefined {
  return found.length === 1 ? found[0] : undefined;
}

function describe(driver: Driver, ordinal: number): CudaDevice {
  const handle = intOf((out) => driver.cuDeviceGet(out, ordinal));
  const attribute = (id: number): number =>
    intOf((out) => driver.cuDeviceGetAttribute(out, id, handle));
  const name = new Uint8Array(256);
  driver.cuDeviceGetName(name, name.length, handle);
  const uuid = new Uint8Array(16);
  driver.cuDeviceGetUuid_v2(uuid, handle);
  return {
    ordinal,
    handle,
    name: Buffer.from(name).toString("utf8").replace(/\0.*/s, ""),
    uuid: uuidText(uuid),
    computeCapability: 10 * attribute(CAPABILITY_MAJOR) + attribute(CAPABILITY_MINOR),
    multiprocessors: attribute(MULTIPROCESSORS),
    maxSharedBytes: attribute(MAX_SHARED_OPTIN),
    memoryBytes: handleOf((out) => driver.cuDeviceTotalMem_v2(out, handle)),
    driverVersion: intOf((out) => driver.cuDriverGetVersion(out)),
  };
}

function uuidText(bytes: Uint8Array): string {
  const hex = Buffer.from(bytes).toString("hex");
  const parts = [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20)];
  return `GPU-${parts.join("-")}-${hex.slice(20)}`;
}
