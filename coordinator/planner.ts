import type { HuggingFaceConfig } from "../shared/hugging-face/config.ts";
import type { JobSpec } from "../shared/job/job-spec.ts";
import type { Program } from "../shared/program/program.ts";
import type { MeshSizes } from "./job/job-state.ts";
import type { PlanReport } from "./planning/report.ts";

/** What a job's model depends on beside its spec: read from the job's files before it is planned. */
export interface ModelFacts {
  /** Tokens of a row, for models that take sequences of them. */
  readonly seqLen?: number;
  /** What config.json of a Hugging Face checkpoint says. */
  readonly huggingFace?: HuggingFaceConfig;
}

/** A job compiled for one mesh. */
export interface JobPlan {
  readonly program: Program;
  /** What a person should know: what was left off and why. */
  readonly notes: readonly string[];
  /** By input: how many ids there are, from 0 on; an input without an entry may hold anything. */
  readonly idLimits: Readonly<Record<string, number>>;
  /** Plain data that `rankmesh plan --json` writes. */
  readonly report: PlanReport;
}

/**
 * Compiles a job for a mesh. Pure.
 * @param memoryBytes that a rank may take, where that is known: what a job leaves to it (`recompute: auto`) follows
 * @throws InvalidArgumentError with every fault of the job at these sizes
 */
export type Planner = (
  spec: JobSpec,
  sizes: MeshSizes,
  facts: ModelFacts,
  memoryBytes?: number,
) => JobPlan;
