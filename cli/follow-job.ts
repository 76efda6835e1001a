import type { JobHandle } from "../client/job-handle.ts";
import type { Evaluation, Job, StepEvent } from "../client/job-types.ts";
import type { JobView } from "./job-view.ts";

export interface FollowOptions {
  /**
   * Whether to return the values of all steps however many they are; else those of a very long job are the last ones, as
   * many as one answer holds, behind the first loss. Memory then does not grow with the job. Defaults to true.
   */
  readonly keepSteps?: boolean;
}

/**
 * Shows a job's events until it has ended.
 * @returns the ended job
 */
export async function followJob(
  handle: JobHandle,
  view: JobView,
  signal: AbortSignal,
  { keepSteps = true }: FollowOptions = {},
): Promise<Job> {
  view.start();
  const steps: StepEvent[] = [];
  const evaluations: Evaluation[] = [];
  let first: StepEvent | undefined;
  let lost = false;
  const onReconnect = (error: Error) => {
    if (!lost) view.note(`lost the coordinator, dialling again: ${error.message}`);
    lost = true;
  };
  try {
    for await (const event of handle.events({ signal, onReconnect })) {
      lost = false;
      switch (event.kind) {
        case "state":
          view.state(event);
          break;
        case "step":
          view.step(event);
          first ??= event;
          if (keepSteps) steps.push(event);
          break;
        case "eval":
          view.evaluation(event);
          if (keepSteps) evaluations.push(event);
          break;
        case "log":
          view.log(event);
          break;
      }
    }
  } finally {
    view.end();
  }
  const job = await handle.get({ signal });
  return keepSteps ? withAllSteps(job, steps, evaluations) : withFirstLoss(job, first);
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

/** The job with the loss of its first step before those of its last ones, where they do not begin with it. */
function withFirstLoss(job: Job, first: StepEvent | undefined): Job {
  if (first === undefined || job.stepsDone <= job.loss.length) return job;
  return { ...job, loss: [first.loss, ...job.loss] };
}
