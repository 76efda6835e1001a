import type { Fault } from "../../shared/errors.ts";
import type { JobSpec } from "../../shared/job/job-spec.ts";
import type { Program } from "../../shared/program/program.ts";
import type { BatchReader } from "../data/batch-reader.ts";
import type { Gang } from "../gang/gang.ts";
import type { InitialWeights } from "../weights/initial-weights.ts";

/** A file as it was when it was written, to know it again. */
export interface WrittenFile {
  readonly path: string;
  readonly bytes: number;
  readonly modifiedMs: number;
}

/** What jobs read and write. Only the coordinator opens files. */
export interface JobFiles {
  /**
   * All faults of a job's data, initial weights and output that show before it starts. Reads headers only.
   * @param program undefined when the job does not compile: then only what needs no shapes is checked
   */
  check(spec: JobSpec, program: Program | undefined): Promise<readonly Fault[]>;
  /** The job is queued: what clients send for it can be taken from now on. */
  accepted(jobId: string, spec: JobSpec, program: Program): void;
  openBatches(jobId: string, spec: JobSpec, program: Program): Promise<BatchReader>;
  /** undefined when the job's weights come from its seed. */
  weightsOpener(spec: JobSpec, program: Program): (() => Promise<InitialWeights>) | undefined;
  /**
   * Pulls the final weights from a gang's ranks and writes the output file, whole or not at all.
   * undefined when the job wants none.
   */
  writeOutput(spec: JobSpec, gang: Gang, silenceMs: number): Promise<WrittenFile | undefined>;
  /** The job is over: what is kept for it alone can go. */
  ended(jobId: string): Promise<void>;
}
