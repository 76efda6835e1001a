import type { Job, JobError, JobState } from "../client/job-types.ts";

/** What `run --json` and `job submit --json` write. Quantities are JSON numbers; a non-finite one is null. */
export interface JobResult {
  readonly jobId: string | null;
  readonly state: JobState;
  readonly error: {
    readonly code: string;
    readonly message: string;
    readonly rank: number | null;
    readonly step: number | null;
  } | null;
  readonly mesh: { readonly dataParallel: number; readonly tensorParallel: number } | null;
  /** Steps asked for. */
  readonly steps: number | null;
  readonly loss: readonly (number | null)[];
  readonly gradNorm: readonly (number | null)[];
  readonly stepSeconds: StepSeconds;
  /** Every evaluation done; `step` is the number of steps done before it. */
  readonly evalLoss: readonly { readonly step: number; readonly loss: number | null }[];
  readonly ranks: readonly {
    readonly rank: number;
    readonly worker: string;
    readonly backend: string;
    readonly device: string;
    readonly peakMemoryBytes: number;
    readonly predictedPeakMemoryBytes: number;
    readonly rssBytes: number;
    readonly collectiveBytes: number;
    /** Part of the prediction that the backend takes beside the program's arena. */
    readonly workspaceBytes: number;
  }[];
}

/** Wall time of a step, end to end; null when the job was too short to measure. */
export interface StepSeconds {
  readonly median: number | null;
  readonly p90: number | null;
}

/** The first steps load pages, caches and connections, and say nothing of the rest. */
const WARMUP_STEPS = 2;

export function jobResult(job: Job): JobResult {
  return {
    jobId: job.jobId,
    state: job.state,
    error: job.error === undefined ? null : errorResult(job.error),
    mesh: job.mesh ?? null,
    steps: job.steps,
    loss: job.loss.map(finiteOrNull),
    gradNorm: job.gradNorm.map(finiteOrNull),
    stepSeconds: summarizeStepSeconds(job.stepSeconds),
    evalLoss: job.evaluations.map(({ step, loss }) => ({ step, loss: finiteOrNull(loss) })),
    ranks: job.ranks.map((rank) => ({
      rank: rank.rank,
      worker: rank.worker,
      backend: rank.backend,
      device: rank.device,
      peakMemoryBytes: rank.peakMemoryBytes,
      predictedPeakMemoryBytes: rank.predictedPeakMemoryBytes,
      rssBytes: rank.rssBytes,
      collectiveBytes: rank.collectiveBytes,
      workspaceBytes: rank.workspaceBytes,
    })),
  };
}

/** The result of a job that was refused or never came to be. */
export function refusedJobResult(
  error: Pick<JobError, "code" | "message"> & Partial<JobError>,
  jobId: string | null = null,
  steps: number | null = null,
): JobResult {
  return {
    jobId,
    state: "FAILED",
    error: {
      code: error.code,
      message: error.message,
      rank: error.rank ?? null,
      step: error.step ?? null,
    },
    mesh: null,
    steps,
    loss: [],
    gradNorm: [],
    stepSeconds: { median: null, p90: null },
    evalLoss: [],
    ranks: [],
  };
}

/** Median and 90th percentile (nearest rank) without the warm-up steps. */
export function summarizeStepSeconds(seconds: readonly number[]): StepSeconds {
  const sorted = seconds.slice(WARMUP_STEPS).sort((a, b) => a - b);
  const middle = Math.floor(sorted.length / 2);
  const upper = sorted[middle];
  if (upper === undefined) return { median: null, p90: null };
  const lower = sorted.length % 2 === 0 ? (sorted[middle - 1] ?? upper) : upper;
  return {
    median: (lower + upper) / 2,
    p90: sorted[Math.ceil(0.9 * sorted.length) - 1] ?? upper,
  };
}

function errorResult(error: JobError): NonNullable<JobResult["error"]> {
  return {
    code: error.code,
    message: error.message,
    rank: error.rank ?? null,
    step: error.step ?? null,
  };
}

function finiteOrNull(value: number): number | null {
  return Number.isFinite(value) ? value : null;
}
