import koffi from "koffi";
import { InternalError } from "../../../shared/errors.ts";
import type { Address } from "../kernels.ts";
import type { CudaBlas } from "./cublas.ts";
import type { CudaDevice } from "./device.ts";
import type { Driver } from "./driver.ts";
import type { Argument, Grid, Launch, Launcher } from "./launcher.ts";
import type { Modules } from "./modules.ts";

/** CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES */
const MAX_DYNAMIC_SHARED = 8;
/** Shared memory that a block gets without opting in. */
const PLAIN_SHARED_BYTES = 48 << 10;
const MAX_ARGUMENT_BYTES = 4096;

/** Launches kernels of one context on one stream. */
export class CudaLauncher implements Launcher {
  readonly computeCapability: number;
  readonly multiprocessors: number;
  readonly maxSharedBytes: number;
  readonly blas: CudaBlas;
  readonly scratch: { readonly address: Address; readonly bytes: number };
  readonly scalars: Address;
  readonly #driver: Driver;
  readonly #modules: Modules;
  readonly #stream: number;

  constructor(from: {
    readonly driver: Driver;
    readonly device: CudaDevice;
    readonly modules: Modules;
    readonly stream: number;
    readonly blas: CudaBlas;
    readonly scratch: { readonly address: Address; readonly bytes: number };
    readonly scalars: Address;
  }) {
    this.#driver = from.driver;
    this.#modules = from.modules;
    this.#stream = from.stream;
    this.blas = from.blas;
    this.scratch = from.scratch;
    this.scalars = from.scalars;
    this.computeCapability = from.device.computeCapability;
    this.multiprocessors = from.device.multiprocessors;
    this.maxSharedBytes = from.device.maxSharedBytes;
  }

  kernel(module: string, name: string, kinds: string): Launch {
    const block = new ArgumentBlock(name, kinds);
    let handle: number | undefined;
    let sharedLimit = PLAIN_SHARED_BYTES;
    return (grid, threads, sharedBytes, ...args) => {
      const [x, y, z] = blocksOf(grid);
      if (x === 0 || y === 0 || z === 0) return;
      handle ??= this.#modules.kernel(module, name);
      if (sharedBytes > sharedLimit) {
        this.#driver.cuFuncSetAttribute(handle, MAX_DYNAMIC_SHARED, sharedBytes);
        sharedLimit = sharedBytes;
      }
      block.set(args);
      this.#launch(name, handle, [x, y, z], threads, sharedBytes, block.pointers);
    };
  }

  copy(to: Address, from: Address, bytes: number): void {
    if (bytes > 0) this.#driver.cuMemcpyDtoDAsync_v2(to, from, bytes, this.#stream);
  }

  zero(at: Address, bytes: number): void {
    if (bytes > 0) this.#driver.cuMemsetD8Async(at, 0, bytes, this.#stream);
  }

  #launch(
    name: string,
    handle: number,
    [x, y, z]: readonly [number, number, number],
    threads: number,
    sharedBytes: number,
    pointers: BigUint64Array,
  ): void {
    try {
      this.#driver.cuLaunchKernel(
        handle,
        x,
        y,
        z,
        threads,
        1,
        1,
        sharedBytes,
        this.#stream,
        pointers,
        null,
      );
    } catch (error) {
      if (error instanceof Error) {
        error.message = `kernel ${name}, grid ${x} x ${y} x ${z} of ${threads} threads: ${error.message}`;
      }
      throw error;
    }
  }
}

function blocksOf(grid: Grid): readonly [number, number, number] {
  return typeof grid === "number" ? [grid, 1, 1] : grid;
}

/** A kernel's arguments where the driver reads them: it copies them at the launch, so one block serves every call. */
class ArgumentBlock {
  readonly pointers: BigUint64Array;
  readonly #name: string;
  readonly #kinds: string;
  readonly #view: DataView;
  readonly #bytes: Uint8Array;
  readonly #base: bigint;

  constructor(name: string, kinds: string) {
    this.#name = name;
    this.#kinds = kinds;
    const tables = [...kinds].filter((kind) => kind === "t").length;
    const buffer = new ArrayBuffer(8 * kinds.length + tables * MAX_ARGUMENT_BYTES);
    this.#bytes = new Uint8Array(buffer);
    this.#view = new DataView(buffer);
    this.#base = buffer.byteLength === 0 ? 0n : koffi.address(this.#bytes);
    this.pointers = new BigUint64Array(new ArrayBuffer(8 * Math.max(1, kinds.length)));
    for (let i = 0; i < kinds.length; i++) this.pointers[i] = this.#base + BigInt(8 * i);
  }

  set(args: readonly Argument[]): void {
    if (args.length !== this.#kinds.length) {
      throw new InternalError(
        `kernel ${this.#name} takes ${this.#kinds.length} arguments, got ${args.length}`,
      );
    }
    let end = 8 * args.length;
    for (let i = 0; i < args.length; i++) {
      const value = args[i];
      if (ArrayBuffer.isView(value)) {
        const { buffer, byteOffset, byteLength } = value;
        this.#bytes.set(new Uint8Array(buffer, byteOffset, byteLength), end);
        this.pointers[i] = this.#base + BigInt(end);
        end += Math.ceil(byteLength / 16) * 16;
      } else if (value !== undefined) this.#setNumber(8 * i, this.#kinds[i], value);
    }
  }

  #setNumber(at: number, kind: string | undefined, value: number | bigint): void {
    const view = this.#view;
    if (typeof value === "bigint") {
      view.setBigUint64(at, value, true);
      return;
    }
    switch (kind) {
      case "a":
      case "n":
        view.setUint32(at, value % 2 ** 32, true);
        view.setUint32(at + 4, Math.floor(value / 2 ** 32), true);
        return;
      case "i":
        view.setInt32(at, value, true);
        return;
      case "f":
        view.setFloat32(at, value, true);
        return;
      case "d":
        view.setFloat64(at, value, true);
        return;
      default:
        throw new InternalError(`kernel ${this.#name} has an argument of kind ${kind}`);
    }
  }
}
