import type { StepScalars } from "../../../shared/optimizer/step-scalars.ts";
import type { Program } from "../../../shared/program/program.ts";
import type { CollectiveOperands } from "../backend.ts";
import type { BoundInstruction } from "../binding/binder.ts";
import type { ArenaDevice } from "../bound-program.ts";
import type { Address, Kernels } from "../kernels.ts";
import type { MemoryLedger } from "../memory-account.ts";
import { type CudaContext, runAll } from "./cuda-context.ts";
import { handleOf } from "./driver.ts";
import { Shuttle } from "./pinned.ts";
import { Recorder } from "./recorder.ts";
import { DeviceScalars } from "./scalars.ts";
import { Staging } from "./staging.ts";

/** An arena in device memory. Kernels run on one stream, in the order of the calls; the host waits where bytes must come back. */
export class CudaArena implements ArenaDevice {
  readonly arena: Address;
  readonly kernels: Kernels;
  readonly halfKernels: Kernels;
  readonly scalars: DeviceScalars;
  readonly #context: CudaContext;
  readonly #shuttle: Shuttle;
  readonly #staging: Staging;
  readonly #recorder: Recorder;
  readonly #owned: (() => void)[] = [];

  /** @throws DeviceError when memory is refused; nothing is kept then */
  constructor(context: CudaContext, program: Program, account: MemoryLedger) {
    this.#context = context;
    this.kernels = context.kernels;
    this.halfKernels = context.halfKernels;
    this.scalars = new DeviceScalars(context);
    const { driver } = context;
    const owned = this.#owned;
    try {
      const arena = handleOf((out) => driver.cuMemAlloc_v2(out, Math.max(1, program.arenaBytes)));
      owned.push(() => driver.cuMemFree_v2(arena));
      this.arena = arena;
      this.#shuttle = new Shuttle(context);
      owned.push(() => this.#shuttle.dispose());
      this.#staging = new Staging(context, program, arena);
      owned.push(() => this.#staging.dispose());
      account.observe("pinned host", this.#staging.bytes);
      owned.push(() => account.observe("pinned host", 0));
      this.#recorder = new Recorder(context);
      owned.push(() => this.#recorder.dispose());
    } catch (error) {
      this.free();
      throw error;
    }
  }

  run(stretch: readonly BoundInstruction[], scalars: StepScalars, between: () => void): void {
    between();
    this.#recorder.run(stretch, scalars);
  }

  write(to: Address, bytes: Uint8Array): void {
    this.#shuttle.send(to, bytes);
  }

  read(into: Uint8Array, from: Address): void {
    this.#shuttle.fetch(into, from);
  }

  collectiveOperands(index: number): CollectiveOperands {
    return this.#staging.operands(index);
  }

  startCollective(index: number): void {
    this.#staging.start(index);
  }

  collectiveReady(index: number, wait: boolean): boolean {
    return this.#staging.ready(index, wait);
  }

  finishCollective(index: number): void {
    this.#staging.finish(index);
  }

  synchronize(): void {
    this.#context.driver.cuStreamSynchronize(this.#context.computeStream);
  }

  /** Waits for what is under way, then gives back all memory, also when the device has failed. */
  free(): void {
    runAll([...this.#owned.splice(0), () => this.synchronize()]);
  }
}
