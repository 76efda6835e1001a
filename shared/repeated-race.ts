/**
 * A race of one promise against others, one after another. `Promise.race` would do for a few; but it leaves a reaction with
 * the promise that is still to settle, and that keeps the result of every race until it does: of a stream, every message.
 */
export class RepeatedRace<E> {
  readonly #ending: Promise<E>;
  readonly #running = new Set<() => void>();
  #ended = false;

  /** @param ending takes part in every race */
  constructor(ending: Promise<E>) {
    this.#ending = ending;
    const end = (): void => {
      this.#ended = true;
      for (const finish of this.#running) finish();
      this.#running.clear();
    };
    ending.then(end, end);
  }

  /** What comes first: the result of `work`, or the ending. Nothing of `work` stays here. */
  against<T>(work: T | PromiseLike<T>): Promise<T | E> {
    return new Promise<T | E>((resolve, reject) => {
      const finish = (): void => resolve(this.#ending);
      if (this.#ended) finish();
      else this.#running.add(finish);
      Promise.resolve(work)
        .then(resolve, reject)
        .finally(() => this.#running.delete(finish));
    });
  }
}
