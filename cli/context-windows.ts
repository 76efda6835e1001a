/**
 * Which tokens a model that looks back on `context` of them is fed, one a step, to go on with a text of any length: first
 * the prompt and what is drawn after it; when the context is full, the last half of the text anew, and so on. Every
 * window is `context` steps long, the last one as long as it has to be.
 */
export class ContextWindows {
  /** Tokens of the text, the prompt's among them, that a window begins with again. */
  readonly #again: number;
  /** Tokens that the model looks back on at most. */
  readonly context: number;
  readonly #prompt: number;
  /** Tokens of the prompt that the first window begins with. */
  readonly #first: number;

  /**
   * @param prompt its length, at least 1
   * @param context at least 1
   */
  constructor(prompt: number, context: number) {
    this.#prompt = prompt;
    this.context = context;
    this.#again = Math.max(1, Math.floor(context / 2));
    this.#first = prompt <= context ? prompt : this.#again;
  }

  /** Tokens of the prompt that are never fed, because it is longer than the context. */
  get leftOut(): number {
    return this.#prompt - this.#first;
  }

  /** Index in the text of the token that a step is fed. */
  fedAt(step: number): number {
    const window = Math.floor(step / this.context);
    return this.#lengthAt(window) - this.#begins(window) + (step % this.context);
  }

  /** Whether what a step draws goes on with the text; else its token is there already. */
  isDrawn(step: number): boolean {
    return step % this.context >= this.#begins(Math.floor(step / this.context)) - 1;
  }

  /** Steps that draw `tokens` tokens, at least 1. */
  steps(tokens: number): number {
    const drawn = (window: number): number => this.context - this.#begins(window) + 1;
    const inFirst = drawn(0);
    if (tokens <= inFirst) return this.#first + tokens - 1;
    const full = Math.ceil((tokens - inFirst) / drawn(1)) - 1;
    const rest = tokens - inFirst - full * drawn(1);
    return (1 + full) * this.context + this.#again + rest - 1;
  }

  /** Length of the text when a window begins. */
  #lengthAt(window: number): number {
    if (window === 0) return this.#prompt;
    const inFirst = this.context - this.#first + 1;
    return this.#prompt + inFirst + (window - 1) * (this.context - this.#again + 1);
  }

  #begins(window: number): number {
    return window === 0 ? this.#first : this.#again;
  }
}
