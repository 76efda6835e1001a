import type { JobHandle } from "../client/job-handle.ts";
import type { Evaluation, Job, StateEvent, StepEvent } from "../client/job-types.ts";
import type { Progress } from "./progress.ts";

/**
 * Shows a job's events as progress until it has ended.
 * @returns the ended job, with the values of all its steps however many they are: one answer holds only the last ones
 */
export async function followJob(
  handle: JobHandle,
  progress: Progress,
  signal: AbortSignal,
): Promise<Job> {
  progress.start();
  const steps: StepEvent[] = [];
  const evaluations: Evaluation[] = [];
  let lost = false;
  const onReconnect = (error: Error) => {
    if (!lost) progress.note(`lost the coordinator, dialling again: ${error.message}`);
    lost = true;
  };
  try {
    for await (const event of handle.events({ signal, onReconnect })) {
      lost = false;
      switch (event.kind) {
        case "state":
          progress.status(statusText(event));
          break;
        case "step":
          progress.step(event);
          steps.push(event);
          break;
        case "eval":
          progress.evaluation(event);
          evaluations.push(event);
          break;
        case "log":
          progress.note(logLine(event.level, event.rank, event.message));
          break;
      }
    }
  } finally {
    progress.end();
  }
  return withAllSteps(await handle.get({ signal }), steps, evaluations);
}

/** The job with the lists that its events make, where its own begin later. */
function withAllSteps(
  job: Job,
  steps: readonly StepEvent[],
  evaluations: readonly Evaluation[],
): Job {
  if (steps.length <= job.loss.length) return job;
  return {
    ...job,
    evaluations,
    loss: steps.map((step) => step.loss),
    gradNorm: steps.flatMap((step) => step.gradNorm ?? []),
    stepSeconds: steps.map((step) => step.seconds),
  };
}

/** `warn: rank 1: ...` */
export function logLine(level: string, rank: number | undefined, message: string): string {
  return `${level}: ${rank === undefined ? "" : `rank ${rank}: `}${message}`;
}

function statusText(event: StateEvent): string {
  const state = event.state.toLowerCase();
  return event.reason === "" ? state : `${state}: ${event.reason}`;
}
