import { InternalError } from "../../../shared/errors.ts";
import type { StepScalars } from "../../../shared/optimizer/step-scalars.ts";
import type { Program } from "../../../shared/program/program.ts";
import type { CollectiveOperands, ExchangeOptions } from "../backend.ts";
import type { BoundInstruction } from "../binding/binder.ts";
import type { ArenaDevice } from "../bound-program.ts";
import type { Address, Kernels } from "../kernels.ts";
import type { MemoryLedger } from "../memory-account.ts";
import { type CudaContext, runAll } from "./cuda-context.ts";
import { handleOf } from "./driver.ts";
import { NcclExchange } from "./nccl-exchange.ts";
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
  /** Collectives by the host, or from device to device. */
  readonly #staging: Staging | undefined;
  readonly exchange?: NcclExchange;
  readonly #recorder: Recorder;
  readonly #owned: (() => void)[] = [];

  /** @throws DeviceError when memory is refused; nothing is kept then */
  constructor(
    context: CudaContext,
    from: {
      readonly program: Program;
      readonly rank: number;
      readonly account: MemoryLedger;
      readonly exchange: ExchangeOptions | undefined;
      readonly leastPieceBytes?: number | undefined;
    },
  ) {
    const { program, account } = from;
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
      if (from.exchange === undefined) {
        const staging = new Staging(context, { ...from, arena });
        this.#staging = staging;
        owned.push(() => staging.dispose());
        account.observe("pinned host", staging.bytes);
        owned.push(() => account.observe("pinned host", 0));
      }
      this.#recorder = new Recorder(context);
      owned.push(() => this.#recorder.dispose());
      owned.push(() => context.driver.cuStreamSynchronize(context.computeStream));
      if (from.exchange !== undefined) {
        const exchange = new NcclExchange(context, { ...from, arena, options: from.exchange });
        this.exchange = exchange;
        // First of all: what it has under way may never end by itself.
        owned.push(() => exchange.dispose());
      }
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
    return this.#staged().operands(index);
  }

  startCollective(index: number): void {
    if (this.exchange === undefined) this.#staged().start(index);
    else this.exchange.start(index);
  }

  collectiveReady(index: number, wait: boolean, place?: number): boolean {
    return this.#staged().ready(index, wait, place);
  }

  returnPieces(index: number, pieces: number): void {
    this.#staged().returnPieces(index, pieces);
  }

  finishCollective(index: number): void {
    if (this.exchange === undefined) this.#staged().finish(index);
    else this.exchange.finish(index);
  }

  synchronize(): void {
    if (this.exchange === undefined) {
      this.#context.driver.cuStreamSynchronize(this.#context.computeStream);
    } else this.exchange.synchronize();
  }

  /** Waits for what is under way, then gives back all memory, also when the device has failed. */
  free(): void {
    runAll(this.#owned);
  }

  #staged(): Staging {
    if (this.#staging !== undefined) return this.#staging;
    throw new InternalError(
      "collectives of this program run on the device: no operand is on the host",
    );
  }
}
