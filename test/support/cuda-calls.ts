// Calls of the CUDA driver and cuBLAS one by one, with their status: what tests of the look-alike are written against.
import koffi, { type LibraryHandle } from "koffi";

/** i int, u unsigned 64 bits (handles, addresses, sizes), f float, p pointer to host memory, s string. */
const TYPES: Readonly<Record<string, string>> = {
  i: "int",
  u: "uint64_t",
  f: "float",
  p: "void *",
  s: "str",
};

const SIGNATURES = {
  cuInit: "i",
  cuDriverGetVersion: "p",
  cuDeviceGetCount: "p",
  cuDeviceGet: "pi",
  cuDeviceGetName: "pii",
  cuDeviceGetUuid_v2: "pi",
  cuDeviceTotalMem_v2: "pi",
  cuDeviceGetAttribute: "pii",
  cuDeviceGetPCIBusId: "pii",
  cuDevicePrimaryCtxRetain: "pi",
  cuDevicePrimaryCtxRelease_v2: "i",
  cuDevicePrimaryCtxReset_v2: "i",
  cuCtxSetCurrent: "u",
  cuCtxGetCurrent: "p",
  cuCtxSynchronize: "",
  cuGetErrorName: "ip",
  cuMemGetInfo_v2: "pp",
  cuMemAlloc_v2: "pu",
  cuMemFree_v2: "u",
  cuMemHostAlloc: "pui",
  cuMemFreeHost: "u",
  cuMemcpyHtoD_v2: "upu",
  cuMemcpyDtoH_v2: "puu",
  cuMemcpyDtoD_v2: "uuu",
  cuMemcpyHtoDAsync_v2: "upuu",
  cuMemcpyDtoHAsync_v2: "puuu",
  cuMemcpyDtoDAsync_v2: "uuuu",
  cuMemcpy2DAsync_v2: "pu",
  cuMemsetD8Async: "uiuu",
  cuMemsetD32Async: "uiuu",
  cuStreamCreate: "pi",
  cuStreamDestroy_v2: "u",
  cuStreamSynchronize: "u",
  cuStreamQuery: "u",
  cuStreamWaitEvent: "uui",
  cuStreamBeginCapture_v2: "ui",
  cuStreamEndCapture: "up",
  cuStreamIsCapturing: "up",
  cuEventCreate: "pi",
  cuEventRecord: "uu",
  cuEventSynchronize: "u",
  cuEventQuery: "u",
  cuEventElapsedTime_v2: "puu",
  cuEventDestroy_v2: "u",
  cuGraphInstantiateWithFlags: "puu",
  cuGraphLaunch: "uu",
  cuGraphGetNodes: "upp",
  cuGraphDestroy: "u",
  cuGraphExecDestroy: "u",
  cuModuleLoadData: "ps",
  cuModuleLoadDataEx: "psipp",
  cuModuleUnload: "u",
  cuModuleGetFunction: "pus",
  cuFuncGetAttribute: "piu",
  cuFuncSetAttribute: "uii",
  cuLaunchKernel: "uiiiiiiiupp",
  cublasCreate_v2: "p",
  cublasDestroy_v2: "u",
  cublasGetVersion_v2: "up",
  cublasSetStream_v2: "uu",
  cublasSetMathMode: "ui",
  cublasSetWorkspace_v2: "uuu",
  cublasSgemm_v2: "uiiiiipuiuipui",
  cublasGemmEx: "uiiiiipuiiuiipuiiii",
  cublasGemmStridedBatchedEx: "uiiiiipuiiuuiiupuiiuiii",
} as const;

export type Value = number | bigint | string | ArrayBufferView | null;
export type CudaCalls = Readonly<Record<keyof typeof SIGNATURES, (...args: Value[]) => number>>;

/** Binds all calls of one library. */
export function bindCudaCalls(library: LibraryHandle): CudaCalls {
  const bound = Object.entries(SIGNATURES).map(([name, kinds]) => [
    name,
    library.func(
      name,
      "int",
      [...kinds].map((kind) => TYPES[kind] ?? kind),
    ),
  ]);
  return Object.fromEntries(bound) as CudaCalls;
}

/** What the driver must not refuse. @throws Error naming the status */
export function ok(status: number): void {
  if (status !== 0) throw new Error(`CUresult ${status}`);
}

/** The 64 bits that a call writes to its first argument. */
export function made(call: (out: BigUint64Array) => number): bigint {
  const out = new BigUint64Array(1);
  ok(call(out));
  return out[0] ?? 0n;
}

/** An argument of a kernel by value: its bytes. */
export type KernelArgument = bigint | Uint8Array;
export const f32 = (value: number): Uint8Array => bytesOf(Float32Array.of(value));
export const f64 = (value: number): Uint8Array => bytesOf(Float64Array.of(value));
export const i32 = (value: number): Uint8Array => bytesOf(Int32Array.of(value));

function bytesOf(view: ArrayBufferView): Uint8Array {
  return new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
}

/** `void **kernelParams`, and the memory it points to, which must outlive the launch. */
export function kernelParams(args: readonly KernelArgument[]): {
  readonly pointers: BigUint64Array;
  readonly memory: readonly Uint8Array[];
} {
  const memory = args.map((arg) =>
    typeof arg === "bigint" ? bytesOf(BigInt64Array.of(arg)) : Uint8Array.from(arg),
  );
  const pointers = new BigUint64Array(Math.max(1, memory.length));
  memory.forEach((bytes, i) => {
    pointers[i] = koffi.address(bytes);
  });
  return { pointers, memory };
}
