import type { Program } from "../../../shared/program/program.ts";
import type { Backend, LoadedProgram } from "../backend.ts";
import { CpuBackend } from "../cpu/cpu-backend.ts";
import type { CpuKernels } from "../cpu/kernels.ts";
import { elementwiseKernels } from "./elementwise-kernels.ts";
import { gpujsVersion } from "./library.ts";
import { ElementwiseTiles } from "./tiles.ts";

/**
 * gpu.js in its WebAssembly mode, for hosts without a GPU that it could use. The arena is native memory: ops of one output
 * and an element each are gpu.js kernels, the C kernels of the cpu backend do what is heavy, in place or of several outputs.
 */
export class WebAssemblyBackend implements Backend {
  readonly name = "gpujs";
  readonly settledDevice = "webassembly";
  readonly precisions = ["float32"] as const;
  readonly device: string;
  readonly fingerprint: string;
  readonly workspaceBytes = 0;
  readonly #cpu: CpuBackend;

  /**
   * @param options.threads compute threads of the C kernels, the calling one among them; default: one per core
   * @throws FailedPreconditionError when the C kernels are not built
   */
  constructor(options: { readonly threads?: number | undefined } = {}) {
    this.#cpu = new CpuBackend({ ...options, replace: withGpujs });
    this.device = `gpu.js WebAssembly, C kernels with ${this.#cpu.device}`;
    this.fingerprint = `gpu.js ${gpujsVersion()} webassembly; ${this.#cpu.fingerprint}`;
  }

  get memory(): CpuBackend["memory"] {
    return this.#cpu.memory;
  }

  load(program: Program, rank: number): LoadedProgram {
    return this.#cpu.load(program, rank);
  }

  close(): void {
    this.#cpu.close();
  }
}

function withGpujs(memory: CpuKernels): Partial<CpuKernels> {
  const tiles = new ElementwiseTiles(memory);
  return elementwiseKernels((name, operands, y, n) => tiles.run(name, operands, y, n));
}
