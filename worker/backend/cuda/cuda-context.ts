import { DeviceError, InternalError } from "../../../shared/errors.ts";
import type { Address, Kernels } from "../kernels.ts";
import type { MemoryLedger } from "../memory-account.ts";
import { Cublas } from "./cublas.ts";
import { CudaLauncher } from "./cuda-launcher.ts";
import type { CudaDevice } from "./device.ts";
import { bindDriver, type Driver, handleOf } from "./driver.ts";
import { cudaHalfKernels, cudaKernels } from "./kernels/index.ts";
import type { CudaLibraries } from "./libraries.ts";
import { Modules } from "./modules.ts";

/** CU_STREAM_NON_BLOCKING: apart from the legacy default stream, which nothing here uses. */
const NON_BLOCKING = 1;

const SCALARS_BYTES = 256;
const SCRATCH_BYTES = 16 << 20;
/** What cuBLAS recommends: 32 MiB for Hopper, 4 MiB before. */
const CUBLAS_BYTES = { hopper: 32 << 20, before: 4 << 20 };

/** Device memory that a context takes beside the arenas of its programs. */
export function workspaceBytes(computeCapability: number): number {
  const cublas = computeCapability >= 90 ? CUBLAS_BYTES.hopper : CUBLAS_BYTES.before;
  return SCALARS_BYTES + SCRATCH_BYTES + cublas;
}

/** This process's hold on one device: its context, streams, kernels and workspace. Lives in one thread. */
export class CudaContext {
  readonly driver: Driver;
  readonly device: CudaDevice;
  /** Kernels and copies of a program, in its order. */
  readonly computeStream: number;
  /** Copies to the host that overlap with kernels. */
  readonly copyStream: number;
  /** Copies from the host that overlap with kernels, and with copies to it. */
  readonly returnStream: number;
  /** Where kernels read the step's scalars. */
  readonly scalars: Address;
  readonly kernels: Kernels;
  readonly halfKernels: Kernels;
  readonly #account: MemoryLedger;
  readonly #owned: (() => void)[] = [];

  /** @throws DeviceError when the driver refuses something; nothing is kept then */
  constructor(from: {
    readonly libraries: CudaLibraries;
    readonly device: CudaDevice;
    readonly account: MemoryLedger;
    readonly tf32: boolean;
  }) {
    const driver = bindDriver(from.libraries.driver);
    this.driver = driver;
    this.device = from.device;
    this.#account = from.account;
    const owned = this.#owned;
    try {
      const { handle, computeCapability } = from.device;
      const context = handleOf((out) => driver.cuDevicePrimaryCtxRetain(out, handle));
      owned.push(() => driver.cuDevicePrimaryCtxRelease_v2(handle));
      driver.cuCtxSetCurrent(context);
      owned.push(() => driver.cuCtxSetCurrent(0));
      this.#observeContext();
      this.computeStream = this.#stream();
      this.copyStream = this.#stream();
      this.returnStream = this.#stream();
      const bytes = workspaceBytes(computeCapability);
      const workspace = this.#allocate("workspace", bytes);
      this.scalars = workspace;
      const scratch = { address: workspace + SCALARS_BYTES, bytes: SCRATCH_BYTES };
      const rest = SCALARS_BYTES + SCRATCH_BYTES;
      const blas = new Cublas(from.libraries.cublas, {
        stream: this.computeStream,
        workspace: { address: workspace + rest, bytes: bytes - rest },
        tf32: from.tf32,
      });
      owned.push(() => blas.dispose());
      const modules = new Modules(driver, computeCapability);
      owned.push(() => modules.dispose());
      const launcher = new CudaLauncher({
        driver,
        device: from.device,
        modules,
        stream: this.computeStream,
        blas,
        scratch,
        scalars: this.scalars,
      });
      this.kernels = cudaKernels(launcher);
      this.halfKernels = cudaHalfKernels(launcher);
    } catch (error) {
      this.dispose();
      throw error;
    }
  }

  /**
   * Gives everything back, as far as the device still answers.
   * @returns what says that the device is lost, if it is
   * @throws DeviceError of the first call that fails on a device that is not
   */
  dispose(): DeviceError | undefined {
    return runAll(this.#owned);
  }

  /** Memory of the device that is in use now, by whomever. */
  usedBytes(): number {
    const total = handleOf((out) => this.driver.cuMemGetInfo_v2(new BigUint64Array(1), out));
    return total - handleOf((out) => this.driver.cuMemGetInfo_v2(out, new BigUint64Array(1)));
  }

  /** Between two events with times that are done. */
  secondsBetween(begin: number, end: number): number {
    const milliseconds = new Float32Array(1);
    this.driver.cuEventElapsedTime(milliseconds, begin, end);
    return (milliseconds[0] ?? 0) / 1000;
  }

  #stream(): number {
    const stream = handleOf((out) => this.driver.cuStreamCreate(out, NON_BLOCKING));
    this.#owned.push(() => this.driver.cuStreamDestroy_v2(stream));
    return stream;
  }

  #allocate(kind: string, bytes: number): Address {
    const address = handleOf((out) => this.driver.cuMemAlloc_v2(out, bytes));
    this.#account.allocate(kind, bytes);
    this.#owned.push(() => {
      this.#account.free(kind, bytes);
      this.driver.cuMemFree_v2(address);
    });
    return address;
  }

  /** What the driver keeps for the context itself: seen from outside, and other processes' doings with it. */
  #observeContext(): void {
    this.#account.observe("context", this.usedBytes());
    this.#owned.push(() => this.#account.observe("context", 0));
  }
}

/**
 * Runs and forgets what was owned, last first; goes on over errors and throws the first. A lost device has lost what was on it,
 * so its refusing is no error: it is returned.
 */
export function runAll(owned: (() => void)[]): DeviceError | undefined {
  let first: Error | undefined;
  let lost: DeviceError | undefined;
  for (const give of owned.splice(0).reverse()) {
    try {
      give();
    } catch (error) {
      if (error instanceof DeviceError && error.fatal) lost ??= error;
      first ??= error instanceof Error ? error : new InternalError(String(error));
    }
  }
  if (first !== undefined && lost === undefined) throw first;
  return lost;
}
