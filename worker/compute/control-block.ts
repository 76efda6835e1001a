/**
 * The few words of shared memory over which the main thread and the compute thread meet. Messages carry work and
 * results; this block carries what must pass without an event loop turn: the abort flag, the end of a collective,
 * the pieces of operands that come and go while it runs, and the wake-up of a compute thread that waits.
 */

/** States of one collective, in the order they are passed through. */
export const COLLECTIVE_IDLE = 0;
export const COLLECTIVE_STARTED = 1;
export const COLLECTIVE_DONE = 2;

const ABORT = 0;
const WAKE = 1;
const MAIN_TICK = 2;
const MICROBATCH = 3;
const BATCH_HASH = 4;
const WAITING = 5;
/** Two words each: a float64, 8-byte aligned. */
const STEPS_DONE = 6;
const STEP = 8;
/** Three words for each collective: its state, the pieces of its input that are there, and the bits of those of its output that are final. */
const STATES = 10;
const WORDS_EACH = 3;

/** What the compute thread is at: computing, waiting for a batch, or waiting for collective n (n >= 0). */
export const NOT_WAITING = -1;
export const WAITING_FOR_BATCH = -2;

/**
 * Loads before a waiting thread sleeps. A wake costs about 50 us, a load about 5 ns; longer spinning would take
 * the core from the main thread that brings what is waited for.
 */
const SPINS = 2000;
/** Longest sleep before the main thread's tick is looked at again. */
const SLEEP_MS = 1000;

/** Thrown in the compute thread when the main thread has raised the abort flag; the main thread knows the cause. */
export class ComputeAborted extends Error {}

/** Thrown in the compute thread when the main thread has given no sign of life. */
export class MainThreadSilent extends Error {}

export class ControlBlock {
  readonly buffer: SharedArrayBuffer;
  readonly #words: Int32Array;
  readonly #stepsDone: Float64Array;
  readonly #step: Float64Array;

  /** Takes a fresh block for a program's collectives, or the block that the other thread made. */
  constructor(source: { readonly numCollectives: number } | SharedArrayBuffer) {
    this.buffer =
      source instanceof SharedArrayBuffer
        ? source
        : new SharedArrayBuffer(
            Int32Array.BYTES_PER_ELEMENT * (STATES + WORDS_EACH * source.numCollectives),
          );
    this.#words = new Int32Array(this.buffer);
    this.#stepsDone = new Float64Array(this.buffer, STEPS_DONE * 4, 1);
    this.#step = new Float64Array(this.buffer, STEP * 4, 1);
    if (!(source instanceof SharedArrayBuffer)) this.#words[WAITING] = NOT_WAITING;
  }

  // --- Main thread ---

  /** Makes the compute thread leave at its next wait or instruction. */
  abort(): void {
    Atomics.store(this.#words, ABORT, 1);
    this.wakeCompute();
  }

  /** Sign of life of the main thread; call it at least every few seconds. */
  tick(): void {
    Atomics.add(this.#words, MAIN_TICK, 1);
  }

  completeCollective(collective: number): void {
    this.setCollectiveState(collective, COLLECTIVE_DONE);
    this.wakeCompute();
  }

  /** Piece `piece` of the collective's output is as it stays. */
  finishPiece(collective: number, piece: number): void {
    Atomics.or(this.#words, this.#wordOf(collective, 2), 1 << piece);
    // Who waits for something else, or will look before it waits, is not to be woken.
    if (this.waiting === collective) this.wakeCompute();
  }

  wakeCompute(): void {
    Atomics.add(this.#words, WAKE, 1);
    Atomics.notify(this.#words, WAKE);
  }

  /** `NOT_WAITING`, `WAITING_FOR_BATCH`, or the index of the collective waited for. */
  get waiting(): number {
    return Atomics.load(this.#words, WAITING);
  }

  // --- Both ---

  get stepsDone(): number {
    return this.#stepsDone[0] ?? 0;
  }

  get aborted(): boolean {
    return Atomics.load(this.#words, ABORT) !== 0;
  }

  /**
   * Step, microbatch and batch hash of the collectives now started. Plain words: the message that announces a
   * collective orders them, and they do not change before it has ended.
   */
  get step(): number {
    return this.#step[0] ?? 0;
  }

  get microbatch(): number {
    return this.#words[MICROBATCH] ?? 0;
  }

  get batchHash(): number {
    return (this.#words[BATCH_HASH] ?? 0) >>> 0;
  }

  /** Pieces of the collective's input that are on the host. */
  arrivedPieces(collective: number): number {
    return Atomics.load(this.#words, this.#wordOf(collective, 1));
  }

  /** Pieces of the collective's output that are final, a bit each. */
  finalPieces(collective: number): number {
    return Atomics.load(this.#words, this.#wordOf(collective, 2));
  }

  // --- Compute thread ---

  setArrivedPieces(collective: number, pieces: number): void {
    Atomics.store(this.#words, this.#wordOf(collective, 1), pieces);
  }

  /** Before the collective starts: none of its pieces is there, none is final. */
  clearPieces(collective: number): void {
    this.setArrivedPieces(collective, 0);
    Atomics.store(this.#words, this.#wordOf(collective, 2), 0);
  }

  set step(value: number) {
    this.#step[0] = value;
  }

  set microbatch(value: number) {
    this.#words[MICROBATCH] = value;
  }

  set batchHash(value: number) {
    this.#words[BATCH_HASH] = value | 0;
  }

  set stepsDone(value: number) {
    this.#stepsDone[0] = value;
  }

  /** @throws ComputeAborted when the main thread has raised the flag. */
  check(): void {
    if (Atomics.load(this.#words, ABORT) !== 0) throw new ComputeAborted();
  }

  /**
   * For a thread that waits for something other than `waitUntil`: call what it gives again and again.
   * @returns what throws ComputeAborted when aborted, MainThreadSilent after `silenceMs` without a tick
   */
  watch(silenceMs: number): () => void {
    let tick = Atomics.load(this.#words, MAIN_TICK);
    let lastTickMs = performance.now();
    let lastCallMs = lastTickMs;
    return () => {
      this.check();
      const now = performance.now();
      const seen = Atomics.load(this.#words, MAIN_TICK);
      // After a pause it is this thread that looked away.
      if (seen !== tick || now - lastCallMs > SLEEP_MS) {
        tick = seen;
        lastTickMs = now;
      } else if (now - lastTickMs > silenceMs) throw silent(now - lastTickMs);
      lastCallMs = now;
    };
  }

  collectiveState(collective: number): number {
    return Atomics.load(this.#words, this.#wordOf(collective, 0));
  }

  setCollectiveState(collective: number, state: number): void {
    Atomics.store(this.#words, this.#wordOf(collective, 0), state);
  }

  /**
   * Blocks until `ready()` holds. Whoever makes it hold must call `wakeCompute` afterwards.
   *
   * What is waited for has its deadline in the main thread, which then aborts; so here only a main thread that
   * no longer ticks ends the wait.
   * @throws ComputeAborted when aborted; MainThreadSilent after `silenceMs` without a tick.
   */
  waitUntil(ready: () => boolean, reason: number, silenceMs: number): void {
    for (let i = 0; i < SPINS; i++) {
      if (ready()) return;
    }
    Atomics.store(this.#words, WAITING, reason);
    try {
      let tick = Atomics.load(this.#words, MAIN_TICK);
      let lastTickMs = performance.now();
      for (;;) {
        // Read before `ready`: a wake that comes in between changes the word and the wait below returns at once.
        const wake = Atomics.load(this.#words, WAKE);
        this.check();
        if (ready()) return;
        Atomics.wait(this.#words, WAKE, wake, SLEEP_MS);
        const now = performance.now();
        const seen = Atomics.load(this.#words, MAIN_TICK);
        if (seen !== tick) {
          tick = seen;
          lastTickMs = now;
        } else if (now - lastTickMs > silenceMs) {
          throw silent(now - lastTickMs);
        }
      }
    } finally {
      Atomics.store(this.#words, WAITING, NOT_WAITING);
    }
  }

  #wordOf(collective: number, word: number): number {
    return STATES + WORDS_EACH * collective + word;
  }
}

function silent(ms: number): MainThreadSilent {
  return new MainThreadSilent(
    `the worker's main thread gave no sign of life for ${Math.round(ms / 1000)} s`,
  );
}
