import { crc32 } from "node:zlib";
import { DataLossError, InternalError } from "../../shared/errors.ts";
import { type StepScalars, stepScalars } from "../../shared/optimizer/step-scalars.ts";
import { dtypeBytes, type Instruction, type Program } from "../../shared/program/program.ts";
import type { LoadedProgram } from "../backend/backend.ts";
import type { BatchRing, BatchVisitor } from "./batch-ring.ts";
import {
  COLLECTIVE_DONE,
  COLLECTIVE_IDLE,
  COLLECTIVE_STARTED,
  type ControlBlock,
  WAITING_FOR_BATCH,
} from "./control-block.ts";
import type { StepResult } from "./messages.ts";

/** What the step loop works on and whom it tells. */
export interface StepLoopContext {
  readonly program: Program;
  readonly loaded: LoadedProgram;
  readonly control: ControlBlock;
  readonly batches: BatchRing;
  readonly silenceMs: number;
  readonly peakMemoryBytes: () => number;
  /** Collective `index` may run: microbatch and batch hash are in the control block. */
  readonly startCollective: (index: number) => void;
  /** The ring was full and has room again. */
  readonly roomForBatches: () => void;
  readonly onStep: (result: StepResult) => void;
}

/** An error of a step, with the place it came from. */
export class StepError extends Error {
  readonly step: number;

  constructor(step: number, cause: unknown) {
    super(`step ${step}`, { cause });
    this.step = step;
  }
}

/**
 * Runs steps 0..steps-1 without once returning to the event loop: batches come and collectives end through
 * shared memory.
 * @throws StepError around whatever ended the loop; ComputeAborted and MainThreadSilent as they are its cause.
 */
export function runSteps(context: StepLoopContext, steps: number): void {
  let endedMs = performance.now();
  for (let step = 0; step < steps; step++) {
    try {
      const batchHash = receiveBatch(context, step);
      runStep(context, step, batchHash);
      const { loss, gradNorm } = readResults(context);
      const now = performance.now();
      const seconds = (now - endedMs) / 1000;
      endedMs = now;
      context.control.stepsDone = step + 1;
      context.onStep({
        step,
        loss,
        gradNorm,
        seconds,
        batchHash,
        peakMemoryBytes: context.peakMemoryBytes(),
      });
    } catch (error) {
      throw new StepError(step, error);
    }
  }
}

function runStep(context: StepLoopContext, step: number, batchHash: number): void {
  const { program, control } = context;
  control.batchHash = batchHash;
  for (let microbatch = 0; microbatch <= program.microbatches; microbatch++) {
    const scalars = stepScalars(program.optimizer, program.schedule, step, microbatch);
    control.microbatch = microbatch;
    const section = microbatch < program.microbatches ? program.body : program.epilogue;
    for (const instruction of section) execute(context, instruction, scalars);
  }
}

function execute(context: StepLoopContext, instruction: Instruction, scalars: StepScalars): void {
  const { loaded, control, silenceMs } = context;
  control.check();
  switch (instruction.kind) {
    case "compute":
      loaded.run(instruction, scalars);
      return;
    case "start":
      // The other thread reads the operands as soon as it hears of them.
      loaded.synchronize();
      control.setCollectiveState(instruction.collective, COLLECTIVE_STARTED);
      context.startCollective(instruction.collective);
      return;
    case "wait": {
      const { collective } = instruction;
      const done = (): boolean => control.collectiveState(collective) === COLLECTIVE_DONE;
      control.waitUntil(done, collective, silenceMs);
      control.setCollectiveState(collective, COLLECTIVE_IDLE);
      return;
    }
  }
}

function readResults({ program, loaded }: StepLoopContext): {
  loss: number;
  gradNorm: number | undefined;
} {
  loaded.synchronize();
  const loss = new Float32Array(1);
  loaded.read(program.lossSlot, new Uint8Array(loss.buffer));
  if (program.gradNormSlot < 0) return { loss: loss[0] ?? Number.NaN, gradNorm: undefined };
  const norm = new Float64Array(1);
  loaded.read(program.gradNormSlot, new Uint8Array(norm.buffer));
  return { loss: loss[0] ?? Number.NaN, gradNorm: norm[0] };
}

/**
 * Copies the step's batch into the input slots as it comes, and checks that it is whole and unharmed.
 * @returns the CRC-32 of its bytes
 * @throws DataLossError when the bytes are not those that were sent, or not all.
 */
function receiveBatch(context: StepLoopContext, step: number): number {
  const { control, batches, silenceMs } = context;
  const receiver = new BatchReceiver(context.program, context.loaded, step);
  const ready = (): boolean => !batches.empty;
  while (receiver.batchHash === undefined) {
    if (batches.empty) control.waitUntil(ready, WAITING_FOR_BATCH, silenceMs);
    else control.check();
    batches.take(receiver);
    if (batches.takeStalled()) context.roomForBatches();
  }
  return receiver.batchHash;
}

/** Takes the pieces of one step: inputs in order, each from its first byte to its last. */
class BatchReceiver implements BatchVisitor {
  batchHash: number | undefined;
  readonly #program: Program;
  readonly #loaded: LoadedProgram;
  readonly #step: number;
  #input = 0;
  #offsetBytes = 0;
  #crc = 0;

  constructor(program: Program, loaded: LoadedProgram, step: number) {
    this.#program = program;
    this.#loaded = loaded;
    this.#step = step;
  }

  piece(step: number, input: number, offsetBytes: number, bytes: Uint8Array): void {
    this.#checkStep(step);
    while (this.#input < input && this.#offsetBytes === this.#inputBytes()) {
      this.#input++;
      this.#offsetBytes = 0;
    }
    if (input !== this.#input || offsetBytes !== this.#offsetBytes) {
      throw new InternalError(
        `batch of step ${step}: bytes for input ${input} at ${offsetBytes} came where input ` +
          `${this.#input} at ${this.#offsetBytes} was due`,
      );
    }
    const slot = this.#program.inputs[input]?.slot;
    if (slot === undefined || offsetBytes + bytes.length > this.#inputBytes()) {
      throw new InternalError(
        `batch of step ${step}: ${bytes.length} bytes at ${offsetBytes} of input ${input} pass its end`,
      );
    }
    this.#loaded.write(slot, bytes, offsetBytes);
    this.#crc = crc32(bytes, this.#crc);
    this.#offsetBytes += bytes.length;
  }

  end(step: number, batchHash: number): void {
    this.#checkStep(step);
    while (this.#input < this.#program.inputs.length && this.#offsetBytes === this.#inputBytes()) {
      this.#input++;
      this.#offsetBytes = 0;
    }
    const missing = this.#program.inputs[this.#input];
    if (missing !== undefined) {
      throw new DataLossError(
        `batch of step ${step}: input ${missing.name} ended after ${this.#offsetBytes} of ${this.#inputBytes()} bytes`,
      );
    }
    if (this.#crc !== batchHash) {
      throw new DataLossError(
        `batch of step ${step}: the bytes that came have CRC-32 ${hex(this.#crc)}, ` +
          `those that were sent had ${hex(batchHash)}`,
      );
    }
    this.batchHash = batchHash;
  }

  #inputBytes(): number {
    const slot = this.#program.slots[this.#program.inputs[this.#input]?.slot ?? -1];
    if (slot === undefined) return Number.POSITIVE_INFINITY;
    return slot.shape.reduce((product, dim) => product * dim, dtypeBytes(slot.dtype));
  }

  #checkStep(step: number): void {
    if (step !== this.#step) {
      throw new InternalError(`batch of step ${step} came where step ${this.#step} was due`);
    }
  }
}

function hex(value: number): string {
  return `0x${value.toString(16).padStart(8, "0")}`;
}
