import type { Evaluation, LogEvent, StateEvent, StepEvent } from "../client/job-types.ts";

/** Shows what happens to a job, event by event. */
export interface JobView {
  start(): unknown;
  state(event: StateEvent): void;
  step(event: StepEvent): void;
  evaluation(event: Evaluation): void;
  log(event: LogEvent): void;
  /** Says something that is no event of the job. */
  note(text: string): void;
  /** Shows the last state; nothing is written afterwards. */
  end(): void;
}

/** `warn: rank 1: ...` */
export function logLine(level: string, rank: number | undefined, message: string): string {
  return `${level}: ${rank === undefined ? "" : `rank ${rank}: `}${message}`;
}
