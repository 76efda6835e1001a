import { InternalError } from "../../../shared/errors.ts";
import type { Program } from "../../../shared/program/program.ts";
import type { Backend, ExchangeOffer, ExchangeOptions, LoadedProgram } from "../backend.ts";
import { BoundProgram } from "../bound-program.ts";
import { MemoryLedger } from "../memory-account.ts";
import { cublasVersion } from "./cublas.ts";
import { CudaArena } from "./cuda-arena.ts";
import { CudaContext, workspaceBytes } from "./cuda-context.ts";
import { type CudaDevice, capability, findDevice } from "./device.ts";
import { bindDriver } from "./driver.ts";
import { type CudaLibraries, openCudaLibraries } from "./libraries.ts";
import { kernelsHash } from "./modules.ts";
import { findNccl } from "./nccl.ts";

/**
 * Runs programs on an NVIDIA GPU: the driver's API and cuBLAS through FFI, and kernels of this project. Making it allocates
 * nothing on the device; the first program takes the context, `close` gives it back.
 */
export class CudaBackend implements Backend {
  readonly name = "cuda";
  readonly precisions = ["float32", "bfloat16"] as const;
  readonly device: string;
  readonly fingerprint: string;
  readonly memory = new MemoryLedger();
  readonly workspaceBytes: number;
  readonly memoryBytes: number;
  readonly exchange?: ExchangeOffer;
  readonly #libraries: CudaLibraries;
  readonly #device: CudaDevice;
  readonly #tf32: boolean;
  readonly #leastPieceBytes: number | undefined;
  #context: CudaContext | undefined;
  #loaded = false;

  /**
   * @param options.device index or UUID; empty: the first
   * @param options.maxCapability highest compute capability whose kernels are used; newer devices run older ones too
   * @param options.tf32 lets float32 products round their operands to TF32
   * @param options.leastPieceBytes smallest piece in which operands of collectives are staged; default MIN_PIECE_BYTES
   * @throws FailedPreconditionError when driver, cuBLAS or a device is missing
   */
  constructor(
    options: {
      readonly device?: string;
      readonly maxCapability?: number;
      readonly tf32?: boolean;
      readonly leastPieceBytes?: number;
    } = {},
  ) {
    this.#libraries = openCudaLibraries();
    this.#tf32 = options.tf32 ?? false;
    this.#leastPieceBytes = options.leastPieceBytes;
    const found = findDevice(bindDriver(this.#libraries.driver), options.device ?? "");
    const { maxCapability = Number.POSITIVE_INFINITY } = options;
    const computeCapability = Math.min(found.computeCapability, maxCapability);
    const device = { ...found, computeCapability };
    this.#device = device;
    this.memoryBytes = device.memoryBytes;
    this.workspaceBytes = workspaceBytes(device.computeCapability);
    const cublas = `cuBLAS ${cublasVersion(this.#libraries.cublas)}`;
    const tf32 = this.#tf32 ? ["TF32 products"] : [];
    // As much of the UUID as tells the devices of a host apart.
    this.device = [`${device.name} ${device.uuid.slice(0, 12)}`, cublas, ...tf32].join(", ");
    const nccl = findNccl();
    if (nccl !== undefined) this.exchange = { ncclVersion: nccl.version, deviceUuid: device.uuid };
    const driver = `driver of CUDA ${(device.driverVersion / 1000).toFixed(1)}`;
    const what = [`compute capability ${capability(device)}`, cublas, ...tf32, driver];
    this.fingerprint = [`cuda ${kernelsHash()}`, device.name, ...what].join("; ");
  }

  load(program: Program, rank: number, exchange?: ExchangeOptions): LoadedProgram {
    if (this.#loaded) {
      throw new InternalError(
        `program ${program.name} was loaded while another is; dispose it first`,
      );
    }
    this.#context ??= new CudaContext({
      libraries: this.#libraries,
      device: this.#device,
      account: this.memory,
      tf32: this.#tf32,
    });
    const context = this.#context;
    const loaded = new BoundProgram({
      program,
      rank,
      account: this.memory,
      open: () =>
        new CudaArena(context, {
          program,
          rank,
          account: this.memory,
          exchange,
          leastPieceBytes: this.#leastPieceBytes,
        }),
      onDispose: () => {
        this.#loaded = false;
      },
    });
    this.#loaded = true;
    return loaded;
  }

  close(): void {
    const context = this.#context;
    this.#context = undefined;
    const lost = context?.dispose();
    if (lost !== undefined) throw lost;
  }
}
