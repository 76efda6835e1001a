/** The package's public API: the client of a coordinator, and the modelling API of model files. */
export * from "../models/module.ts";
export {
  CancelledError,
  FailedPreconditionError,
  type Fault,
  InvalidArgumentError,
  NotFoundError,
  RankmeshError,
  ResourceExhaustedError,
  UnavailableError,
} from "../shared/errors.ts";
export type { ForwardGraph } from "../shared/graph/graph.ts";
export type { JobSpecInput } from "../shared/job/job-spec.ts";
export type { CallOptions } from "./calls.ts";
export {
  DEFAULT_ADDRESS,
  type JobPlan,
  RankmeshClient,
  type RankmeshClientOptions,
  type SubmitOptions,
} from "./client.ts";
export { JobFailedError, JobHandle } from "./job-handle.ts";
export type {
  EvalEvent,
  Evaluation,
  Job,
  JobError,
  JobEvent,
  JobState,
  LogEvent,
  RankReport,
  StateEvent,
  StepEvent,
  Worker,
} from "./job-types.ts";
export type { Batch, BatchSource, BatchTensor } from "./push-batches.ts";
export type { WatchOptions } from "./watch.ts";
