import type { LogEvent, StateEvent } from "../client/job-types.ts";
import { formatBytes } from "../shared/format-bytes.ts";
import { formatDuration, formatLoss, formatRate, oneLine, plural, printable } from "./format.ts";
import { type JobView, logLine } from "./job-view.ts";
import { Pace } from "./pace.ts";

/** The part of a terminal or file that progress needs. */
export interface ProgressStream {
  write(text: string): unknown;
  readonly isTTY?: boolean;
  readonly columns?: number;
  readonly rows?: number;
}

export interface ProgressOptions {
  readonly stream: ProgressStream;
  /** Put before each line: the job's name or the run's title. */
  readonly title: string;
  /** Steps asked for. */
  readonly steps: number;
  /** Time between plain lines when the stream is no terminal. Defaults to 5000. */
  readonly plainIntervalMs?: number;
  /** Smallest time between redraws on a terminal. Defaults to 100. */
  readonly liveIntervalMs?: number;
  /** Kind of terminal: a `dumb` one cannot go back in a line. Defaults to TERM of the environment. */
  readonly terminal?: string | undefined;
  /** Milliseconds on a monotonic clock. Defaults to performance.now. */
  readonly now?: () => number;
}

/** One step as progress shows it. */
export interface StepProgress {
  /** 0-based. */
  readonly step: number;
  readonly loss: number;
  readonly seconds: number;
  readonly samplesPerSecond: number;
  readonly peakMemoryBytes: number;
}

/** One evaluation as progress shows it. */
export interface EvaluationProgress {
  /** Steps done before it. */
  readonly step: number;
  readonly loss: number;
}

/**
 * Shows a job's progress: one line redrawn in place on a terminal that can, else a plain line at an interval and at the end.
 * Nothing is written after `end()`.
 */
export class Progress implements JobView {
  readonly #stream: ProgressStream;
  readonly #title: string;
  readonly #steps: number;
  readonly #intervalMs: number;
  readonly #live: boolean;
  readonly #now: () => number;
  readonly #pace = new Pace();
  #status = "starting";
  #step: StepProgress | undefined;
  #evaluation: EvaluationProgress | undefined;
  #lastWriteMs = Number.NEGATIVE_INFINITY;
  #drawn = false;
  #ended = false;
  #timer: NodeJS.Timeout | undefined;

  constructor(options: ProgressOptions) {
    this.#stream = options.stream;
    this.#title = options.title;
    this.#steps = options.steps;
    const { stream, terminal = process.env["TERM"] } = options;
    this.#live = stream.isTTY === true && terminal !== "dumb";
    this.#intervalMs = this.#live
      ? (options.liveIntervalMs ?? 100)
      : (options.plainIntervalMs ?? 5000);
    this.#now = options.now ?? (() => performance.now());
  }

  /** Begins the ticking that repeats the line while nothing happens. */
  start(): this {
    this.#timer ??= setInterval(() => this.tick(), this.#intervalMs);
    this.#timer.unref();
    if (!this.#live) this.#lastWriteMs = this.#now();
    return this;
  }

  /** What the job does while there are no steps yet: "queued: needs 2 workers, 1 is free". */
  status(text: string): void {
    this.#status = text;
    this.tick();
  }

  step(step: StepProgress): void {
    this.#step = step;
    this.#pace.step(step);
    this.tick();
  }

  evaluation(evaluation: EvaluationProgress): void {
    this.#evaluation = evaluation;
    this.tick();
  }

  /** What a job's events say of its state. */
  state(event: StateEvent): void {
    const state = event.state.toLowerCase();
    this.status(event.reason === "" ? state : `${state}: ${event.reason}`);
  }

  log(event: LogEvent): void {
    this.note(logLine(event.level, event.rank, event.message));
  }

  /** Writes a whole line of its own above the progress line. */
  note(text: string): void {
    if (this.#ended) return;
    this.#clear();
    this.#stream.write(`${printable(text)}\n`);
    if (this.#live) this.#draw();
  }

  /** Writes the line if its interval has passed. */
  tick(): void {
    if (this.#ended || this.#now() - this.#lastWriteMs < this.#intervalMs) return;
    this.#draw();
  }

  /** Writes the last line and stops. */
  end(): void {
    if (this.#ended) return;
    clearInterval(this.#timer);
    if (this.#step !== undefined || this.#live) this.#draw();
    if (this.#live && this.#drawn) this.#stream.write("\n");
    this.#ended = true;
  }

  /** The line that stands for the present state. */
  line(): string {
    const step = this.#step;
    if (step === undefined) return oneLine(`${this.#title}  ${this.#status}`);
    const done = step.step + 1;
    const parts = [
      `${this.#title}  step ${done}/${this.#steps}`,
      `loss ${formatLoss(step.loss)}`,
      ...this.#evaluationPart(),
      `${formatRate(this.#pace.samplesPerSecond)} samples/s`,
      `peak ${formatBytes(step.peakMemoryBytes)}`,
    ];
    if (done < this.#steps)
      parts.push(`ETA ${formatDuration(this.#pace.secondsPerStep * (this.#steps - done))}`);
    return oneLine(parts.join("  "));
  }

  #evaluationPart(): string[] {
    if (this.#evaluation === undefined) return [];
    const { step, loss } = this.#evaluation;
    return [`held-out loss ${formatLoss(loss)} (${plural(step, "step")})`];
  }

  #draw(): void {
    this.#lastWriteMs = this.#now();
    const line = this.line();
    if (!this.#live) {
      this.#stream.write(`${line}\n`);
      return;
    }
    // A line longer than the terminal would wrap, and the next redraw would leave its first half behind.
    const columns = this.#stream.columns ?? 80;
    this.#stream.write(`\r${line.slice(0, Math.max(1, columns - 1))}\x1b[K`);
    this.#drawn = true;
  }

  #clear(): void {
    if (this.#live && this.#drawn) this.#stream.write("\r\x1b[K");
  }
}
