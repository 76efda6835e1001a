/** Bounds of a coordinator, all in milliseconds, bytes or counts. */
export interface CoordinatorLimits {
  /** Workers are told to send a heartbeat this often. */
  readonly heartbeatMs: number;
  /** A worker silent for longer is lost. At least a few heartbeats, or a busy host loses its workers. */
  readonly leaseMs: number;
  /** A lost worker stays in the list for this long. */
  readonly rememberLostMs: number;
  /** From the assignment to the last rank being ready; models above 1 GB get more (`READY_BYTES_PER_SECOND`). */
  readonly readyMs: number;
  /** From the delivery of a step's batch to its last report. Must exceed the longest step of any job. */
  readonly stepMs: number;
  /** After the first complaint about a peer: time for the peer's own death to show. */
  readonly graceMs: number;
  /** From abort or release to the last rank's answer; then the job ends without it. */
  readonly releaseMs: number;
  /** A worker that has not let go of an ended job after this long is cut off. */
  readonly drainMs: number;
  /** No progress of a collective for this long is an error; ranks are told. */
  readonly collectiveMs: number;
  /** Nothing from a rank for this long while its weights are read is an error. */
  readonly readShardMs: number;
  /** Metrics of a job stay for this long after its end. */
  readonly metricsMs: number;
  /** A worker that was lost or has left stays in `/sd/workers` for this long: two scrapes at the usual 15 s. */
  readonly discoveryMs: number;
  /** More waiting jobs are refused. */
  readonly maxQueuedJobs: number;
  /** Planning one job may take this long. Below the 30 s that clients wait by default, so that they read why. */
  readonly planMs: number;
  /** Submissions of large models that wait to be planned; more are refused. */
  readonly maxWaitingPlans: number;
  /** One of them may wait this long; then it is refused. Below the 30 s, too, and above `planMs`: one that hangs refuses no other. */
  readonly waitForPlanMs: number;
  /** Ended jobs that are remembered. */
  readonly maxEndedJobs: number;
}

export const DEFAULT_LIMITS: CoordinatorLimits = {
  heartbeatMs: 1_000,
  leaseMs: 5_000,
  rememberLostMs: 60_000,
  readyMs: 60_000,
  stepMs: 30 * 60_000,
  graceMs: 300,
  releaseMs: 2_000,
  drainMs: 30_000,
  collectiveMs: 60_000,
  readShardMs: 60_000,
  metricsMs: 60_000,
  discoveryMs: 30_000,
  maxQueuedJobs: 1_000,
  planMs: 25_000,
  maxWaitingPlans: 32,
  waitForPlanMs: 28_000,
  maxEndedJobs: 1_000,
};

/** Memory of the planner's thread, in MB of JavaScript objects: the largest model at the most ranks takes a part of it. */
export const PLANNER_HEAP_MB = 1024;

/** Slowest pace at which ranks are expected to initialise or load, per rank. */
export const READY_BYTES_PER_SECOND = 20e6;

/** Longest time that opening a text may take that is to be tokenized: the largest takes some minutes. */
export const TOKENIZE_MS = 15 * 60_000;
