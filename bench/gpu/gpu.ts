import type { LibraryHandle } from "koffi";
import { Cublas, cublasVersion } from "../../worker/backend/cuda/cublas.ts";
import { CudaContext, runAll, workspaceBytes } from "../../worker/backend/cuda/cuda-context.ts";
import { type CudaDevice, capability, findDevice } from "../../worker/backend/cuda/device.ts";
import { bindDriver, func, handleOf } from "../../worker/backend/cuda/driver.ts";
import { type CudaLibraries, openCudaLibraries } from "../../worker/backend/cuda/libraries.ts";
import type { Address } from "../../worker/backend/kernels.ts";
import { MemoryLedger } from "../../worker/backend/memory-account.ts";

/** CU_STREAM_CAPTURE_MODE_THREAD_LOCAL */
const THREAD_LOCAL = 1;

/** A GPU as reports name it. */
export interface GpuDescription {
  readonly name: string;
  readonly computeCapability: string;
  readonly multiprocessors: number;
  readonly memoryBytes: number;
  /** Highest version of CUDA that the driver runs, as 13.0. */
  readonly driver: string;
  readonly cublas: string;
}

/** A GPU that is there, before anything is taken of it. */
export class Gpu {
  readonly device: CudaDevice;
  readonly description: GpuDescription;
  /** What every rank takes beside its program. */
  readonly workspaceBytes: number;
  readonly #libraries: CudaLibraries;

  /** @throws RankmeshError when a library is missing, or that GPU is not there */
  constructor(choice: string) {
    this.#libraries = openCudaLibraries();
    this.device = findDevice(bindDriver(this.#libraries.driver), choice);
    this.workspaceBytes = workspaceBytes(this.device.computeCapability);
    const { name, multiprocessors, memoryBytes, driverVersion } = this.device;
    this.description = {
      name,
      computeCapability: capability(this.device),
      multiprocessors,
      memoryBytes,
      driver: (driverVersion / 1000).toFixed(1),
      cublas: cublasVersion(this.#libraries.cublas),
    };
  }

  /** Whether it is the driver of the tests, which computes on the CPU. */
  get lookAlike(): boolean {
    return /look-alike/i.test(this.device.name);
  }

  /** Works with the GPU in this process. Everything taken is given back when `use` is done. */
  async open<T>(use: (gpu: OpenGpu) => T | Promise<T>): Promise<T> {
    const gpu = new OpenGpu(this.#libraries, this.device);
    try {
      return await use(gpu);
    } finally {
      gpu.close();
    }
  }
}

/** The context of the cuda backend on one GPU, and clocks of that GPU. */
export class OpenGpu {
  readonly context: CudaContext;
  readonly account = new MemoryLedger();
  readonly #libraries: CudaLibraries;
  readonly #events: readonly [start: number, end: number];
  readonly #elapsed: (milliseconds: Float32Array, start: number, end: number) => number;
  readonly #owned: (() => void)[] = [];

  constructor(libraries: CudaLibraries, device: CudaDevice) {
    this.#libraries = libraries;
    this.#elapsed = elapsedTime(libraries.driver);
    this.context = new CudaContext({ libraries, device, account: this.account, tf32: false });
    this.#owned.push(() => this.context.dispose());
    try {
      this.#events = [this.#event(), this.#event()];
    } catch (error) {
      this.close();
      throw error;
    }
  }

  /** Device memory until `close`. */
  allocate(bytes: number): Address {
    const { driver } = this.context;
    const address = handleOf((out) => driver.cuMemAlloc_v2(out, bytes));
    this.#owned.push(() => driver.cuMemFree_v2(address));
    return address;
  }

  /** A handle of cuBLAS on the compute stream until `close`, for products that no kernel of ours stands before. */
  cublas(): Cublas {
    const bytes = 32 << 20;
    const workspace = { address: this.allocate(bytes), bytes };
    const stream = this.context.computeStream;
    const blas = new Cublas(this.#libraries.cublas, { stream, workspace, tf32: false });
    this.#owned.push(() => blas.dispose());
    return blas;
  }

  /** Seconds that the device spends on what `work` launches, idle times between included. Waits for it. */
  seconds(work: () => void): number {
    const { driver, computeStream } = this.context;
    const [start, end] = this.#events;
    driver.cuStreamSynchronize(computeStream);
    driver.cuEventRecord(start, computeStream);
    work();
    driver.cuEventRecord(end, computeStream);
    driver.cuEventSynchronize(end);
    const milliseconds = new Float32Array(1);
    const status = this.#elapsed(milliseconds, start, end);
    if (status !== 0) throw new Error(`cuEventElapsedTime failed: CUresult ${status}`);
    return (milliseconds[0] ?? Number.NaN) / 1e3;
  }

  /** Records what `work` launches, lets `use` launch it in one call, and forgets it. */
  recorded<T>(work: () => void, use: (launch: () => void) => T): T {
    const { driver, computeStream } = this.context;
    driver.cuStreamBeginCapture_v2(computeStream, THREAD_LOCAL);
    try {
      work();
    } catch (error) {
      // Says more than that the recording broke.
      try {
        driver.cuGraphDestroy(handleOf((out) => driver.cuStreamEndCapture(computeStream, out)));
      } catch {
        // It is over all the same.
      }
      throw error;
    }
    const graph = handleOf((out) => driver.cuStreamEndCapture(computeStream, out));
    let exec = 0;
    try {
      exec = handleOf((out) => driver.cuGraphInstantiateWithFlags(out, graph, 0n));
      return use(() => driver.cuGraphLaunch(exec, computeStream));
    } finally {
      driver.cuStreamSynchronize(computeStream);
      if (exec !== 0) driver.cuGraphExecDestroy(exec);
      driver.cuGraphDestroy(graph);
    }
  }

  /** Fills memory with `pattern` again and again. */
  fill(to: Address, bytes: number, pattern: Uint8Array): void {
    const { driver, computeStream } = this.context;
    if (bytes === 0) return;
    let filled = Math.min(bytes, pattern.byteLength);
    driver.cuMemcpyHtoDAsync_v2(to, pattern, filled, computeStream);
    driver.cuStreamSynchronize(computeStream);
    while (filled < bytes) {
      const more = Math.min(filled, bytes - filled);
      driver.cuMemcpyDtoDAsync_v2(to + filled, to, more, computeStream);
      filled += more;
    }
  }

  /** Bytes of the device that nobody has. */
  freeBytes(): number {
    return handleOf((free) => this.context.driver.cuMemGetInfo_v2(free, new BigUint64Array(1)));
  }

  close(): void {
    this.context.driver.cuStreamSynchronize(this.context.computeStream);
    runAll(this.#owned);
  }

  #event(): number {
    const { driver } = this.context;
    const event = handleOf((out) => driver.cuEventCreate(out, 0));
    this.#owned.push(() => driver.cuEventDestroy_v2(event));
    return event;
  }
}

/** By its name since CUDA 12.8, or the one before. */
function elapsedTime(
  driver: LibraryHandle,
): (milliseconds: Float32Array, start: number, end: number) => number {
  try {
    return func(driver, "cuEventElapsedTime_v2", "puu");
  } catch {
    return func(driver, "cuEventElapsedTime", "puu");
  }
}
