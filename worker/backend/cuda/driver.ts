import koffi, { type LibraryHandle } from "koffi";
import { DeviceError, FailedPreconditionError } from "../../../shared/errors.ts";

/** Out-parameters and strings are typed arrays; handles and device addresses numbers, since they fit in 48 bits. */
type Out = BigUint64Array | Int32Array | Uint8Array | Float32Array;
type Host = ArrayBufferView | bigint | null;

/** The functions of the CUDA driver that the backend uses, with every status checked. Named as in cuda.h. */
export interface Driver {
  cuInit(flags: number): void;
  cuDriverGetVersion(version: Out): void;
  cuDeviceGetCount(count: Out): void;
  cuDeviceGet(device: Out, ordinal: number): void;
  cuDeviceGetName(name: Out, length: number, device: number): void;
  cuDeviceGetUuid_v2(uuid: Out, device: number): void;
  cuDeviceTotalMem_v2(bytes: Out, device: number): void;
  cuDeviceGetAttribute(value: Out, attribute: number, device: number): void;
  cuDevicePrimaryCtxRetain(context: Out, device: number): void;
  cuDevicePrimaryCtxRelease_v2(device: number): void;
  cuCtxSetCurrent(context: number): void;
  cuMemGetInfo_v2(free: Out, total: Out): void;
  cuMemAlloc_v2(address: Out, bytes: number): void;
  cuMemFree_v2(address: number): void;
  cuMemHostAlloc(address: Out, bytes: number, flags: number): void;
  cuMemFreeHost(address: number): void;
  cuMemcpyHtoDAsync_v2(to: number, from: Host, bytes: number, stream: number): void;
  cuMemcpyDtoHAsync_v2(to: Host, from: number, bytes: number, stream: number): void;
  cuMemcpyDtoDAsync_v2(to: number, from: number, bytes: number, stream: number): void;
  cuMemsetD8Async(at: number, value: number, bytes: number, stream: number): void;
  cuStreamCreate(stream: Out, flags: number): void;
  cuStreamDestroy_v2(stream: number): void;
  cuStreamSynchronize(stream: number): void;
  cuStreamWaitEvent(stream: number, event: number, flags: number): void;
  cuStreamBeginCapture_v2(stream: number, mode: number): void;
  cuStreamEndCapture(stream: number, graph: Out): void;
  cuGraphInstantiateWithFlags(exec: Out, graph: number, flags: bigint): void;
  cuGraphLaunch(exec: number, stream: number): void;
  cuGraphDestroy(graph: number): void;
  cuGraphExecDestroy(exec: number): void;
  cuEventCreate(event: Out, flags: number): void;
  cuEventRecord(event: number, stream: number): void;
  cuEventSynchronize(event: number): void;
  /** Whether what was recorded is done. */
  cuEventQuery(event: number): boolean;
  cuEventElapsedTime(milliseconds: Out, begin: number, end: number): void;
  cuEventDestroy_v2(event: number): void;
  cuModuleLoadDataEx(
    module: Out,
    image: Uint8Array,
    numOptions: number,
    options: Int32Array,
    values: BigUint64Array,
  ): void;
  cuModuleUnload(module: number): void;
  cuModuleGetFunction(kernel: Out, module: number, name: string): void;
  cuFuncSetAttribute(kernel: number, attribute: number, value: number): void;
  cuLaunchKernel(
    kernel: number,
    gridX: number,
    gridY: number,
    gridZ: number,
    blockX: number,
    blockY: number,
    blockZ: number,
    sharedBytes: number,
    stream: number,
    params: BigUint64Array,
    extra: null,
  ): void;
}

const SIGNATURES: Readonly<Record<keyof Driver, string>> = {
  cuInit: "i",
  cuDriverGetVersion: "p",
  cuDeviceGetCount: "p",
  cuDeviceGet: "pi",
  cuDeviceGetName: "pii",
  cuDeviceGetUuid_v2: "pi",
  cuDeviceTotalMem_v2: "pi",
  cuDeviceGetAttribute: "pii",
  cuDevicePrimaryCtxRetain: "pi",
  cuDevicePrimaryCtxRelease_v2: "i",
  cuCtxSetCurrent: "u",
  cuMemGetInfo_v2: "pp",
  cuMemAlloc_v2: "pu",
  cuMemFree_v2: "u",
  cuMemHostAlloc: "pui",
  cuMemFreeHost: "u",
  cuMemcpyHtoDAsync_v2: "upuu",
  cuMemcpyDtoHAsync_v2: "puuu",
  cuMemcpyDtoDAsync_v2: "uuuu",
  cuMemsetD8Async: "ubuu",
  cuStreamCreate: "pi",
  cuStreamDestroy_v2: "u",
  cuStreamSynchronize: "u",
  cuStreamWaitEvent: "uui",
  cuStreamBeginCapture_v2: "ui",
  cuStreamEndCapture: "up",
  cuGraphInstantiateWithFlags: "puu",
  cuGraphLaunch: "uu",
  cuGraphDestroy: "u",
  cuGraphExecDestroy: "u",
  cuEventCreate: "pi",
  cuEventRecord: "uu",
  cuEventSynchronize: "u",
  cuEventQuery: "u",
  cuEventElapsedTime: "puu",
  cuEventDestroy_v2: "u",
  cuModuleLoadDataEx: "ppipp",
  cuModuleUnload: "u",
  cuModuleGetFunction: "pus",
  cuFuncSetAttribute: "uii",
  cuLaunchKernel: "uiiiiiiiupp",
};

// i int or unsigned int, u 64 bits, b unsigned char, p pointer to host memory, s string.
const TYPES: Readonly<Record<string, string>> = {
  i: "uint32_t",
  u: "uint64_t",
  b: "uint8_t",
  p: "void *",
  s: "str",
};

const OUT_OF_MEMORY = 2;
/** No error: what an event or stream query answers. */
const NOT_READY = 600;
/**
 * After these the context is lost: every later call of the process fails with the same. From cuda.h: ECC, hardware and NVLink
 * faults, and what a kernel can do wrong.
 */
const FATAL = new Set([
  46, 101, 201, 214, 219, 220, 226, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719, 720, 721, 999,
]);

export const LOST_ADVICE =
  "; the device is lost to this process: restart the worker, and look at the kernel log (dmesg) for an Xid";

const drivers = new WeakMap<LibraryHandle, Driver>();

/** Binds the driver's functions. @throws FailedPreconditionError naming a function that an old driver lacks */
export function bindDriver(library: LibraryHandle): Driver {
  const known = drivers.get(library);
  if (known !== undefined) return known;
  const errorName = statusNames(library);
  const bound = Object.entries(SIGNATURES).map(([name, kinds]) => {
    const call = func(library, name, kinds);
    return [
      name,
      (...args: unknown[]) => {
        const status = call(...args);
        if (status === NOT_READY) return false;
        if (status !== 0) throw cudaError(name, status, errorName(status), args);
        return true;
      },
    ];
  });
  const driver = Object.fromEntries(bound) as unknown as Driver;
  drivers.set(library, driver);
  return driver;
}

/**
 * A function that returns a status.
 * @param advice what to do where there is none
 * @throws FailedPreconditionError where the library lacks it
 */
export function func(
  library: LibraryHandle,
  name: string,
  kinds: string,
  advice = "install a driver of CUDA 12 or newer",
): (...args: unknown[]) => number {
  try {
    return library.func(
      name,
      "int",
      [...kinds].map((kind) => TYPES[kind] ?? kind),
    ) as (...args: unknown[]) => number;
  } catch (cause) {
    throw new FailedPreconditionError(`cuda backend: this host's CUDA has no ${name}; ${advice}`, {
      cause,
    });
  }
}

function statusNames(library: LibraryHandle): (status: number) => string {
  const get = func(library, "cuGetErrorName", "ip");
  return (status) => {
    const out = new BigUint64Array(1);
    if (get(status, out) !== 0 || out[0] === undefined || out[0] === 0n)
      return `CUresult ${status}`;
    return koffi.decode.string(out[0]) ?? `CUresult ${status}`;
  };
}

function cudaError(call: string, status: number, name: string, args: unknown[]): DeviceError {
  const advice =
    status === OUT_OF_MEMORY
      ? "; free memory on the device, or split the model over more ranks"
      : FATAL.has(status)
        ? LOST_ADVICE
        : "";
  return new DeviceError(
    `${call}(${args.map(showArgument).join(", ")}) failed: ${name} (${status})${advice}`,
    {
      code: status === OUT_OF_MEMORY ? "RESOURCE_EXHAUSTED" : "UNAVAILABLE",
      call,
      status: name,
      fatal: FATAL.has(status),
    },
  );
}

/** Numbers as they are, addresses in hex, buffers by their length. */
export function showArgument(value: unknown): string {
  if (typeof value === "number" || typeof value === "bigint") {
    return value > 2 ** 40 ? `0x${value.toString(16)}` : String(value);
  }
  if (ArrayBuffer.isView(value)) return `[${value.byteLength} bytes]`;
  return value === null ? "NULL" : JSON.stringify(value);
}

/** Calls with a fresh out-parameter of 64 bits. */
export function handleOf(make: (out: BigUint64Array) => void): number {
  const out = new BigUint64Array(1);
  make(out);
  return Number(out[0]);
}

/** Calls with a fresh out-parameter of an int. */
export function intOf(make: (out: Int32Array) => void): number {
  const out = new Int32Array(1);
  make(out);
  return out[0] ?? 0;
}
