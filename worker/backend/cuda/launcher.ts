import type { Address } from "../kernels.ts";
import type { CudaBlas } from "./cublas.ts";

/**
 * Kinds of a kernel's arguments, one letter each: `a` a device address, `n` a count (64 bits), `i` an int (32 bits), `f` a
 * float, `d` a double, `u` 64 bits as a BigInt, `t` a struct by value, given as the view of its bytes.
 */
export type ArgumentKinds = string;

export type Argument = number | bigint | ArrayBufferView;

/** Blocks along x, or along x, y and z. */
export type Grid = number | readonly [x: number, y: number, z: number];

/** Launches one kernel on the compute stream. A grid without blocks launches nothing. */
export type Launch = (
  grid: Grid,
  threads: number,
  sharedBytes: number,
  ...args: Argument[]
) => void;

/** What CUDA kernels are written against: ways to launch, to multiply and to keep intermediate sums. */
export interface Launcher {
  /** 75, 80, 90: major and minor compute capability. */
  readonly computeCapability: number;
  readonly multiprocessors: number;
  /** Bytes of shared memory that a block may ask for (dynamic, opted in to). */
  readonly maxSharedBytes: number;
  /**
   * Kernel `name` of module `module` (worker/backend/cuda/native/MODULE.cu). Loads the module at its first launch, so
   * that a program pays only for what it uses.
   */
  kernel(module: string, name: string, kinds: ArgumentKinds): Launch;
  readonly blas: CudaBlas;
  /** Device memory for one call's intermediate values; the next call may overwrite it. 256-byte aligned. */
  readonly scratch: { readonly address: Address; readonly bytes: number };
  /** The step's scalars in device memory: `step_scalars` in common.cuh. */
  readonly scalars: Address;
  /** y = bytes of x, on the compute stream. */
  copy(to: Address, from: Address, bytes: number): void;
  /** Sets bytes to zero, on the compute stream. */
  zero(at: Address, bytes: number): void;
}
