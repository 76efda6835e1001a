import type { JobResult } from "../../cli/job-result.ts";
import type { JobSpecInput } from "../../shared/job/job-spec.ts";
import { VerificationError } from "../benchmark.ts";
import { checkPeaks, runJob } from "../rankmesh.ts";
import type { GpuContext } from "./context.ts";

export interface GpuRun {
  readonly result: JobResult;
  /** Most of the device's memory that was taken while it ran, contexts of all ranks included. */
  readonly deviceBytes: number;
}

/** Contexts and arenas stay for as long as the job: seldom is often enough. */
const WATCH_MS = 50;

/**
 * `rankmesh run` on the GPU, while its memory is watched. Each round of a job runs once in a series.
 * @throws VerificationError when a rank ran elsewhere, or took other memory than its plan said
 */
export function runOnce(context: GpuContext, job: JobSpecInput, round: number): Promise<GpuRun> {
  const ranks = job.mesh?.tensorParallel ?? 1;
  return context.measured.once(`job ${job.name} ${ranks} ${round}`, async () => {
    const run = await context.gpu.open(async (open) => {
      const before = open.freeBytes();
      let least = before;
      const watch = setInterval(() => {
        least = Math.min(least, open.freeBytes());
      }, WATCH_MS);
      try {
        return { result: await runJob(context, job), deviceBytes: before - least };
      } finally {
        clearInterval(watch);
      }
    });
    checkPeaks(run.result.ranks);
    const wrong = run.result.ranks.find(({ backend }) => backend !== context.backend);
    if (wrong === undefined) return run;
    throw new VerificationError(`rank ${wrong.rank} ran on the ${wrong.backend} backend`);
  });
}
