import { InternalError } from "../../../shared/errors.ts";
import type { Program } from "../../../shared/program/program.ts";
import { slotAt } from "../arena-layout.ts";
import type { CollectiveOperands } from "../backend.ts";
import type { Address } from "../kernels.ts";
import { type CudaContext, runAll } from "./cuda-context.ts";
import { allocatePinned, createEvent, type PinnedMemory } from "./pinned.ts";
import { planStaging, type StagedCollective } from "./staging-plan.ts";

/** One collective: its two places on the device, and the events of its copy to the host. */
interface Staged {
  readonly plan: StagedCollective;
  readonly input: Address;
  readonly output: Address;
  /** What the copy waits for, and what waits for the copy. */
  readonly made: number;
  readonly copied: number;
}

/**
 * Collectives exchange host memory: inputs are copied to pinned memory on a stream of their own, while kernels of later
 * instructions run, and results back on the compute stream. Neither copy makes the host wait.
 */
export class Staging {
  readonly #context: CudaContext;
  readonly #staged: readonly Staged[];
  readonly #memory: PinnedMemory;
  readonly #owned: (() => void)[] = [];

  constructor(context: CudaContext, program: Program, arena: Address) {
    this.#context = context;
    const plan = planStaging(program);
    try {
      this.#memory = allocatePinned(context, plan.bytes, this.#owned);
      this.#staged = program.collectives.map(({ inputSlot, outputSlot }, index) => {
        const staged = plan.collectives[index];
        if (staged === undefined) throw new InternalError(`collective ${index} has no staging`);
        return {
          plan: staged,
          input: arena + slotAt(program, inputSlot).offsetBytes,
          output: arena + slotAt(program, outputSlot).offsetBytes,
          made: createEvent(context, this.#owned),
          copied: createEvent(context, this.#owned),
        };
      });
    } catch (error) {
      this.dispose();
      throw error;
    }
  }

  get bytes(): number {
    return this.#memory.bytes;
  }

  operands(index: number): CollectiveOperands {
    const { input, output } = this.#at(index).plan;
    const { address } = this.#memory;
    return { input: address + BigInt(input.at), output: address + BigInt(output.at) };
  }

  /** Begins to bring the input to the host. */
  start(index: number): void {
    const { driver, computeStream, copyStream } = this.#context;
    const { plan, input, made, copied } = this.#at(index);
    driver.cuEventRecord(made, computeStream);
    driver.cuStreamWaitEvent(copyStream, made, 0);
    const { at, bytes } = plan.input;
    if (bytes > 0) {
      const to = this.#memory.address + BigInt(at);
      driver.cuMemcpyDtoHAsync_v2(to, input, bytes, copyStream);
    }
    driver.cuEventRecord(copied, copyStream);
  }

  /** Whether the input is on the host. With `wait` it is when this returns. */
  ready(index: number, wait: boolean): boolean {
    const { driver } = this.#context;
    const { copied } = this.#at(index);
    if (wait) driver.cuEventSynchronize(copied);
    return wait || driver.cuEventQuery(copied);
  }

  /** Takes the result to the device, for kernels launched from now on. */
  finish(index: number): void {
    const { driver, computeStream } = this.#context;
    const { plan, output } = this.#at(index);
    const { at, bytes } = plan.output;
    if (bytes === 0) return;
    const from = this.#memory.address + BigInt(at);
    driver.cuMemcpyHtoDAsync_v2(output, from, bytes, computeStream);
  }

  dispose(): void {
    runAll(this.#owned);
  }

  #at(index: number): Staged {
    const staged = this.#staged[index];
    if (staged === undefined) throw new InternalError(`the program has no collective ${index}`);
    return staged;
  }
}
