import { type Fault, InvalidArgumentError, RankmeshError } from "../shared/errors.ts";
import { ExitRequest } from "./exit-codes.ts";
import { Interrupted } from "./interrupt.ts";
import { refusedJobResult } from "./job-result.ts";
import { writeJsonFile } from "./output-file.ts";

/** What is known of a job that may yet be refused. */
export class Refusal {
  jobId: string | null;
  steps: number | null = null;

  constructor(jobId: string | null) {
    this.jobId = jobId;
  }

  /** For `catch`: throws the error on, its faults with their place in the job file. */
  locateWith(file: { locate(faults: readonly Fault[]): Fault[] }): (error: unknown) => never {
    return (error) => {
      if (!(error instanceof InvalidArgumentError)) throw error;
      throw new InvalidArgumentError(file.locate(error.faults), { cause: error });
    };
  }
}

/**
 * Runs a command that has a job; when the command fails before the job has an end of its own, writes a FAILED result
 * to `path` all the same, so that whoever reads the file always finds the reason.
 */
export async function withRefusalsWritten(
  path: string | undefined,
  known: { readonly jobId: string | null },
  body: (refusal: Refusal) => Promise<void>,
): Promise<void> {
  const refusal = new Refusal(known.jobId);
  try {
    await body(refusal);
  } catch (error) {
    if (path !== undefined && error instanceof Interrupted && refusal.jobId === null) {
      // Interrupted before there was a job.
      await writeJsonFile(path, {
        ...refusedJobResult({ code: "", message: "" }),
        state: "CANCELLED",
        error: null,
      });
    }
    // Any other ExitRequest comes after the job's own result was written.
    if (path !== undefined && !(error instanceof ExitRequest)) {
      const code = error instanceof RankmeshError ? error.code : "INTERNAL";
      const message = error instanceof Error ? error.message : String(error);
      await writeJsonFile(path, refusedJobResult({ code, message }, refusal.jobId, refusal.steps));
    }
    throw error;
  }
}
