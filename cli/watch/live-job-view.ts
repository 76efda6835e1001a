import type {
  Evaluation,
  Job,
  LogEvent,
  StateEvent,
  StepEvent,
  Worker,
} from "../../client/job-types.ts";
import type { JobView } from "../job-view.ts";
import { InPlaceScreen, type ScreenStream } from "../terminal/in-place-screen.ts";
import type { TerminalStyle } from "../terminal/style.ts";
import { JobPicture } from "./job-picture.ts";

/** A terminal that says when its size changes. */
export interface LiveStream extends ScreenStream {
  on?(event: "resize", listener: () => void): unknown;
  off?(event: "resize", listener: () => void): unknown;
}

export interface LiveJobViewOptions {
  readonly stream: LiveStream;
  readonly style: TerminalStyle;
  /** The job and the workers as they were when the watch began. */
  readonly job: Job;
  readonly workers: readonly Worker[];
  /** What events do not tell: what each rank has measured so far, and what its worker may use. */
  readonly ask: {
    job(): Promise<Pick<Job, "mesh" | "ranks">>;
    workers(): Promise<readonly Worker[]>;
  };
  /** Smallest time between frames. Defaults to 200. */
  readonly frameMs?: number;
}

const FRAME_MS = 200;
/** Between questions about the ranks, while nothing hints at a change. */
const ASK_MS = 5000;
/** The same for a job whose answer lists many steps. */
const ASK_LONG_MS = 30_000;
const LONG_STEPS = 20_000;

/** Draws a job's picture in place on a terminal, over and over, and leaves the last one there. */
export class LiveJobView implements JobView {
  readonly #stream: LiveStream;
  readonly #screen: InPlaceScreen;
  readonly #picture: JobPicture;
  readonly #style: TerminalStyle;
  readonly #ask: LiveJobViewOptions["ask"];
  readonly #frameMs: number;
  #timer: NodeJS.Timeout | undefined;
  #changed = true;
  #asking = false;
  #askAtMs = 0;
  #stepsDone = 0;
  #peakBytes = 0;
  #ended = false;

  constructor(options: LiveJobViewOptions) {
    this.#stream = options.stream;
    this.#screen = new InPlaceScreen(options.stream);
    this.#picture = new JobPicture(options.job);
    this.#picture.takeWorkers(options.workers);
    this.#style = options.style;
    this.#ask = options.ask;
    this.#frameMs = options.frameMs ?? FRAME_MS;
  }

  start(): this {
    if (this.#timer !== undefined || this.#ended) return this;
    this.#timer = setInterval(() => this.#tick(), this.#frameMs);
    this.#timer.unref();
    this.#stream.on?.("resize", this.#onResize);
    process.on("SIGCONT", this.#onResume);
    return this;
  }

  state(event: StateEvent): void {
    this.#picture.state(event);
    this.#changed = true;
    this.#askAtMs = 0;
  }

  step(event: StepEvent): void {
    this.#picture.step(event);
    this.#changed = true;
    this.#stepsDone = event.step + 1;
    if (event.peakMemoryBytes === this.#peakBytes) return;
    this.#peakBytes = event.peakMemoryBytes;
    this.#askAtMs = 0;
  }

  evaluation(event: Evaluation): void {
    this.#picture.evaluation(event);
    this.#changed = true;
  }

  log(event: LogEvent): void {
    this.#picture.log(event);
    this.#changed = true;
  }

  note(text: string): void {
    this.#picture.note(text);
    this.#changed = true;
  }

  end(): void {
    if (this.#ended) return;
    this.#ended = true;
    clearInterval(this.#timer);
    this.#stream.off?.("resize", this.#onResize);
    process.off("SIGCONT", this.#onResume);
    this.#draw();
  }

  readonly #onResize = () => this.#draw();

  /** After a stop the shell has written where the picture was. */
  readonly #onResume = () => {
    this.#screen.forget();
    this.#draw();
  };

  #tick(): void {
    if (performance.now() >= this.#askAtMs) void this.#askForRanks();
    if (this.#changed) this.#draw();
  }

  #draw(): void {
    this.#changed = false;
    this.#screen.draw(this.#picture.lines(this.#screen.size, this.#style));
  }

  /** What cannot be had stays as it was; that the coordinator is gone is said by the events' stream. */
  async #askForRanks(): Promise<void> {
    if (this.#asking) return;
    this.#asking = true;
    const waitMs = this.#stepsDone > LONG_STEPS ? ASK_LONG_MS : ASK_MS;
    this.#askAtMs = performance.now() + waitMs;
    try {
      const [job, workers] = await Promise.all([this.#ask.job(), this.#ask.workers()]);
      if (this.#ended) return;
      this.#picture.takeJob(job);
      this.#picture.takeWorkers(workers);
      this.#changed = true;
    } catch {
      // Asked again later.
    } finally {
      this.#asking = false;
    }
  }
}
