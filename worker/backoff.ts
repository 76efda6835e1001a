/** Delays between attempts: doubled each time up to a limit, and spread, so that many workers do not come at once. */
export class Backoff {
  readonly #firstMs: number;
  readonly #maxMs: number;
  readonly #random: () => number;
  #attempt = 0;

  constructor(firstMs: number, maxMs: number, random: () => number = Math.random) {
    this.#firstMs = firstMs;
    this.#maxMs = maxMs;
    this.#random = random;
  }

  /** Milliseconds to wait now: between half of the step's delay and all of it. */
  next(): number {
    const full = Math.min(this.#maxMs, this.#firstMs * 2 ** Math.min(this.#attempt++, 30));
    return full * (0.5 + 0.5 * this.#random());
  }

  /** After a success. */
  reset(): void {
    this.#attempt = 0;
  }
}
