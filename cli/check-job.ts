import { anyPath } from "../coordinator/data/paths.ts";
import {
  type CheckedJob,
  type CheckOptions,
  checkJob,
} from "../coordinator/job/check-submission.ts";
import { LocalJobFiles } from "../coordinator/job/local-job-files.ts";
import type { JobPlan } from "../coordinator/planner.ts";
import { planJob } from "../coordinator/planning/plan-job.ts";
import { StreamedBatches } from "../coordinator/streamed-batches.ts";
import { InvalidArgumentError } from "../shared/errors.ts";
import type { LoadedJob } from "./job-file.ts";

/**
 * Checks a job file whole, as a coordinator would that may read every path: schema, plan, shapes, its files.
 * Starts nothing.
 *
 * @throws InvalidArgumentError with every fault, each with its place in the file
 */
export async function checkLoadedJob(
  job: LoadedJob,
  options: CheckOptions,
): Promise<CheckedJob<JobPlan>> {
  const files = new LocalJobFiles(anyPath(job.folder), new StreamedBatches());
  try {
    return await checkJob(job.spec, planJob, files, options);
  } catch (error) {
    if (!(error instanceof InvalidArgumentError)) throw error;
    throw new InvalidArgumentError(job.locate(error.faults), { cause: error });
  }
}
