/** Where a job is in its life. The last three are terminal: exactly one of them ends every job. */
export type JobPhase = "QUEUED" | "STARTING" | "RUNNING" | "SUCCEEDED" | "FAILED" | "CANCELLED";

/** Why a job failed: its root cause, not the complaints that followed from it. */
export interface JobFailure {
  /** gRPC status name: UNAVAILABLE, DATA_LOSS, ... */
  readonly code: string;
  readonly message: string;
  /** The guilty rank, when there is one. */
  readonly rank?: number;
  /** Name of its worker. */
  readonly worker?: string;
  /** 0-based step at which it happened. */
  readonly step?: number;
}

/** The sizes of the mesh's two axes; rank = dp * tensorParallel + tp. */
export interface MeshSizes {
  readonly dataParallel: number;
  readonly tensorParallel: number;
}

/** One rank as users see it. Byte counts are 0 until the rank reports them. */
export interface RankSummary {
  readonly rank: number;
  readonly worker: string;
  readonly backend: string;
  readonly device: string;
  readonly predictedPeakBytes: number;
  /** Part of the prediction that the backend takes beside the program's arena. */
  readonly workspaceBytes: number;
  readonly peakBytes: number;
  /** Resident memory of the process after the last step. */
  readonly rssBytes: number;
  /** Wire bytes sent to peers over the whole job. */
  readonly collectiveBytes: number;
}

/** What happened to a job, in the order in which it happened. */
export type JobEvent = StateChange | StepDone | EvaluationDone | LogLine;

export interface StateChange {
  readonly kind: "state";
  readonly phase: JobPhase;
  readonly reason: string;
  readonly failure?: JobFailure;
  /** On the terminal state. */
  readonly ranks?: readonly RankSummary[];
}

export interface StepDone {
  readonly kind: "step";
  /** 0-based. */
  readonly step: number;
  readonly loss: number;
  readonly gradNorm?: number;
  /** Wall seconds, end to end. */
  readonly seconds: number;
  /** Largest over the ranks. */
  readonly peakBytes: number;
}

/** The mean loss over held-out batches, without an update. */
export interface EvaluationDone {
  readonly kind: "eval";
  /** Steps done before it. */
  readonly step: number;
  readonly loss: number;
  /** Batches that the mean is over. */
  readonly batches: number;
}

export interface LogLine {
  readonly kind: "log";
  readonly level: "info" | "warn" | "error";
  readonly message: string;
  readonly rank?: number;
}

/** A moment on both clocks: durations are measured on the monotonic one, people read the other. */
export interface Instant {
  /** Milliseconds since the Unix epoch. */
  readonly wallMs: number;
  /** Milliseconds on a clock that never jumps. */
  readonly monotonicMs: number;
}

export function isTerminal(phase: JobPhase): boolean {
  return phase === "SUCCEEDED" || phase === "FAILED" || phase === "CANCELLED";
}
