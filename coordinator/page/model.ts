import type { EvaluationView, HistoryView, JobView, NoteView, PlanView, RankView } from "./api.ts";
import { Points, pointsOf } from "./points.ts";

/** Twice what the server keeps, so that what it sent is not merged at once. */
const MAX_POINTS = 1_200;
const MAX_EVALUATIONS = 600;
const MAX_NOTES = 200;

/** What the page knows of the job that it shows. Bounded, however long the job goes on. */
export class JobModel {
  readonly jobId: string;
  job: JobView | undefined;
  ranks: readonly RankView[] = [];
  plan: PlanView | undefined;
  points = new Points(MAX_POINTS);
  evaluations: readonly EvaluationView[] = [];
  notes: readonly NoteView[] = [];

  constructor(jobId: string) {
    this.jobId = jobId;
  }

  /** Replaces the job's history. */
  replace(history: HistoryView): void {
    this.points = new Points(MAX_POINTS, history.points.stride);
    this.evaluations = [];
    this.notes = [];
    this.extend(history);
  }

  /** Adds what followed. */
  extend({ points, evaluations, notes }: HistoryView): void {
    for (const point of pointsOf(points)) this.points.add(point);
    this.evaluations = [...this.evaluations, ...evaluations].slice(-MAX_EVALUATIONS);
    this.notes = [...this.notes, ...notes].slice(-MAX_NOTES);
  }
}
