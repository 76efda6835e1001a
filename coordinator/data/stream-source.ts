import {
  CancelledError,
  type Fault,
  InternalError,
  InvalidArgumentError,
  ResourceExhaustedError,
  UnavailableError,
} from "../../shared/errors.ts";
import { didYouMean } from "../../shared/nearest.ts";
import { quote } from "../../shared/quote.ts";
import { type BatchSource, type DataInput, rowBytes } from "./data-source.ts";
import { firstOutside, int32Values, outsideText } from "./ids.ts";

/** A tensor as PushBatches carries it. */
export interface PushedTensor {
  readonly name: string;
  readonly dtype: string;
  /** [batchSize, ...] */
  readonly dims: readonly number[];
  /** Little-endian, row-major. */
  readonly data: Uint8Array;
}

export interface StreamSourceOptions {
  readonly batchSize: number;
  /** Batches that the job takes. */
  readonly steps: number;
  /** Batches that may lie here before a push waits; at least 1. */
  readonly maxQueuedBatches: number;
  /** How long a step waits for its batch, and a push for room. */
  readonly timeoutMs: number;
}

interface Waiter {
  readonly resolve: () => void;
}

/**
 * Batches pushed by a client, taken by the job in order. A push waits while the queue is full, so that a client that
 * is faster than the job is slowed down instead of filling memory.
 */
export class StreamSource implements BatchSource {
  readonly kind = "batches";
  readonly inputs: readonly DataInput[];
  readonly #options: StreamSourceOptions;
  readonly #queue: (readonly Uint8Array[])[] = [];
  /** Pushes that wait for their turn or for room, oldest first; one that fails leaves no gap. */
  readonly #pushes: object[] = [];
  #numPushed = 0;
  #numTaken = 0;
  #isEnded = false;
  #closedBy: Error | undefined;
  /** Everyone who waits for the state to change; each looks again when woken. */
  readonly #waiters = new Set<Waiter>();

  constructor(inputs: readonly DataInput[], options: StreamSourceOptions) {
    this.inputs = inputs;
    this.#options = options;
  }

  /** Batches taken in so far. */
  get numPushed(): number {
    return this.#numPushed;
  }

  /**
   * Queues the batch of the next step, which keeps the bytes; resolves when it has room.
   * @throws InvalidArgumentError with every fault of the batch, or when the job takes no more
   * @throws ResourceExhaustedError when the job makes no room in time
   * @throws CancelledError when the job has ended
   */
  async push(tensors: readonly PushedTensor[], signal: AbortSignal): Promise<void> {
    const { steps, maxQueuedBatches, timeoutMs } = this.#options;
    this.#throwIfClosed();
    const batch = this.#check(tensors);
    const ticket = {};
    this.#pushes.push(ticket);
    try {
      const hasTurn = (): boolean => this.#pushes[0] === ticket;
      const isRefused = (): boolean => this.#isEnded || this.#numPushed >= steps;
      const hasRoom = (): boolean => this.#queue.length < maxQueuedBatches;
      await this.#waitUntil(
        () => hasTurn() && (isRefused() || hasRoom()),
        signal,
        () => {
          const taken = `the job has taken ${this.#numTaken} of ${this.#numPushed} batches`;
          return new ResourceExhaustedError(
            `batch ${this.#numPushed}: no room within ${timeoutMs} ms; ${taken}`,
          );
        },
      );
      if (this.#isEnded) throw new InvalidArgumentError("the stream of batches has ended already");
      if (this.#numPushed >= steps) {
        throw new InvalidArgumentError(`the job takes ${steps} batches; this would be one more`);
      }
      this.#queue.push(batch);
      this.#numPushed += 1;
    } finally {
      this.#pushes.splice(this.#pushes.indexOf(ticket), 1);
      this.#wake();
    }
  }

  /** No more batches will come. */
  end(): void {
    this.#isEnded = true;
    this.#wake();
  }

  async takeBatch(step: number, signal: AbortSignal): Promise<readonly Uint8Array[]> {
    const { steps, timeoutMs } = this.#options;
    if (step < this.#numTaken)
      throw new InternalError(`the batch of step ${step} was taken before`);
    const hasEnded = (): boolean => this.#isEnded && this.#numPushed <= step;
    await this.#waitUntil(
      () => hasEnded() || (step === this.#numTaken && this.#queue.length > 0),
      signal,
      () => {
        const pushed = `${this.#numPushed} of ${steps} batches were pushed`;
        return new UnavailableError(
          `step ${step}: its client pushed no batch within ${timeoutMs} ms; ${pushed}`,
        );
      },
    );
    if (hasEnded()) {
      const message = `the stream ended after ${this.#numPushed} batches; step ${step} of ${steps} has none`;
      throw new InvalidArgumentError([{ path: "data.stream", message }]);
    }
    const batch = this.#queue.shift();
    if (batch === undefined) throw new InternalError(`the batch of step ${step} is gone`);
    this.#numTaken += 1;
    this.#wake();
    return batch;
  }

  /** Drops what is queued; pushes and takes, waiting or later, end with CancelledError. */
  close(): Promise<void> {
    this.#closedBy ??= new CancelledError("the job has ended and takes no more batches");
    this.#queue.length = 0;
    this.#wake();
    return Promise.resolve();
  }

  #check(tensors: readonly PushedTensor[]): Uint8Array[] {
    const faults: Fault[] = [];
    const names = this.inputs.map((input) => input.name);
    tensors.forEach(({ name }, index) => {
      const path = `tensors[${index}].name`;
      if (!names.includes(name)) {
        const hint = didYouMean(name, names) || `; it has ${names.map(quote).join(", ")}`;
        faults.push({ path, message: `the job has no input ${quote(name)}${hint}` });
      } else if (tensors.findIndex((tensor) => tensor.name === name) !== index) {
        faults.push({ path, message: `input ${quote(name)} is given twice` });
      }
    });
    const batch = this.inputs.map((input) => {
      const index = tensors.findIndex((tensor) => tensor.name === input.name);
      const tensor = tensors[index];
      if (tensor === undefined) {
        faults.push({ path: "tensors", message: `input ${quote(input.name)} is missing` });
        return new Uint8Array(0);
      }
      faults.push(...this.#checkTensor(tensor, input, `tensors[${index}]`));
      return tensor.data;
    });
    if (faults.length > 0) throw new InvalidArgumentError(faults.slice(0, 20));
    return batch;
  }

  #checkTensor(tensor: PushedTensor, input: DataInput, path: string): Fault[] {
    const faults: Fault[] = [];
    const name = quote(input.name);
    if (tensor.dtype !== input.dtype) {
      const message = `input ${name} is ${input.dtype}, not ${quote(tensor.dtype)}`;
      faults.push({ path: `${path}.dtype`, message });
    }
    const dims = [this.#options.batchSize, ...input.dims];
    const shown = tensor.dims.slice(0, 8).join(", ") + (tensor.dims.length > 8 ? ", ..." : "");
    if (tensor.dims.length !== dims.length || dims.some((dim, i) => dim !== tensor.dims[i])) {
      const message = `input ${name} is [${dims.join(", ")}], not [${shown}]`;
      faults.push({ path: `${path}.dims`, message });
    }
    const bytes = this.#options.batchSize * rowBytes(input);
    if (tensor.data.byteLength !== bytes) {
      const message = `input ${name} takes ${bytes} bytes for [${dims.join(", ")}], not ${tensor.data.byteLength}`;
      faults.push({ path: `${path}.data`, message });
    }
    if (faults.length === 0 && input.ids !== undefined) {
      faults.push(...this.#checkIds(tensor.data, input, `${path}.data`));
    }
    return faults;
  }

  #checkIds(data: Uint8Array, input: DataInput, path: string): Fault[] {
    const values = int32Values(data);
    const index = firstOutside(values, input);
    if (index < 0) return [];
    const rowLength = Math.max(1, rowBytes(input) / 4);
    const position = input.dims.length === 0 ? "" : `, position ${index % rowLength}`;
    // Those that wait for their turn come first.
    const batch = this.#numPushed + this.#pushes.length;
    const where = `batch ${batch}, row ${Math.floor(index / rowLength)}${position} of input ${quote(input.name)}`;
    return [{ path, message: `${where}: ${outsideText(values[index] ?? 0, input)}` }];
  }

  /** Resolves once `isReady`, however often the state changes until then; `late` says what did not happen in time. */
  async #waitUntil(isReady: () => boolean, signal: AbortSignal, late: () => Error): Promise<void> {
    const deadline = performance.now() + this.#options.timeoutMs;
    for (;;) {
      this.#throwIfClosed();
      signal.throwIfAborted();
      if (isReady()) return;
      const leftMs = deadline - performance.now();
      if (leftMs <= 0) throw late();
      await this.#nextChange(leftMs, signal);
    }
  }

  #nextChange(leftMs: number, signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const finish = (): void => {
        clearTimeout(timer);
        signal.removeEventListener("abort", finish);
        this.#waiters.delete(waiter);
        resolve();
      };
      const waiter: Waiter = { resolve: finish };
      const timer = setTimeout(finish, Math.min(Math.ceil(leftMs), 2 ** 31 - 1));
      signal.addEventListener("abort", finish);
      this.#waiters.add(waiter);
    });
  }

  #wake(): void {
    for (const waiter of [...this.#waiters]) waiter.resolve();
  }

  #throwIfClosed(): void {
    if (this.#closedBy !== undefined) throw this.#closedBy;
  }
}
