import type { Fault } from "../../shared/errors.ts";
import type { JobSpec } from "../../shared/job/job-spec.ts";
import type { RoundReader } from "../data/round-reader.ts";
import type { Gang } from "../gang/gang.ts";
import type { ModelFacts, PlannedJob, ProgramOutline } from "../planner.ts";
import type { InitialWeights } from "../weights/initial-weights.ts";

/** A file as it was when it was written, to know it again. */
export interface WrittenFile {
  readonly path: string;
  readonly bytes: number;
  readonly modifiedMs: number;
}

/** How far a check reads data: its headers and sizes, or also the ids and texts that it holds. */
export type FileCheck = "headers" | "contents";

/** What data needs to know of a plan. */
export type PlannedData = Pick<PlannedJob, "program" | "idLimits">;

/** What jobs read and write. Only the coordinator opens files. */
export interface JobFiles {
  /** What a job's files say of its model; the faults of files that tell nothing. Reads headers only. */
  facts(spec: JobSpec): Promise<{ readonly facts: ModelFacts; readonly faults: readonly Fault[] }>;
  /**
   * All faults of a job's data, initial weights and output that show before it starts.
   * @param plan undefined when the job does not compile: then only what needs no shapes is checked
   */
  check(spec: JobSpec, plan: PlannedData | undefined, depth: FileCheck): Promise<readonly Fault[]>;
  /** The job is queued: what clients send for it can be taken from now on. */
  accepted(jobId: string, spec: JobSpec, plan: PlannedData): void;
  /**
   * The job's training and held-out data, ready to be read. A text may take a while to tokenize.
   * @throws the signal's reason when it fires before that
   */
  openBatches(
    jobId: string,
    spec: JobSpec,
    plan: PlannedData,
    signal: AbortSignal,
  ): Promise<RoundReader>;
  /** undefined when the job's weights come from its seed. */
  weightsOpener(
    spec: JobSpec,
    program: ProgramOutline,
  ): (() => Promise<InitialWeights>) | undefined;
  /**
   * Pulls the final weights from a gang's ranks and writes the files that the job wants, each whole or not at all.
   * @returns the files of weights, that of `output.safetensors` first
   */
  writeOutput(
    spec: JobSpec,
    facts: ModelFacts,
    gang: Gang,
    silenceMs: number,
  ): Promise<readonly WrittenFile[]>;
  /** The job is over: what is kept for it alone can go. */
  ended(jobId: string): Promise<void>;
}
