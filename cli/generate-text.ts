import { setTimeout as delay } from "node:timers/promises";
import type { JobHandle } from "../client/job-handle.ts";
import type { Job } from "../client/job-types.ts";
import type { Batch } from "../client/push-batches.ts";
import type { ContextWindows } from "./context-windows.ts";
import type { TokenDecoder } from "./text-codec.ts";

export interface ContinuationOptions {
  /** Name of the model's input. */
  readonly input: string;
  readonly prompt: readonly number[];
  /** What the job is fed. */
  readonly windows: ContextWindows;
  /** Steps of the job. */
  readonly steps: number;
  readonly decoder: TokenDecoder;
  /** Takes the text as it comes. */
  readonly write: (text: string) => unknown;
  readonly signal: AbortSignal;
}

/** A job that takes no more tokens has ended, and says why; only when it does not, we do. */
const REFUSAL_GRACE_MS = 5000;

/**
 * A text that a job goes on with: feeds it a token a step, the prompt's and then those drawn, and writes what is drawn.
 */
export class Continuation {
  /** Drawn so far. */
  readonly tokens: number[] = [];
  /** What they say. */
  text = "";
  /** Length of the text after which the draw failed, because the model's logits were not finite. */
  failedAfter: number | undefined;
  readonly #options: ContinuationOptions;
  #isOver = false;
  /** Wakes whoever waits for a token. */
  #wake: () => void = () => {};
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
        else if (this.#options.windows.isDrawn(event.step)) this.#take(event.loss, onFirst);
      }
      return await handle.get({ signal });
    } finally {
      done.abort();
      this.#isOver = true;
      this.#wake();
    }
  }

  /** Writes what the decoder still holds. */
  end(): void {
    if (this.tokens.length > 0) this.#give(this.#options.decoder.end());
  }

  #take(id: number, onFirst: () => void): void {
    this.#endedMs = performance.now();
    if (this.tokens.length === 0) {
      this.#startedMs = this.#endedMs;
      onFirst();
    }
    this.tokens.push(id);
    this.#wake();
    this.#give(this.#options.decoder.push(id));
  }

  #give(text: string): void {
    this.text += text;
    if (text !== "") this.#options.write(text);
  }

  async *#batches(): AsyncGenerator<Batch, void, void> {
    const { input, windows, steps } = this.#options;
    for (let step = 0; step < steps; step++) {
      const id = await this.#tokenAt(windows.fedAt(step));
      if (id === undefined) return;
      yield { [input]: { data: Int32Array.of(id), dims: [1, 1] } };
    }
  }

  /** The text's token `index`, when it is drawn; undefined when it never will be. */
  async #tokenAt(index: number): Promise<number | undefined> {
    const { prompt } = this.#options;
    if (index < prompt.length) return prompt[index];
    while (this.tokens.length <= index - prompt.length && !this.#isOver) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    return this.tokens[index - prompt.length];
  }
}
