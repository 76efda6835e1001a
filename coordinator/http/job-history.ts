import type { EventLog, LoggedEvent } from "../job/event-log.ts";
import type { EvaluationDone } from "../job/job-state.ts";
import type { EvaluationView, HistoryView, NoteView } from "../page/api.ts";
import { Points, pointsView, type StepPoint, stepPoint } from "../page/points.ts";

/** Points of a chart, whatever the number of steps: more than a screen has columns for is wasted. */
export const MAX_POINTS = 600;
export const MAX_EVALUATIONS = 300;
/** The last ones are kept. */
export const MAX_NOTES = 200;
/** Steps of one update, merged where there are more. */
const MAX_UPDATE_POINTS = 60;

/**
 * A job's log as a page shows it, in bounded memory: every step counted, but several to a point where they are many. It
 * follows the log when asked to, piece by piece, so that a long log does not hold up the process.
 */
export class JobHistory {
  readonly #jobId: string;
  readonly #log: EventLog;
  readonly #points = new Points(MAX_POINTS);
  #evaluations: EvaluationDone[] = [];
  /** Evaluations to each one kept. */
  #evaluationStride = 1;
  #evaluationsSeen = 0;
  #notes: NoteView[] = [];
  #lastId = 0;
  #startedAtMs: number | undefined;
  #lastStepAtMs: number | undefined;

  constructor(jobId: string, log: EventLog) {
    this.#jobId = jobId;
    this.#log = log;
  }

  /** Id of the last event that it holds. */
  get lastId(): number {
    return this.#lastId;
  }

  /** When the job's first step began. */
  get startedAtMs(): number | undefined {
    return this.#startedAtMs;
  }

  get lastStepAtMs(): number | undefined {
    return this.#lastStepAtMs;
  }

  get lastEvaluation(): EvaluationView | null {
    const last = this.#evaluations.at(-1);
    return last === undefined ? null : evaluationView(last);
  }

  /** Takes in up to `maxEvents` events more; true when there are none left. */
  follow(maxEvents: number): boolean {
    const end = Math.min(this.#log.lastId, this.#lastId + maxEvents);
    while (this.#lastId < end) this.#take(this.#log.at(this.#lastId + 1));
    return this.#lastId === this.#log.lastId;
  }

  /** All of it. */
  view(): HistoryView {
    return {
      jobId: this.#jobId,
      points: this.#points.view(),
      evaluations: this.#evaluations.map(evaluationView),
      notes: this.#notes,
    };
  }

  /** What came after event `afterId`, up to `lastId`. Its cost grows with their difference. */
  since(afterId: number): HistoryView {
    const points: StepPoint[] = [];
    const evaluations: EvaluationView[] = [];
    const notes: NoteView[] = [];
    for (let id = afterId + 1; id <= this.#lastId; id++) {
      const logged = this.#log.at(id);
      const { event } = logged;
      if (event.kind === "step") points.push(stepPoint(event));
      else if (event.kind === "eval") evaluations.push(evaluationView(event));
      else notes.push(...noteViews(logged));
    }
    const stride = Math.max(1, Math.ceil(points.length / MAX_UPDATE_POINTS));
    const few = new Points(points.length, stride);
    for (const point of points) few.add(point);
    return {
      jobId: this.#jobId,
      points: pointsView(few.all, stride),
      evaluations: evaluations.slice(-MAX_EVALUATIONS),
      notes: notes.slice(-MAX_NOTES),
    };
  }

  #take(logged: LoggedEvent): void {
    this.#lastId = logged.id;
    const { event, wallMs } = logged;
    switch (event.kind) {
      case "step":
        this.#points.add(stepPoint(event));
        this.#lastStepAtMs = wallMs;
        return;
      case "eval":
        this.#takeEvaluation(event);
        return;
      case "state":
        if (event.phase === "RUNNING") this.#startedAtMs = wallMs;
        break;
      case "log":
        break;
    }
    this.#notes = [...this.#notes, ...noteViews(logged)].slice(-MAX_NOTES);
  }

  #takeEvaluation(event: EvaluationDone): void {
    const kept = this.#evaluations;
    // The newest is always there; of the others every `stride`-th.
    if (this.#evaluationsSeen % this.#evaluationStride === 0 || kept.length === 0) kept.push(event);
    else kept[kept.length - 1] = event;
    this.#evaluationsSeen += 1;
    if (kept.length <= MAX_EVALUATIONS) return;
    this.#evaluationStride *= 2;
    this.#evaluations = kept.filter((_, index) => index % 2 === 1 || index === kept.length - 1);
  }
}

function evaluationView({ step, loss }: EvaluationDone): EvaluationView {
  return { step, loss: Number.isFinite(loss) ? loss : null };
}

function noteViews({ id, wallMs, event }: LoggedEvent): NoteView[] {
  const base = { id, at: new Date(wallMs).toISOString() };
  switch (event.kind) {
    case "state":
      return [
        {
          ...base,
          kind: "state",
          state: event.phase,
          message: event.reason,
          rank: event.failure?.rank ?? null,
        },
      ];
    case "log":
      return [
        {
          ...base,
          kind: event.level,
          state: null,
          message: event.message,
          rank: event.rank ?? null,
        },
      ];
    case "step":
    case "eval":
      return [];
  }
}
