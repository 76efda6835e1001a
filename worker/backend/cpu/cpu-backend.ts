import { arch, availableParallelism, cpus } from "node:os";
import { InternalError } from "../../../shared/errors.ts";
import type { Program } from "../../../shared/program/program.ts";
import type { Backend, LoadedProgram } from "../backend.ts";
import { BoundProgram } from "../bound-program.ts";
import { MemoryLedger } from "../memory-account.ts";
import { type Blas, findBlas } from "./blas.ts";
import { CpuArena } from "./cpu-arena.ts";
import type { CpuKernels } from "./kernels.ts";
import { openCpuLibrary } from "./library.ts";

/** Threads and BLAS are settings of the library: the backend that set them last. */
let active: CpuBackend | undefined;

/** Runs programs on the host's processor: C kernels of this project, and a CBLAS for products of many rows. */
export class CpuBackend implements Backend {
  readonly name = "cpu";
  readonly precisions = ["float32"] as const;
  readonly device: string;
  readonly fingerprint: string;
  readonly memory = new MemoryLedger();
  readonly workspaceBytes = 0;
  /** Threads in use, the calling one among them. */
  readonly threads: number;
  readonly #kernels: CpuKernels;
  readonly #blas: Blas | undefined;
  #loaded = false;

  /**
   * @param options.threads compute threads, the calling one among them; default: one per core
   * @param options.blas false keeps to the project's own matrix product
   * @param options.maxLevel highest x86-64 level of the kernels' build; default: what the processor has
   * @param options.replace gives kernels that work on the same memory in place of some of the library's
   * @throws FailedPreconditionError when the kernels are not built
   */
  constructor(
    options: {
      readonly threads?: number | undefined;
      readonly blas?: boolean;
      readonly maxLevel?: number;
      readonly replace?: (kernels: CpuKernels) => Partial<CpuKernels>;
    } = {},
  ) {
    const { kernels, buildHash } = openCpuLibrary(options.maxLevel);
    this.#kernels = { ...kernels, ...options.replace?.(kernels) };
    this.#blas = options.blas === false ? undefined : findBlas();
    this.threads = kernels.setThreads(options.threads ?? availableParallelism());
    const product = this.#blas?.name ?? "own matrix product, no BLAS";
    const build = `${arch()} with ${32 * kernels.vectorLanes()}-bit vectors`;
    const threads = `${this.threads} thread${this.threads === 1 ? "" : "s"}`;
    this.device = `${product}, ${threads}, ${build}`;
    const cpu = cpus()[0]?.model ?? "unknown CPU";
    this.fingerprint = [`cpu ${buildHash}`, product, threads, build, cpu].join("; ");
  }

  load(program: Program, rank: number): LoadedProgram {
    if (this.#loaded) {
      throw new InternalError(
        `program ${program.name} was loaded while another is; dispose it first`,
      );
    }
    const loaded = new BoundProgram({
      program,
      rank,
      account: this.memory,
      open: () => new CpuArena(program, this.#kernels, () => this.#activate()),
      onDispose: () => {
        this.#loaded = false;
      },
    });
    this.#loaded = true;
    return loaded;
  }

  close(): void {}

  #activate(): void {
    if (active === this) return;
    this.#kernels.setThreads(this.threads);
    this.#kernels.useSgemm(this.#blas?.sgemm ?? null);
    active = this;
  }
}
