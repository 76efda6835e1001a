/** Steps that the rate and the time left look back on: enough to smooth, few enough to follow a change. */
const WINDOW_STEPS = 8;

interface TimedStep {
  readonly seconds: number;
  readonly samplesPerSecond: number;
}

/** How fast a job is, by its last steps. */
export class Pace {
  readonly #recent: TimedStep[] = [];

  step({ seconds, samplesPerSecond }: TimedStep): void {
    this.#recent.push({ seconds, samplesPerSecond });
    if (this.#recent.length > WINDOW_STEPS) this.#recent.shift();
  }

  /** NaN before the first step. */
  get samplesPerSecond(): number {
    const seconds = this.#recent.reduce((sum, step) => sum + step.seconds, 0);
    return this.#recent.reduce((sum, s) => sum + s.samplesPerSecond * s.seconds, 0) / seconds;
  }

  /** Median, unmoved by one slow step; NaN before the first. */
  get secondsPerStep(): number {
    const sorted = this.#recent.map((step) => step.seconds).sort((a, b) => a - b);
    return sorted[Math.floor(sorted.length / 2)] ?? Number.NaN;
  }
}
