/** What the service says about jobs and workers, as plain data: numbers are JavaScript numbers, absent is undefined. */

export const JOB_STATES = [
  "QUEUED",
  "STARTING",
  "RUNNING",
  "SUCCEEDED",
  "FAILED",
  "CANCELLED",
] as const;

export type JobState = (typeof JOB_STATES)[number];

/** Whether a job in this state has ended for good. */
export function isTerminal(state: JobState): boolean {
  return state === "SUCCEEDED" || state === "FAILED" || state === "CANCELLED";
}

/** Why a job failed. */
export interface JobError {
  /** gRPC status name: `UNAVAILABLE`, `INVALID_ARGUMENT`, ... */
  readonly code: string;
  readonly message: string;
  /** The guilty rank, when there is one. */
  readonly rank: number | undefined;
  /** Name of that rank's worker. */
  readonly worker: string | undefined;
  /** 0-based step at which it happened. */
  readonly step: number | undefined;
}

/** What one rank has used so far; all of it is known when the job has ended. Sizes in bytes, 0 until they are. */
export interface RankReport {
  readonly rank: number;
  readonly worker: string;
  readonly backend: string;
  readonly device: string;
  readonly peakMemoryBytes: number;
  readonly predictedPeakMemoryBytes: number;
  /** Resident memory of the worker's process after the last step. */
  readonly rssBytes: number;
  /** Wire bytes: payload sent to peers over the whole job, headers not counted. */
  readonly collectiveBytes: number;
  /** Part of the predicted peak that the backend takes beside the program's arena. */
  readonly workspaceBytes: number;
}

export interface Job {
  readonly jobId: string;
  readonly name: string;
  readonly state: JobState;
  /** Why the job waits, or what its state is about. */
  readonly reason: string;
  /** Set when the state is FAILED. */
  readonly error: JobError | undefined;
  /** Undefined until the mesh's `auto` sizes are settled. */
  readonly mesh: { readonly dataParallel: number; readonly tensorParallel: number } | undefined;
  /** Steps asked for. */
  readonly steps: number;
  readonly stepsDone: number;
  /** Rows of one optimizer step over the whole mesh. */
  readonly batchSize: number;
  /** Loss of every step done; may hold NaN and infinities. */
  readonly loss: readonly number[];
  /** Gradient norm of every step done, when the job reports it. */
  readonly gradNorm: readonly number[];
  /** Wall seconds of every step done, end to end. */
  readonly stepSeconds: readonly number[];
  /** Every evaluation done. */
  readonly evaluations: readonly Evaluation[];
  /** Of the last step done; undefined before the first. Lists of jobs have it too. */
  readonly lastLoss: number | undefined;
  readonly ranks: readonly RankReport[];
  /** What the default plan left off and why, and other things to know. */
  readonly notes: readonly string[];
  readonly generation: number;
  readonly createdAt: Date | undefined;
  readonly endedAt: Date | undefined;
}

/** Mean loss over held-out batches, without an update. */
export interface Evaluation {
  /** Steps done before it. */
  readonly step: number;
  readonly loss: number;
  /** Batches that the mean is over. */
  readonly batches: number;
}

export type JobEvent = StateEvent | StepEvent | EvalEvent | LogEvent;

interface EventBase {
  /** Grows by one an event, from 1; the place to resume a watch from. */
  readonly eventId: number;
  readonly time: Date | undefined;
}

/** The job entered a state. The last event of a job is the one with a terminal state. */
export interface StateEvent extends EventBase {
  readonly kind: "state";
  readonly state: JobState;
  readonly reason: string;
  readonly error: JobError | undefined;
  readonly ranks: readonly RankReport[];
}

/** One optimizer step is done on all ranks. */
export interface StepEvent extends EventBase {
  readonly kind: "step";
  /** 0-based. */
  readonly step: number;
  readonly loss: number;
  readonly gradNorm: number | undefined;
  /** Wall seconds, end to end. */
  readonly seconds: number;
  readonly samplesPerSecond: number;
  /** Largest over the ranks. */
  readonly peakMemoryBytes: number;
}

/** One evaluation is done. */
export interface EvalEvent extends EventBase, Evaluation {
  readonly kind: "eval";
}

export interface LogEvent extends EventBase {
  readonly kind: "log";
  readonly level: string;
  readonly message: string;
  readonly rank: number | undefined;
}

export interface Worker {
  readonly name: string;
  /** `idle`, `busy` or `lost`. */
  readonly state: string;
  /** host:port at which peers reach it. */
  readonly address: string;
  /** host:port of its /metrics; empty when off. */
  readonly httpAddress: string;
  readonly backend: string;
  readonly device: string;
  readonly memoryLimitBytes: number;
  /** Job and rank it serves; undefined when it is idle. */
  readonly jobId: string | undefined;
  readonly rank: number | undefined;
  readonly heartbeatAgeSeconds: number;
  /** What programs may hold their activations in: `float32`, `bfloat16`. */
  readonly precisions: readonly string[];
  /** Memory that the backend takes beside a program's. */
  readonly workspaceBytes: number;
  /** Why it is this backend: asked for by name, or what `auto` found. */
  readonly backendReason: string;
  /** Why it is lost; undefined when it is not. */
  readonly lostReason: string | undefined;
}
