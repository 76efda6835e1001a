import {
  type Evaluation,
  isTerminal,
  type Job,
  type JobState,
  type LogEvent,
  type RankReport,
  type StateEvent,
  type StepEvent,
  type Worker,
} from "../../client/job-types.ts";
import {
  formatDuration,
  formatLoss,
  formatRate,
  formatStepTime,
  oneLine,
  plural,
} from "../format.ts";
import { logLine } from "../job-view.ts";
import { Pace } from "../pace.ts";
import { bar } from "../terminal/bar.ts";
import { type Paint, paint, type TerminalStyle } from "../terminal/style.ts";
import { cutText, textWidth } from "../terminal/text-width.ts";
import { JobCharts } from "./job-charts.ts";
import { type Layout, layoutOf } from "./layout.ts";
import { type RankMemory, rankMemory, rankRows } from "./rank-rows.ts";

export interface PictureSize {
  readonly columns: number;
  readonly rows: number;
}

interface EventLine {
  readonly text: string;
  readonly paint: Paint | undefined;
}

/** Of the last events, kept for the tallest terminal. */
const MAX_EVENT_LINES = 16;

export const STATE_PAINT: Readonly<Record<JobState, Paint>> = {
  QUEUED: "yellow",
  STARTING: "yellow",
  RUNNING: "cyan",
  SUCCEEDED: "green",
  FAILED: "red",
  CANCELLED: "yellow",
};

/**
 * All that a job's events have said so far, as text of any size: progress, charts of loss and step time, the memory of each
 * rank, the last events. Takes the same memory however long the job is.
 */
export class JobPicture {
  readonly #job: Pick<Job, "jobId" | "name" | "steps">;
  readonly #charts = new JobCharts();
  readonly #pace = new Pace();
  readonly #events: EventLine[] = [];
  #state: JobState;
  #reason: string;
  #mesh: Job["mesh"];
  #ranks: readonly RankReport[];
  readonly #workers = new Map<string, Worker>();
  #stepsDone = 0;
  #lastEvaluation: Evaluation | undefined;
  #loss: number | undefined;
  #startedMs: number | undefined;
  #latestMs: number | undefined;

  constructor(job: Job) {
    this.#job = job;
    this.#state = job.state;
    this.#reason = job.reason;
    this.#mesh = job.mesh;
    this.#ranks = job.ranks;
  }

  /** What the job's answer says beyond its events. */
  takeJob({ mesh, ranks }: Pick<Job, "mesh" | "ranks">): void {
    this.#mesh = mesh ?? this.#mesh;
    if (ranks.length > 0) this.#ranks = ranks;
  }

  /** Workers that have gone since keep the limit they had. */
  takeWorkers(workers: readonly Worker[]): void {
    for (const worker of workers) this.#workers.set(worker.name, worker);
  }

  state({ state, reason, error, ranks, time }: StateEvent): void {
    this.#state = state;
    this.#reason = reason;
    this.#latestMs = time?.getTime() ?? this.#latestMs;
    if (state === "RUNNING") this.#startedMs ??= time?.getTime();
    if (ranks.length > 0) this.#ranks = ranks;
    const why = error?.message ?? reason;
    this.#addEvent(time, `${state}${why === "" ? "" : `: ${why}`}`, STATE_PAINT[state]);
  }

  step({ step, loss, seconds, samplesPerSecond, time }: StepEvent): void {
    this.#stepsDone = step + 1;
    this.#latestMs = time?.getTime() ?? this.#latestMs;
    this.#loss = loss;
    this.#charts.step(step, loss, seconds);
    this.#pace.step({ seconds, samplesPerSecond });
  }

  evaluation(evaluation: Evaluation): void {
    this.#lastEvaluation = evaluation;
    this.#charts.evaluation(evaluation.step, evaluation.loss);
  }

  log({ level, rank, message, time }: LogEvent): void {
    const color = level === "error" ? "red" : level === "warn" ? "yellow" : undefined;
    this.#addEvent(time, logLine(level, rank, message), color);
  }

  note(text: string): void {
    this.#addEvent(undefined, text, "yellow");
  }

  /** At most `rows` lines, none wider than `columns`. */
  lines({ columns, rows }: PictureSize, style: TerminalStyle): string[] {
    const head = [this.#titleLine(style), ...this.#progressLines(columns, style)];
    const ranks = rankMemory(this.#ranks, [...this.#workers.values()]);
    const layout = layoutOf({
      columns,
      rows: rows - head.length,
      rankRows: ranks.length,
      events: this.#events.length,
    });
    return [
      ...head,
      ...this.#charts.lines(layout, columns, style),
      ...this.#rankLines(ranks, layout, columns, style),
      ...this.#eventLines(layout, style),
    ]
      .slice(0, rows)
      .map((line) => cutText(line, columns, style.unicode ? "\u2026" : "~").trimEnd());
  }

  #titleLine(style: TerminalStyle): string {
    const { name, jobId } = this.#job;
    const parts = [
      paint(style, "bold", oneLine(name === "" ? jobId : name)),
      paint(style, STATE_PAINT[this.#state], this.#state),
    ];
    if (this.#mesh !== undefined) {
      const { dataParallel, tensorParallel } = this.#mesh;
      parts.push(`data ${dataParallel} x tensor ${tensorParallel}`);
    }
    if (name !== "" && name !== jobId) parts.push(paint(style, "dim", jobId));
    return parts.join("  ");
  }

  #progressLines(columns: number, style: TerminalStyle): string[] {
    const { steps } = this.#job;
    const done = this.#stepsDone;
    // Rounded down, so that 100% is the end; a long job shows that it moves.
    const digits = steps >= 1000 ? 1 : 0;
    const part = Math.floor((done / Math.max(1, steps)) * 10 ** (2 + digits)) / 10 ** digits;
    const percent = steps === 0 ? "" : `${part.toFixed(digits)}%`;
    const times = this.#timeParts(done);
    const counted = `step ${done}/${steps}`;
    const text = [counted, percent, ...times].filter((part) => part !== "").join("  ");
    const room = Math.min(40, columns - textWidth(text) - 2);
    const drawn =
      room < 8 || steps === 0
        ? ""
        : `${bar({ fill: done / steps, columns: room, paint: STATE_PAINT[this.#state], style })}  `;
    return [`${drawn}${text}`, this.#numbersLine(style)];
  }

  #timeParts(done: number): string[] {
    const parts: string[] = [];
    if (this.#startedMs !== undefined && this.#latestMs !== undefined) {
      // Both by the coordinator's clock.
      parts.push(`elapsed ${formatDuration((this.#latestMs - this.#startedMs) / 1000)}`);
    }
    if (!isTerminal(this.#state) && done > 0 && done < this.#job.steps) {
      const left = this.#pace.secondsPerStep * (this.#job.steps - done);
      parts.push(`ETA ${formatDuration(left)}`);
    }
    return parts;
  }

  #numbersLine(style: TerminalStyle): string {
    const loss = this.#loss;
    if (loss === undefined) return oneLine(this.#reason);
    const color = Number.isFinite(loss) ? undefined : "red";
    const parts = [paint(style, color, `loss ${formatLoss(loss)}`)];
    const evaluation = this.#lastEvaluation;
    if (evaluation !== undefined) {
      parts.push(
        `held-out loss ${formatLoss(evaluation.loss)} (${plural(evaluation.step, "step")})`,
      );
    }
    parts.push(`${formatRate(this.#pace.samplesPerSecond)} samples/s`);
    parts.push(`${formatStepTime(this.#pace.secondsPerStep)} a step`);
    return parts.join("  ");
  }

  #rankLines(
    ranks: readonly RankMemory[],
    layout: Layout,
    columns: number,
    style: TerminalStyle,
  ): string[] {
    if (layout.rankRows === 0) return [];
    const mark = style.unicode ? "\u2502" : "|";
    return [
      "",
      `${paint(style, "bold", "memory of each rank")}  ${paint(style, "dim", `measured of the limit, ${mark} predicted`)}`,
      ...rankRows(ranks, layout.rankRows, columns, style),
    ];
  }

  #eventLines(layout: Layout, style: TerminalStyle): string[] {
    if (layout.events === 0) return [];
    return [
      "",
      ...this.#events
        .slice(-layout.events)
        .map(({ text, paint: color }) => paint(style, color, text)),
    ];
  }

  #addEvent(time: Date | undefined, text: string, color: Paint | undefined): void {
    const when = time === undefined ? "" : `${time.toISOString().slice(11, 19)}Z `;
    this.#events.push({ text: oneLine(`${when}${text}`), paint: color });
    if (this.#events.length > MAX_EVENT_LINES) this.#events.shift();
  }
}
