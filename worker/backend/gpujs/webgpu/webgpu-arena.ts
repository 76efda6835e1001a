import koffi from "koffi";
import { InternalError } from "../../../../shared/errors.ts";
import type { StepScalars } from "../../../../shared/optimizer/step-scalars.ts";
import type { Program } from "../../../../shared/program/program.ts";
import { slotAt } from "../../arena-layout.ts";
import type { CollectiveOperands } from "../../backend.ts";
import type { BoundInstruction } from "../../binding/binder.ts";
import type { ArenaDevice } from "../../bound-program.ts";
import { planStaging, type StagingPlan } from "../../cuda/staging-plan.ts";
import type { Address, Kernels } from "../../kernels.ts";
import type { MemoryLedger } from "../../memory-account.ts";
import type { DeviceLink } from "./device-link.ts";
import { ARENA, DeviceMemory } from "./device-memory.ts";
import { webGpuKernels } from "./kernels/index.ts";
import { Launcher } from "./launcher.ts";
import type { DeviceRange } from "./messages.ts";

/** Bytes that are read or written at a time. */
const PIECE_BYTES = 16 << 20;

/**
 * An arena on a WebGPU device. Kernels are queued in the order of the calls; the host waits where bytes must come back. Operands
 * of collectives have a place in shared memory, which the device's thread fills and empties.
 */
export class WebGpuArena implements ArenaDevice {
  readonly arena = ARENA;
  readonly kernels: Kernels;
  readonly scalars: { readonly address: Address; load(scalars: StepScalars): void };
  readonly #link: DeviceLink;
  readonly #program: Program;
  readonly #memory: DeviceMemory;
  readonly #plan: StagingPlan;
  readonly #staging: SharedArrayBuffer;
  readonly #stagingAddress: bigint;
  readonly #account: MemoryLedger;
  /** Fetches of collectives' inputs under way. */
  readonly #fetches = new Map<number, number>();

  /**
   * @param device its pipelines and its workspace stay
   * @throws ResourceExhaustedError when memory is refused; nothing is kept then
   */
  constructor(
    device: {
      readonly link: DeviceLink;
      readonly pipelines: Map<string, number>;
      readonly workspace: number;
    },
    program: Program,
    account: MemoryLedger,
  ) {
    const { link, pipelines, workspace } = device;
    this.#link = link;
    this.#program = program;
    this.#account = account;
    this.#plan = planStaging(program);
    this.#memory = new DeviceMemory(link, program, workspace);
    this.#staging = new SharedArrayBuffer(Math.max(8, this.#plan.bytes));
    this.#stagingAddress = koffi.address(new Uint8Array(this.#staging));
    account.observe("shared host", this.#plan.bytes);
    const step: { current: StepScalars } = { current: NO_STEP };
    // Kernels take them along: there is no memory of them.
    this.scalars = {
      address: ARENA,
      load: (scalars) => {
        step.current = scalars;
      },
    };
    this.kernels = webGpuKernels(new Launcher(link, this.#memory, pipelines), step, this);
  }

  run(stretch: readonly BoundInstruction[], scalars: StepScalars, between: () => void): void {
    for (const bound of stretch) {
      between();
      bound(scalars);
    }
    this.#link.flush();
  }

  write(to: Address, bytes: Uint8Array): void {
    for (let at = 0; at < bytes.length; at += PIECE_BYTES) {
      this.#writePiece(to + at, bytes.subarray(at, at + PIECE_BYTES));
    }
  }

  read(into: Uint8Array, from: Address): void {
    for (let at = 0; at < into.length; at += PIECE_BYTES) {
      const piece = into.subarray(at, at + PIECE_BYTES);
      const { range, before } = this.#words(from + at, piece.length);
      piece.set(this.#link.read(range).subarray(before, before + piece.length));
    }
  }

  collectiveOperands(index: number): CollectiveOperands {
    const { input, output } = this.#staged(index);
    return {
      input: this.#stagingAddress + BigInt(input.at),
      output: this.#stagingAddress + BigInt(output.at),
    };
  }

  startCollective(index: number): void {
    const { input } = this.#staged(index);
    if (input.bytes === 0) return;
    const from = this.#rangeOf(this.#collective(index).inputSlot, input.bytes);
    const to = { memory: this.#staging, offset: input.at };
    this.#fetches.set(index, this.#link.fetch(from, to));
  }

  collectiveReady(index: number, wait: boolean): boolean {
    const fetch = this.#fetches.get(index);
    if (fetch === undefined) return true;
    if (!this.#link.isDone(fetch, wait)) return false;
    this.#fetches.delete(index);
    return true;
  }

  finishCollective(index: number): void {
    const { output } = this.#staged(index);
    if (output.bytes === 0) return;
    const to = this.#rangeOf(this.#collective(index).outputSlot, output.bytes);
    this.#link.sendShared({ memory: this.#staging, offset: output.at }, to);
  }

  synchronize(): void {
    this.#link.wait();
  }

  free(): void {
    this.#account.observe("shared host", 0);
    // The memory of a device that has failed goes with it.
    if (this.#link.failed) return;
    this.#memory.free();
    this.#link.wait();
  }

  #writePiece(to: Address, bytes: Uint8Array): void {
    const { range, before } = this.#words(to, bytes.length);
    if (range.bytes === bytes.length) {
      this.#link.write(range, bytes);
      return;
    }
    // WebGPU writes whole words.
    const words = this.#link.read(range);
    words.set(bytes, before);
    this.#link.write(range, words);
  }

  /** The words that hold some bytes, and how many bytes of them lie before. */
  #words(at: Address, bytes: number): { range: DeviceRange; before: number } {
    const { buffer, offset } = this.#memory.locate(at);
    const before = offset % 4;
    const length = Math.ceil((before + bytes) / 4) * 4;
    return { range: { buffer, offset: offset - before, bytes: length }, before };
  }

  #rangeOf(slot: number, bytes: number): DeviceRange {
    const { range, before } = this.#words(ARENA + slotAt(this.#program, slot).offsetBytes, bytes);
    if (before !== 0 || range.bytes !== bytes) {
      throw new InternalError(`slot ${slot}: a collective of ${bytes} bytes, no whole words`);
    }
    return range;
  }

  #collective(index: number): Program["collectives"][number] {
    const collective = this.#program.collectives[index];
    if (collective === undefined) throw new InternalError(`the program has no collective ${index}`);
    return collective;
  }

  #staged(index: number): StagingPlan["collectives"][number] {
    const staged = this.#plan.collectives[index];
    if (staged === undefined) throw new InternalError(`the program has no collective ${index}`);
    return staged;
  }
}

/** Before the first step nothing reads them. */
const NO_STEP: StepScalars = {
  step: 0,
  microbatch: 0,
  learningRate: 0,
  decay: 0,
  oneMinusBeta1: 0,
  beta2: 0,
  oneMinusBeta2: 0,
  stepSize: 0,
  rootScale: 0,
  eps: 0,
  momentum: 0,
};
