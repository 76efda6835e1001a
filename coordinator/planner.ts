import type { HuggingFaceConfig } from "../shared/hugging-face/config.ts";
import type { JobSpec } from "../shared/job/job-spec.ts";
import type { Program } from "../shared/program/program.ts";
import type { MeshSizes } from "./job/job-state.ts";
import type { PlanSummary } from "./planning/plan-summary.ts";
import type { PlanReport } from "./planning/report.ts";

/** What a job's model depends on beside its spec: read from the job's files before it is planned. */
export interface ModelFacts {
  /** Tokens of a row, for models that take sequences of them. */
  readonly seqLen?: number;
  /** What config.json of a Hugging Face checkpoint says. */
  readonly huggingFace?: HuggingFaceConfig;
}

/** What the coordinator itself looks at in a program. Instructions and their operands are the ranks' affair. */
export type ProgramOutline = Pick<
  Program,
  "name" | "mesh" | "arenaBytes" | "memoryByKind" | "stored" | "inputs"
>;

/** A job compiled for one mesh, as the coordinator keeps it. */
export interface PlannedJob {
  readonly program: ProgramOutline;
  /** The whole program, as ranks are sent it. */
  readonly encodedProgram: Buffer;
  readonly summary: PlanSummary;
  /** What a person should know: what was left off and why. */
  readonly notes: readonly string[];
  /** By input: how many ids there are, from 0 on; an input without an entry may hold anything. */
  readonly idLimits: Readonly<Record<string, number>>;
}

/** A job compiled for one mesh, in the process that compiled it. */
export interface JobPlan extends PlannedJob {
  readonly program: Program;
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

/** What `Planner` takes. */
export interface PlanRequest {
  readonly spec: JobSpec;
  readonly sizes: MeshSizes;
  readonly facts: ModelFacts;
  readonly memoryBytes?: number | undefined;
}

export interface PlanOptions {
  /** Takes back a request whose turn has not come. */
  readonly signal?: AbortSignal | undefined;
  /** Its turn is before that of requests that are not urgent, and it is never refused. @default false */
  readonly urgent?: boolean;
}

/** A job's plan told for people. */
export interface ReportedJob extends PlannedJob {
  /** `PlanReport` as JSON. */
  readonly reportJson: string;
  readonly reportText: string;
}

/**
 * Where the coordinator has its jobs compiled. What is quickly made comes at once, all else as a promise.
 *
 * Both throw, or reject with: InvalidArgumentError with every fault of the job at these sizes; DeadlineExceededError;
 * ResourceExhaustedError where the job needs too much memory or too many requests wait; UnavailableError after `close`;
 * the signal's reason.
 */
export interface Planning {
  plan(request: PlanRequest, options?: PlanOptions): PlannedJob | Promise<PlannedJob>;
  report(request: PlanRequest, options?: PlanOptions): ReportedJob | Promise<ReportedJob>;
  /** Refuses what waits and ends what is under way. */
  close(): Promise<void>;
}
