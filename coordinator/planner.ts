import type { JobSpec } from "../shared/job/job-spec.ts";
import type { Program } from "../shared/program/program.ts";
import type { MeshSizes } from "./job/job-state.ts";
import type { PlanReport } from "./planning/report.ts";

/** A job compiled for one mesh. */
export interface JobPlan {
  readonly program: Program;
  /** What a person should know: what was left off and why. */
  readonly notes: readonly string[];
  /** Plain data that `rankmesh plan --json` writes. */
  readonly report: PlanReport;
}

/**
 * Compiles a job for a mesh. Pure.
 * @throws InvalidArgumentError with every fault of the job at these sizes
 */
export type Planner = (spec: JobSpec, sizes: MeshSizes) => JobPlan;
