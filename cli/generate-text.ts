import { setTimeout as delay } from "node:timers/promises";
import type { JobHandle } from "../client/job-handle.ts";
import type { Job } from "../client/job-types.ts";
import type { Batch } from "../client/push-batches.ts";
import type { TokenDecoder } from "./text-codec.ts";

export interface ContinuationOptions {
  /** Name of the model's input. */
  readonly input: string;
  readonly prompt: readonly number[];
  /** How many to add. */
  readonly tokens: number;
  readonly decoder: TokenDecoder;
  /** Takes the text as it comes. */
  readonly write: (text: string) => unknown;
  readonly signal: AbortSignal;
}

/** A job that takes no more tokens has ended, and says why; only when it does not, we do. */
const REFUSAL_GRACE_MS = 5000;

/**
 * A text that a job goes on with: feeds the prompt a token a step, then each drawn token back, and writes what is drawn.
 */
export class Continuation {
  /** Drawn so far. */
  readonly tokens: number[] = [];
  /** What they say. */
  text = "";
  /** Length of the text after which the draw failed, because the model's logits were not finite. */
  failedAfter: number | undefined;
  readonly #options: ContinuationOptions;
  readonly #drawn: Mailbox = new Mailbox();
  #startedMs = 0;
  #endedMs = 0;

  constructor(options: ContinuationOptions) {
    this.#options = options;
  }

  /** Tokens drawn a second, the first one not counted: it waits for the prompt. undefined when there are no others. */
  get tokensPerSecond(): number | undefined {
    const count = this.tokens.length - 1;
    return count > 0 ? (1000 * count) / (this.#endedMs - this.#startedMs) : undefined;
  }

  /**
   * Feeds the job until it ends.
   * @param onFirst called before the first token is written
   * @returns the ended job
   */
  async run(handle: JobHandle, onFirst: () => void): Promise<Job> {
    const refused = new AbortController();
    const done = new AbortController();
    const signal = AbortSignal.any([this.#options.signal, refused.signal]);
    handle.pushBatches(this.#batches(), { signal }).catch(async (error: unknown) => {
      await delay(REFUSAL_GRACE_MS, undefined, { ref: false, signal: done.signal }).catch(() => {});
      refused.abort(error);
    });
    try {
      for await (const event of handle.events({ signal })) {
        if (event.kind !== "step") continue;
        if (!Number.isFinite(event.loss)) this.failedAfter = event.step + 1;
        else if (event.step >= this.#options.prompt.length - 1) this.#take(event.loss, onFirst);
      }
      return await handle.get({ signal });
    } finally {
      done.abort();
      this.#drawn.close();
    }
  }

  /** Writes what the decoder still holds. */
  end(): void {
    if (this.tokens.length > 0) this.#give(this.#options.decoder.end());
  }

  #take(id: number, onFirst: () => void): void {
    this.#drawn.put(id);
    this.#endedMs = performance.now();
    if (this.tokens.length === 0) {
      this.#startedMs = this.#endedMs;
      onFirst();
    }
    this.tokens.push(id);
    this.#give(this.#options.decoder.push(id));
  }

  #give(text: string): void {
    this.text += text;
    if (text !== "") this.#options.write(text);
  }

  /** The prompt's tokens, then each one that is drawn but the last. */
  async *#batches(): AsyncGenerator<Batch, void, void> {
    const { input, prompt, tokens } = this.#options;
    const batch = (id: number): Batch => ({ [input]: { data: Int32Array.of(id), dims: [1, 1] } });
    for (const id of prompt) yield batch(id);
    for (let i = 1; i < tokens; i++) {
      const id = await this.#drawn.take();
      if (id === undefined) return;
      yield batch(id);
    }
  }
}

/** Numbers on their way from one async function to another. */
class Mailbox {
  readonly #waiting: number[] = [];
  #isClosed = false;
  #wake: () => void = () => {};

  put(id: number): void {
    this.#waiting.push(id);
    this.#wake();
  }

  /** The next number; undefined when the box is closed. */
  async take(): Promise<number | undefined> {
    while (this.#waiting.length === 0 && !this.#isClosed) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    return this.#waiting.shift();
  }

  close(): void {
    this.#isClosed = true;
    this.#wake();
  }
}
