import { crc32 } from "node:zlib";
import { DataLossError, InternalError } from "../../shared/errors.ts";
import {
  countRounds,
  type Round,
  type RoundSchedule,
  roundAt,
  roundName,
  sameRound,
} from "../../shared/job/rounds.ts";
import { stepScalars } from "../../shared/optimizer/step-scalars.ts";
import {
  type CollectiveInstruction,
  type ComputeInstruction,
  dtypeBytes,
  type Instruction,
  type Program,
} from "../../shared/program/program.ts";
import type { EndedCollective, LoadedProgram } from "../backend/backend.ts";
import type { BatchRing, BatchVisitor } from "./batch-ring.ts";
import {
  COLLECTIVE_DONE,
  COLLECTIVE_IDLE,
  COLLECTIVE_STARTED,
  type ControlBlock,
  WAITING_FOR_BATCH,
} from "./control-block.ts";
import type { EvaluationResult, StepResult } from "./messages.ts";
import { StepTimer } from "./step-phases.ts";

/** What the step loop works on and whom it tells. */
export interface StepLoopContext {
  readonly program: Program;
  readonly loaded: LoadedProgram;
  readonly control: ControlBlock;
  readonly batches: BatchRing;
  readonly silenceMs: number;
  readonly peakMemoryBytes: () => number;
  /** Pieces of the input of each collective whose operands come and go in pieces; undefined: it comes as one. */
  readonly inputPieces: readonly (number | undefined)[];
  /** Collective `index` may run: step, microbatch and batch hash are in the control block. */
  readonly startCollective: (index: number) => void;
  /** More pieces of the input of collective `index`, which may run, are there: the control block says how many. */
  readonly morePieces: (index: number) => void;
  /** The ring was full and has room again. */
  readonly roomForBatches: () => void;
  /** Collectives that ran on the device have ended. */
  readonly onCollectives: (ended: readonly EndedCollective[]) => void;
  readonly onStep: (result: StepResult) => void;
  readonly onEvaluation: (result: EvaluationResult) => void;
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
 * Runs all rounds of a job, steps and evaluations, without once returning to the event loop: batches come and
 * collectives end through shared memory.
 * @throws StepError around whatever ended the loop; ComputeAborted and MainThreadSilent as they are its cause.
 */
export function runRounds(context: StepLoopContext, schedule: RoundSchedule): void {
  const rounds = countRounds(schedule);
  let endedMs = performance.now();
  for (let index = 0; index < rounds; index++) {
    const round = roundAt(schedule, index);
    try {
      if (round.evaluation === undefined) {
        endedMs = trainStep(context, round, endedMs);
      } else {
        evaluateBatch(context, round, round.evaluation);
        endedMs = performance.now();
      }
    } catch (error) {
      throw new StepError(round.step, error);
    }
  }
}

/** @returns when it ended */
function trainStep(context: StepLoopContext, round: Round, beganMs: number): number {
  const { program, control } = context;
  const { step } = round;
  const timer = new StepTimer(beganMs);
  const batchHash = receiveBatch(context, round, timer);
  control.batchHash = batchHash;
  runSections(context, program, step, 0, timer);
  const loss = readLoss(context, program.lossSlot, timer);
  const gradNorm = readGradNorm(context);
  const endedMs = performance.now();
  control.stepsDone = step + 1;
  const peakMemoryBytes = context.peakMemoryBytes();
  context.onStep({ step, loss, gradNorm, ...timer.split(endedMs), batchHash, peakMemoryBytes });
  return endedMs;
}

/** The loss of one held-out batch. Its collectives are told from the step's by microbatches past those of the step. */
function evaluateBatch(context: StepLoopContext, round: Round, batch: number): void {
  const { program, control } = context;
  const { evaluation } = program;
  if (evaluation === undefined) throw new InternalError("the program has no evaluation");
  const { step } = round;
  const timer = new StepTimer(0);
  const batchHash = receiveBatch(context, round, timer);
  control.batchHash = batchHash;
  runSections(context, evaluation, step, (batch + 1) * (program.microbatches + 1), timer);
  const loss = readLoss(context, evaluation.lossSlot, timer);
  context.onEvaluation({ step, batch, loss, batchHash });
}

/** @param firstMicrobatch what the collectives of the first microbatch are numbered with */
function runSections(
  context: StepLoopContext,
  sections: Pick<Program, "body" | "epilogue">,
  step: number,
  firstMicrobatch: number,
  timer: StepTimer,
): void {
  const { program, control } = context;
  control.step = step;
  const between = (): void => control.check();
  const started: number[] = [];
  for (let microbatch = 0; microbatch <= program.microbatches; microbatch++) {
    const scalars = stepScalars(program.optimizer, program.schedule, step, microbatch);
    control.microbatch = firstMicrobatch + microbatch;
    const section = microbatch < program.microbatches ? sections.body : sections.epilogue;
    for (const stretch of stretchesOf(section)) {
      control.check();
      if (Array.isArray(stretch)) context.loaded.run(stretch, scalars, between);
      else exchange(context, stretch, started, timer);
      announce(context, started);
    }
  }
}

/**
 * Tells the other thread of collectives whose input is there, or the first piece of it, and of the pieces that follow, in the order
 * of the program. A device brings it while the instructions after the start are handed over; what comes to wait for one needs it, and
 * those before it. Nor may the thread wait while a collective that runs lacks pieces: its peers' frames would pile up.
 */
function announce(context: StepLoopContext, started: number[], needed?: number): void {
  const { loaded, control } = context;
  for (;;) {
    const [collective] = started;
    if (collective === undefined) return;
    const pieces = context.inputPieces[collective];
    const arrived = pieces === undefined ? 0 : control.arrivedPieces(collective);
    const wait =
      needed !== undefined &&
      (started.includes(needed) ||
        (arrived > 0 && control.collectiveState(needed) !== COLLECTIVE_DONE));
    if (!loaded.collectiveReady(collective, wait, arrived)) return;
    if (pieces !== undefined) control.setArrivedPieces(collective, arrived + 1);
    if (arrived + 1 >= (pieces ?? 1)) started.shift();
    if (arrived > 0) {
      context.morePieces(collective);
    } else {
      control.setCollectiveState(collective, COLLECTIVE_STARTED);
      context.startCollective(collective);
    }
    if (wait && pieces !== undefined) {
      control.check();
      // While later pieces come, earlier ones may have made the round.
      if (context.inputPieces[needed] !== undefined) returnPieces(context, needed);
    }
  }
}

/** Lets what is final of a collective's output go to the device. @returns the pieces, a bit each */
function returnPieces({ loaded, control }: StepLoopContext, collective: number): number {
  const final = control.finalPieces(collective);
  if (final !== 0) loaded.returnPieces?.(collective, final);
  return final;
}

/** Compute instructions with nothing between them, or one collective instruction. */
type Stretch = ComputeInstruction[] | CollectiveInstruction;

const stretches = new WeakMap<readonly Instruction[], readonly Stretch[]>();

function stretchesOf(section: readonly Instruction[]): readonly Stretch[] {
  let found = stretches.get(section);
  if (found === undefined) {
    const cut: Stretch[] = [];
    for (const instruction of section) {
      const last = cut.at(-1);
      if (instruction.kind !== "compute") cut.push(instruction);
      else if (Array.isArray(last)) last.push(instruction);
      else cut.push([instruction]);
    }
    found = cut;
    stretches.set(section, found);
  }
  return found;
}

/** @param started collectives that the other thread has not heard of, or not of all of their input, in order */
function exchange(
  context: StepLoopContext,
  { kind, collective }: CollectiveInstruction,
  started: number[],
  timer: StepTimer,
): void {
  const { loaded, control, silenceMs } = context;
  const onDevice = loaded.exchange !== undefined;
  if (onDevice && kind === "wait") {
    loaded.finishCollective(collective);
    return;
  }
  if (kind === "start") {
    loaded.startCollective(collective);
    if (!onDevice) {
      if (context.inputPieces[collective] !== undefined) control.clearPieces(collective);
      started.push(collective);
    }
    return;
  }
  if (started.length > 0) {
    const sinceMs = performance.now();
    announce(context, started, collective);
    timer.waited("device", sinceMs);
  }
  const done = (): boolean => control.collectiveState(collective) === COLLECTIVE_DONE;
  if (!done()) {
    const sinceMs = performance.now();
    if (context.inputPieces[collective] === undefined) {
      control.waitUntil(done, collective, silenceMs);
    } else {
      while (!done()) {
        const returned = returnPieces(context, collective);
        const more = (): boolean => done() || control.finalPieces(collective) !== returned;
        control.waitUntil(more, collective, silenceMs);
      }
    }
    timer.waited("collective", sinceMs);
  }
  control.setCollectiveState(collective, COLLECTIVE_IDLE);
  loaded.finishCollective(collective);
}

function readLoss(
  { loaded, onCollectives }: StepLoopContext,
  slot: number,
  timer: StepTimer,
): number {
  const sinceMs = performance.now();
  loaded.synchronize();
  timer.waited("device", sinceMs);
  const ended = loaded.exchange?.ended() ?? [];
  if (ended.length > 0) onCollectives(ended);
  const loss = new Float32Array(1);
  loaded.read(slot, new Uint8Array(loss.buffer));
  return loss[0] ?? Number.NaN;
}

function readGradNorm({ program, loaded }: StepLoopContext): number | undefined {
  if (program.gradNormSlot < 0) return undefined;
  const norm = new Float64Array(1);
  loaded.read(program.gradNormSlot, new Uint8Array(norm.buffer));
  return norm[0];
}

/**
 * Copies the round's batch into the input slots as it comes, and checks that it is whole and unharmed.
 * @returns the CRC-32 of its bytes
 * @throws DataLossError when the bytes are not those that were sent, or not all.
 */
function receiveBatch(context: StepLoopContext, round: Round, timer: StepTimer): number {
  const { control, batches, silenceMs } = context;
  const sinceMs = performance.now();
  const receiver = new BatchReceiver(context.program, context.loaded, round);
  const ready = (): boolean => !batches.empty;
  while (receiver.batchHash === undefined) {
    if (batches.empty) control.waitUntil(ready, WAITING_FOR_BATCH, silenceMs);
    else control.check();
    batches.take(receiver);
    if (batches.takeStalled()) context.roomForBatches();
  }
  timer.waited("data", sinceMs);
  return receiver.batchHash;
}

/** Takes the pieces of one round: inputs in order, each from its first byte to its last. */
class BatchReceiver implements BatchVisitor {
  batchHash: number | undefined;
  readonly #program: Program;
  readonly #loaded: LoadedProgram;
  readonly #round: Round;
  #input = 0;
  #offsetBytes = 0;
  #crc = 0;

  constructor(program: Program, loaded: LoadedProgram, round: Round) {
    this.#program = program;
    this.#loaded = loaded;
    this.#round = round;
  }

  piece(round: Round, input: number, offsetBytes: number, bytes: Uint8Array): void {
    this.#checkRound(round);
    while (this.#input < input && this.#offsetBytes === this.#inputBytes()) {
      this.#input++;
      this.#offsetBytes = 0;
    }
    if (input !== this.#input || offsetBytes !== this.#offsetBytes) {
      throw new InternalError(
        `batch of ${roundName(round)}: bytes for input ${input} at ${offsetBytes} came where input ` +
          `${this.#input} at ${this.#offsetBytes} was due`,
      );
    }
    const slot = this.#program.inputs[input]?.slot;
    if (slot === undefined || offsetBytes + bytes.length > this.#inputBytes()) {
      throw new InternalError(
        `batch of ${roundName(round)}: ${bytes.length} bytes at ${offsetBytes} of input ${input} pass its end`,
      );
    }
    this.#loaded.write(slot, bytes, offsetBytes);
    this.#crc = crc32(bytes, this.#crc);
    this.#offsetBytes += bytes.length;
  }

  end(round: Round, batchHash: number): void {
    this.#checkRound(round);
    while (this.#input < this.#program.inputs.length && this.#offsetBytes === this.#inputBytes()) {
      this.#input++;
      this.#offsetBytes = 0;
    }
    const missing = this.#program.inputs[this.#input];
    if (missing !== undefined) {
      throw new DataLossError(
        `batch of ${roundName(round)}: input ${missing.name} ended after ${this.#offsetBytes} of ${this.#inputBytes()} bytes`,
      );
    }
    if (this.#crc !== batchHash) {
      throw new DataLossError(
        `batch of ${roundName(round)}: the bytes that came have CRC-32 ${hex(this.#crc)}, ` +
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

  #checkRound(round: Round): void {
    if (sameRound(round, this.#round)) return;
    throw new InternalError(
      `batch of ${roundName(round)} came where ${roundName(this.#round)} was due`,
    );
  }
}

function hex(value: number): string {
  return `0x${value.toString(16).padStart(8, "0")}`;
}
