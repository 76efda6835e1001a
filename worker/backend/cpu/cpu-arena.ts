import { InternalError, ResourceExhaustedError } from "../../../shared/errors.ts";
import type { StepScalars } from "../../../shared/optimizer/step-scalars.ts";
import type { Program } from "../../../shared/program/program.ts";
import { slotAt } from "../arena-layout.ts";
import type { CollectiveOperands } from "../backend.ts";
import type { BoundInstruction } from "../binding/binder.ts";
import type { ArenaDevice } from "../bound-program.ts";
import type { Address } from "../kernels.ts";
import type { CpuKernels } from "./kernels.ts";
import { StepScalarBlock } from "./step-scalar-block.ts";

/** An arena in host memory. Kernels are synchronous, and collectives work on the arena itself. */
export class CpuArena implements ArenaDevice {
  readonly arena: Address;
  readonly kernels: CpuKernels;
  readonly scalars = new StepScalarBlock();
  readonly #program: Program;
  readonly #activate: () => void;

  /**
   * @param activate makes the backend's threads and BLAS the ones that kernels use
   * @throws ResourceExhaustedError when the system refuses the arena
   */
  constructor(program: Program, kernels: CpuKernels, activate: () => void) {
    const { arenaBytes, name } = program;
    const arena = kernels.map(arenaBytes);
    if (arena === null) {
      throw new ResourceExhaustedError(
        `cpu backend: the system refused ${arenaBytes} bytes for program ${name}; free memory, or use more ranks`,
      );
    }
    this.arena = Number(arena);
    this.kernels = kernels;
    this.#program = program;
    this.#activate = activate;
    activate();
  }

  run(stretch: readonly BoundInstruction[], scalars: StepScalars, between: () => void): void {
    this.#activate();
    for (const bound of stretch) {
      between();
      bound(scalars);
    }
  }

  write(to: Address, bytes: Uint8Array): void {
    this.kernels.write(to, bytes, bytes.length);
  }

  read(into: Uint8Array, from: Address): void {
    this.kernels.read(into, from, into.length);
  }

  collectiveOperands(index: number): CollectiveOperands {
    const collective = this.#program.collectives[index];
    if (collective === undefined) throw new InternalError(`the program has no collective ${index}`);
    const at = (slot: number): bigint =>
      BigInt(this.arena + slotAt(this.#program, slot).offsetBytes);
    return { input: at(collective.inputSlot), output: at(collective.outputSlot) };
  }

  startCollective(): void {}

  collectiveReady(): boolean {
    return true;
  }

  finishCollective(): void {}

  synchronize(): void {}

  free(): void {
    const { arenaBytes, name } = this.#program;
    if (this.kernels.unmap(this.arena, arenaBytes) !== 0) {
      throw new InternalError(`munmap of ${arenaBytes} bytes of program ${name} failed`);
    }
  }
}
