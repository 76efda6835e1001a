import { anyPath } from "../coordinator/data/paths.ts";
import { type CheckedJob, checkJob } from "../coordinator/job/check-submission.ts";
import type { MeshSizes } from "../coordinator/job/job-state.ts";
import { LocalJobFiles } from "../coordinator/job/local-job-files.ts";
import { planJob } from "../coordinator/planning/plan-job.ts";
import { StreamedBatches } from "../coordinator/streamed-batches.ts";
import { InvalidArgumentError } from "../shared/errors.ts";
import type { JobSpec } from "../shared/job/job-spec.ts";
import type { LoadedJob } from "./job-file.ts";

/**
 * Checks a job file whole, as a coordinator would that may read every path: schema, plan, shapes, headers of its files.
 * Starts nothing.
 *
 * @param sizes of the mesh where the job says `auto`
 * @throws InvalidArgumentError with every fault, each with its place in the file
 */
export async function checkLoadedJob(
  job: LoadedJob,
  sizes: (spec: JobSpec) => MeshSizes,
): Promise<CheckedJob> {
  const files = new LocalJobFiles(anyPath(job.folder), new StreamedBatches());
  try {
    return await checkJob(job.spec, planJob, files, sizes);
  } catch (error) {
    if (!(error instanceof InvalidArgumentError)) throw error;
    throw new InvalidArgumentError(job.locate(error.faults), { cause: error });
  }
}
