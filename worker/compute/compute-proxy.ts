import { Worker } from "node:worker_threads";
import koffi from "koffi";
import { DeviceError, InternalError } from "../../shared/errors.ts";
import type { RoundSchedule } from "../../shared/job/rounds.ts";
import { dtypeBytes, type Program, type Slot } from "../../shared/program/program.ts";
import type { EndedCollective } from "../backend/backend.ts";
import type { CollectiveBuffers } from "../collective/collective.ts";
import { keepYoungGenerationSmall } from "../garbage.ts";
import type { BackendChoice } from "./backend-loader.ts";
import { BatchRing } from "./batch-ring.ts";
import { ControlBlock } from "./control-block.ts";
import type {
  CollectiveAddresses,
  ComputeExchange,
  ComputeReply,
  ComputeRequest,
  ComputeStart,
  EvaluationResult,
  MemoryReport,
  StepResult,
} from "./messages.ts";
import { fromPlainError } from "./plain-error.ts";
import { SharedPieces } from "./shared-pieces.ts";

export interface ComputeOptions {
  readonly backendModule: string;
  readonly backend: BackendChoice;
  readonly program: Program;
  readonly rank: number;
  readonly batchRingBytes: number;
  /** Runs one collective to its end; `buffers` are views into the arena. */
  readonly runCollective: (
    collective: number,
    at: { readonly step: number; readonly microbatch: number; readonly batchHash: number },
    buffers: CollectiveBuffers,
  ) => Promise<void>;
  /** Collectives run on the device; left out: by `runCollective`. */
  readonly exchange?: ComputeExchange | undefined;
  /** Collectives that ran on the device. */
  readonly onCollectives?: (ended: readonly EndedCollective[]) => void;
  readonly onStep: (result: StepResult) => void;
  readonly onEvaluation: (result: EvaluationResult) => void;
  /** The batch ring has room again. */
  readonly onBatchRoom: () => void;
  /** This process cannot use its device any more. Called after all promises of work have rejected. */
  readonly onDeviceLost: (error: DeviceError) => void;
}

/** An error of a running step: the step, and what went wrong. */
export interface ComputeFailure {
  readonly error: Error;
  readonly step: number | undefined;
}

/** The main thread counts as dead after this long without a tick. */
const SILENCE_MS = 60_000;
const TICK_MS = 1_000;
/** Reads and writes under way at once, and the length of each: what moving weights may hold in memory. */
const MOVES = 4;
export const MOVE_BYTES = 1 << 20;

interface Waiter<T> {
  readonly resolve: (value: T) => void;
  readonly reject: (cause: Error) => void;
}

/** Main-thread side of a compute thread. All promises reject once the thread has failed, was aborted or ended. */
export class ComputeProxy {
  readonly batches: BatchRing;
  readonly #options: ComputeOptions;
  readonly #control: ControlBlock;
  readonly #worker: Worker;
  readonly #ticker: NodeJS.Timeout;
  readonly #moves = new Map<number, Waiter<ArrayBuffer>>();
  readonly #spareBuffers: ArrayBuffer[] = [];
  readonly #moveQueue: (() => void)[] = [];
  readonly #collectivesUnderWay = new Set<Promise<void>>();
  #views: CollectiveViews[] = [];
  #moving = 0;
  #nextMove = 0;
  /** The one request other than moves that is under way. */
  #pending: Waiter<ComputeReply> | undefined;
  #failure: ComputeFailure | undefined;
  #disposed: Promise<void> | undefined;
  #onDisposed: Waiter<void> | undefined;
  #exited = false;

  constructor(options: ComputeOptions) {
    this.#options = options;
    this.#control = new ControlBlock({ numCollectives: options.program.collectives.length });
    this.batches = new BatchRing({ capacityBytes: options.batchRingBytes });
    const start: ComputeStart = {
      backendModule: options.backendModule,
      backend: options.backend,
      program: options.program,
      rank: options.rank,
      control: this.#control.buffer,
      batches: this.batches.buffer,
      silenceMs: SILENCE_MS,
      exchange: options.exchange,
    };
    this.#worker = new Worker(new URL("./compute-thread.js", import.meta.url), {
      workerData: start,
      name: `compute-rank-${options.rank}`,
      // The arena is native memory. What the thread's heap holds is the program; small generations keep its garbage small.
      resourceLimits: { maxOldGenerationSizeMb: 512, maxYoungGenerationSizeMb: 4 },
    });
    this.#worker.on("message", (message: ComputeReply) => this.#onMessage(message));
    this.#worker.on("error", (error) => this.#fail({ error: crashError(error), step: undefined }));
    this.#worker.on("exit", () => this.#onExit());
    this.#ticker = setInterval(() => this.#control.tick(), TICK_MS);
    this.#ticker.unref();
  }

  /**
   * Waits until the arena is allocated. `exchangeIds` is what this rank made for all to meet by, where it was to.
   * @throws RankmeshError when memory is refused.
   */
  async load(): Promise<{
    readonly device: string;
    readonly memory: MemoryReport;
    readonly exchangeIds: Uint8Array;
  }> {
    const reply = await this.#expect();
    if (typeof reply === "number" || reply.kind !== "loaded") throw unexpected(reply, "loaded");
    keepYoungGenerationSmall();
    if (this.#options.exchange === undefined) {
      this.#views = collectiveViews(this.#options.program, reply.addresses, this.#control);
    }
    const { device, memory, exchangeIds } = reply;
    return { device, memory, exchangeIds };
  }

  /** Fills stored tensors (indices into Program.stored) by their init specs. */
  async initialize(stored: readonly number[], seed: number): Promise<void> {
    this.#post({ kind: "initialize", stored, seed });
    const reply = await this.#expect();
    if (typeof reply === "number" || reply.kind !== "initialized")
      throw unexpected(reply, "initialized");
  }

  /**
   * Runs all steps and evaluations. The memory report is of the end.
   * @param exchangeIds what the ranks meet by, where collectives run on the device
   */
  async run(
    schedule: RoundSchedule,
    exchangeIds: Uint8Array = new Uint8Array(),
  ): Promise<MemoryReport> {
    this.#post({ kind: "run", schedule, exchangeIds });
    const reply = await this.#expect();
    if (typeof reply === "number" || reply.kind !== "finished") throw unexpected(reply, "finished");
    return reply.memory;
  }

  /** Copies `bytes` (at most MOVE_BYTES) into a slot. Do not call it while `run` is under way. */
  async write(slot: number, offsetBytes: number, bytes: Uint8Array): Promise<void> {
    await this.#acquireMove();
    try {
      const buffer = this.#spareBuffers.pop() ?? new ArrayBuffer(MOVE_BYTES);
      new Uint8Array(buffer).set(bytes);
      this.#spareBuffers.push(await this.#move("write", slot, offsetBytes, bytes.length, buffer));
    } finally {
      this.#releaseMove();
    }
  }

  /** Hands `lengthBytes` (at most MOVE_BYTES) of a slot to `use`; the bytes are its own until its promise settles. */
  async read(
    slot: number,
    offsetBytes: number,
    lengthBytes: number,
    use: (bytes: Uint8Array) => Promise<void>,
  ): Promise<void> {
    await this.#acquireMove();
    try {
      const spare = this.#spareBuffers.pop() ?? new ArrayBuffer(MOVE_BYTES);
      const buffer = await this.#move("read", slot, offsetBytes, lengthBytes, spare);
      await use(new Uint8Array(buffer, 0, lengthBytes));
      this.#spareBuffers.push(buffer);
    } finally {
      this.#releaseMove();
    }
  }

  /** Ends what the thread does, now, with `error`; the first cause stays. */
  abort(error: Error, step?: number): void {
    this.#fail({ error, step });
  }

  /** Steps done so far. */
  get stepsDone(): number {
    return this.#control.stepsDone;
  }

  /** Index of the collective that the compute thread waits for now; negative: it waits for none. */
  get waiting(): number {
    return this.#control.waiting;
  }

  get failure(): ComputeFailure | undefined {
    return this.#failure;
  }

  /** Wakes a compute thread that waits for a batch. */
  batchArrived(): void {
    this.#control.wakeCompute();
  }

  /** Gives back the memory that only moving weights needs. */
  trim(): void {
    this.#spareBuffers.length = 0;
  }

  /**
   * Frees the arena and ends the thread. The collectives must have been aborted; waits until none uses the arena.
   * @throws InternalError when the thread ended without freeing, or kept something
   */
  dispose(): Promise<void> {
    this.#disposed ??= this.#dispose();
    return this.#disposed;
  }

  async #dispose(): Promise<void> {
    this.#fail({ error: new InternalError("the compute thread was disposed of"), step: undefined });
    await Promise.allSettled(this.#collectivesUnderWay);
    this.#views = [];
    this.trim();
    try {
      await new Promise<void>((resolve, reject) => {
        this.#onDisposed = { resolve, reject };
        if (this.#exited)
          reject(new InternalError("the compute thread ended without freeing its arena"));
        else this.#post({ kind: "dispose" });
      });
    } finally {
      clearInterval(this.#ticker);
      await this.#worker.terminate();
    }
  }

  #onMessage(message: ComputeReply): void {
    if (typeof message === "number") {
      this.#startCollective(message);
      return;
    }
    switch (message.kind) {
      case "step":
        this.#options.onStep(message.report);
        return;
      case "evaluation":
        this.#options.onEvaluation(message.report);
        return;
      case "collectives":
        this.#options.onCollectives?.(message.ended);
        return;
      case "pieces":
        this.#views[message.collective]?.staging?.arrivedMore();
        return;
      case "roomForBatches":
        this.#options.onBatchRoom();
        return;
      case "moved":
        this.#moves.get(message.id)?.resolve(message.buffer);
        this.#moves.delete(message.id);
        return;
      case "failed": {
        const error = fromPlainError(message.error);
        this.#fail({ error, step: message.error.step });
        if (error instanceof DeviceError && error.fatal) this.#options.onDeviceLost(error);
        return;
      }
      case "aborted":
        return;
      case "disposed":
        this.#onAllGiven(message);
        return;
      default:
        this.#pending?.resolve(message);
        this.#pending = undefined;
    }
  }

  #onAllGiven({ heldBytes, error }: Extract<ComputeReply, { readonly kind: "disposed" }>): void {
    const cause = error === undefined ? undefined : fromPlainError(error);
    const lost = cause instanceof DeviceError && cause.fatal;
    if (lost) this.#options.onDeviceLost(cause);
    // What a lost device held is gone with it.
    if (heldBytes === 0 && (cause === undefined || lost)) {
      this.#onDisposed?.resolve();
      return;
    }
    const what = `the backend still holds ${heldBytes === 0 ? "something" : `${heldBytes} bytes`} after its program was disposed of`;
    const why = cause === undefined ? "" : `: ${cause.message}`;
    this.#onDisposed?.reject(new InternalError(`${what}${why}`));
  }

  #startCollective(index: number): void {
    const buffers = this.#views[index];
    if (buffers === undefined) {
      this.abort(
        new InternalError(`the compute thread started collective ${index}, which has no operands`),
      );
      return;
    }
    const at = {
      step: this.#control.step,
      microbatch: this.#control.microbatch,
      batchHash: this.#control.batchHash,
    };
    const run = this.#options
      .runCollective(index, at, buffers)
      .then(
        () => this.#control.completeCollective(index),
        (error: unknown) =>
          this.abort(error instanceof Error ? error : new InternalError(String(error)), at.step),
      )
      .finally(() => this.#collectivesUnderWay.delete(run));
    this.#collectivesUnderWay.add(run);
  }

  #expect(): Promise<ComputeReply> {
    return new Promise((resolve, reject) => {
      if (this.#failure !== undefined) reject(this.#failure.error);
      else this.#pending = { resolve, reject };
    });
  }

  async #acquireMove(): Promise<void> {
    if (this.#moving >= MOVES) {
      await new Promise<void>((resolve) => this.#moveQueue.push(resolve));
    } else this.#moving++;
  }

  #releaseMove(): void {
    const next = this.#moveQueue.shift();
    if (next !== undefined) next();
    else this.#moving--;
  }

  #move(
    kind: "read" | "write",
    slot: number,
    offsetBytes: number,
    lengthBytes: number,
    buffer: ArrayBuffer,
  ): Promise<ArrayBuffer> {
    const id = this.#nextMove++;
    return new Promise((resolve, reject) => {
      if (this.#failure !== undefined) {
        reject(this.#failure.error);
        return;
      }
      this.#moves.set(id, { resolve, reject });
      this.#post({ kind, id, slot, offsetBytes, lengthBytes, buffer }, [buffer]);
    });
  }

  #post(request: ComputeRequest, transfer: readonly ArrayBuffer[] = []): void {
    this.#worker.postMessage(request, transfer);
  }

  #fail(failure: ComputeFailure): void {
    this.#failure ??= failure;
    this.#control.abort();
    this.#pending?.reject(this.#failure.error);
    this.#pending = undefined;
    for (const { reject } of this.#moves.values()) reject(this.#failure.error);
    this.#moves.clear();
    // Those that wait for their turn are let in, and refused there.
    for (const next of this.#moveQueue.splice(0)) next();
  }

  #onExit(): void {
    this.#exited = true;
    clearInterval(this.#ticker);
    const error = new InternalError("the compute thread ended without freeing its arena");
    this.#fail({ error, step: undefined });
    this.#onDisposed?.reject(error);
  }
}

interface CollectiveViews extends CollectiveBuffers {
  readonly staging: SharedPieces | undefined;
}

function collectiveViews(
  program: Program,
  addresses: CollectiveAddresses,
  control: ControlBlock,
): CollectiveViews[] {
  return program.collectives.map((collective, i) => {
    const at = addresses[i];
    if (at === undefined) throw new InternalError(`no addresses of collective ${i}`);
    return {
      input: slotView(program.slots[collective.inputSlot], at.input),
      output: slotView(program.slots[collective.outputSlot], at.output),
      staging: at.pieces && new SharedPieces(at.pieces, control, i),
    };
  });
}

/** The bytes of a slot, seen in place. Not to be kept past the arena's end: the view does not hold it. */
function slotView(slot: Slot | undefined, address: bigint): Uint8Array {
  if (slot === undefined) throw new InternalError("a collective's slot is missing");
  const bytes = slot.shape.reduce((product, dim) => product * dim, dtypeBytes(slot.dtype));
  if (bytes === 0) return new Uint8Array(0);
  return new Uint8Array(koffi.view(address, bytes));
}

function crashError(error: unknown): Error {
  const message = error instanceof Error ? error.message : String(error);
  return new InternalError(`the compute thread crashed: ${message}`, { cause: error });
}

function unexpected(reply: ComputeReply, wanted: string): InternalError {
  const got = typeof reply === "number" ? `collective ${reply}` : reply.kind;
  return new InternalError(`the compute thread answered ${got} where ${wanted} was due`);
}
