/**
 * What the coordinator answers under `/api/v1` and sends to open pages. Bytes are whole numbers, times of day ISO 8601,
 * durations seconds; what is not finite is null.
 */
import type { PointsView } from "./points.ts";

export type JobStateName = "QUEUED" | "STARTING" | "RUNNING" | "SUCCEEDED" | "FAILED" | "CANCELLED";

/** `GET /api/v1/status` */
export interface StatusView {
  readonly service: string;
  readonly version: string;
  /** Differs from start to start of the coordinator. */
  readonly instance: string;
  readonly startedAt: string;
  /** Workers that are there. */
  readonly workers: number;
  readonly idleWorkers: number;
  readonly jobsByState: Readonly<Record<JobStateName, number>>;
  /** The newest ones, newest first. */
  readonly jobs: readonly JobLine[];
}

/** One of `GET /api/v1/workers`. */
export interface WorkerLine {
  readonly name: string;
  readonly state: "idle" | "busy" | "lost";
  readonly address: string;
  readonly httpAddress: string;
  readonly backend: string;
  readonly backendReason: string;
  readonly device: string;
  /** 0: it named none. */
  readonly memoryLimitBytes: number;
  readonly jobId: string | null;
  readonly rank: number | null;
  readonly lostReason: string | null;
}

/** A job in a list. */
export interface JobLine {
  readonly jobId: string;
  readonly name: string;
  readonly state: JobStateName;
  /** Why it waits, or why it ended. */
  readonly reason: string;
  /** Null until it has started. */
  readonly mesh: MeshView | null;
  readonly steps: number;
  readonly stepsDone: number;
  /** Of the last step done. */
  readonly loss: number | null;
  readonly createdAt: string;
  readonly endedAt: string | null;
}

export interface MeshView {
  readonly dataParallel: number;
  readonly tensorParallel: number;
}

export interface ErrorView {
  /** Name of a gRPC status. */
  readonly code: string;
  readonly message: string;
  /** The rank at fault. */
  readonly rank: number | null;
  readonly worker: string | null;
  /** 0-based. */
  readonly step: number | null;
}

/** A job's figures, sent again whenever one changes. */
export interface JobView extends JobLine {
  readonly error: ErrorView | null;
  readonly batchSize: number;
  /** When its first step began. */
  readonly startedAt: string | null;
  readonly lastStepAt: string | null;
  readonly gradNorm: number | null;
  readonly evaluation: EvaluationView | null;
  /** Median of the last steps. */
  readonly stepSeconds: number | null;
  readonly samplesPerSecond: number | null;
  /** Of jobs on sequences of tokens. */
  readonly tokensPerSecond: number | null;
  /** Ranks that a step which takes long waits for; empty while all goes well. */
  readonly waitingFor: readonly number[];
  readonly notes: readonly string[];
}

export interface EvaluationView {
  /** Steps done before it. */
  readonly step: number;
  readonly loss: number | null;
}

export type RankStateName =
  | "starting"
  | "running"
  | "done"
  | "stopped"
  | "waited for"
  | "lost"
  | "failed";

/** One rank of a job that was started. */
export interface RankView {
  readonly rank: number;
  readonly dataParallel: number;
  readonly tensorParallel: number;
  readonly worker: string;
  readonly backend: string;
  readonly device: string;
  readonly state: RankStateName;
  readonly predictedPeakBytes: number;
  /** Highest so far; 0 until the rank's first step. */
  readonly peakBytes: number;
  /** 0: its worker named none. */
  readonly limitBytes: number;
  /** Of the process after the last step; 0 before. */
  readonly rssBytes: number;
  /** Sent to peers over the whole job; 0 until its end. */
  readonly collectiveBytes: number;
}

/** What happened to a job, but for its steps. */
export interface NoteView {
  readonly id: number;
  readonly at: string;
  /** `state`, or the level of a line of its log. */
  readonly kind: "state" | "info" | "warn" | "error";
  /** Of a state. */
  readonly state: JobStateName | null;
  readonly message: string;
  readonly rank: number | null;
}

/** Steps, evaluations and notes of a job: all of them, or those since the last time. */
export interface HistoryView {
  readonly jobId: string;
  readonly points: PointsView;
  readonly evaluations: readonly EvaluationView[];
  readonly notes: readonly NoteView[];
}

/** `GET /api/v1/jobs/ID` */
export interface JobDetails {
  readonly job: JobView;
  readonly ranks: readonly RankView[];
  readonly history: HistoryView;
}

/** `GET /api/v1/jobs/ID/plan` */
export interface PlanView {
  readonly mesh: MeshView;
  readonly parameters: number;
  /** Of every rank, without what its backend takes beside it. */
  readonly arenaBytes: number;
  readonly memoryByKind: Readonly<Record<string, number>>;
  /** That a rank sends in a step. */
  readonly collectiveBytesPerStep: number;
  readonly collectives: readonly PlannedCollectiveView[];
  readonly shards: readonly ShardView[];
}

export interface PlannedCollectiveView {
  readonly op: string;
  readonly phase: string;
  /** What is moved; of several alike `#` stands for the number that differs. */
  readonly label: string;
  readonly axes: readonly string[];
  readonly algorithm: string;
  readonly payloadBytes: number;
  /** That a rank sends each time. */
  readonly wireBytes: number;
  /** Over all that are alike. */
  readonly timesPerStep: number;
}

export interface ShardView {
  readonly name: string;
  /** How many parameters the line stands for. */
  readonly count: number;
  readonly globalShape: readonly number[];
  /** Of rank 0. */
  readonly localShape: readonly number[];
  /** Placement on each axis: `S(0)`, `R`. */
  readonly layout: readonly string[];
}

/** Event `clock` of the stream, its first: the coordinator's time of day, as the browser's may be another. */
export interface ClockView {
  readonly now: string;
}

/** Event `overview` of the stream. */
export interface OverviewView {
  readonly version: string;
  readonly instance: string;
  readonly grpcAddress: string;
  readonly workers: readonly WorkerLine[];
  readonly workersLeftOut: number;
  /** Newest first. */
  readonly jobs: readonly JobLine[];
  readonly jobsLeftOut: number;
  readonly jobsByState: Readonly<Record<JobStateName, number>>;
}
