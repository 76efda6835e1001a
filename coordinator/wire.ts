/** What the coordinator knows, as messages. */
import type { Timestamp } from "../shared/rpc/gen/google/protobuf/Timestamp.ts";
import type { EvalEvent } from "../shared/rpc/gen/rankmesh/v1/EvalEvent.ts";
import type { Job as JobMessage } from "../shared/rpc/gen/rankmesh/v1/Job.ts";
import type { JobError } from "../shared/rpc/gen/rankmesh/v1/JobError.ts";
import type { RankReport } from "../shared/rpc/gen/rankmesh/v1/RankReport.ts";
import type { WatchJobResponse } from "../shared/rpc/gen/rankmesh/v1/WatchJobResponse.ts";
import type { Worker } from "../shared/rpc/gen/rankmesh/v1/Worker.ts";
import type { WorkerView } from "./gang/worker-registry.ts";
import type { LoggedEvent } from "./job/event-log.ts";
import type { Job } from "./job/job.ts";
import type { EvaluationDone, JobFailure, JobPhase, RankSummary } from "./job/job-state.ts";

/** Steps whose values one reply holds: 24 bytes each keep it under the limit of a message. */
export const MAX_LISTED_STEPS = 100_000;

/** @param lists whether to include the values of every step: of a very long job, of the last ones */
export function jobToWire(job: Job, lists: boolean): JobMessage {
  const { machine } = job;
  const { sizes, failure, endedAtMs, log } = machine;
  const notes = [...job.notes];
  if (lists && log.numSteps > MAX_LISTED_STEPS) {
    notes.push(
      `loss, gradNorm and stepSeconds are those of the last ${MAX_LISTED_STEPS} steps; watch the job for all`,
    );
  }
  const listed = (values: number[]): number[] => (lists ? values.slice(-MAX_LISTED_STEPS) : []);
  return {
    jobId: job.jobId,
    name: job.name,
    state: phaseToWire(machine.phase),
    reason: machine.reason,
    error: failure === undefined ? null : failureToWire(failure),
    dataParallel: sizes?.dataParallel ?? 0,
    tensorParallel: sizes?.tensorParallel ?? 0,
    steps: machine.steps,
    stepsDone: machine.stepsDone,
    loss: listed(log.losses()),
    gradNorm: listed(log.gradNorms()),
    stepSeconds: listed(log.stepSeconds()),
    ranks: machine.ranks().map(rankToWire),
    createdAt: timestamp(job.createdAtMs),
    endedAt: endedAtMs === undefined ? null : timestamp(endedAtMs),
    generation: machine.generation,
    notes,
    batchSize: job.batchSize,
    ...(log.numSteps === 0 ? {} : { lastLoss: log.step(log.numSteps - 1).loss }),
    evaluations: (lists ? log.evaluations() : []).slice(-MAX_LISTED_STEPS).map(evaluationToWire),
  };
}

export function eventToWire(
  { id, wallMs, event }: LoggedEvent,
  batchSize: number,
): WatchJobResponse {
  const base = { eventId: id, time: timestamp(wallMs) };
  switch (event.kind) {
    case "state":
      return {
        ...base,
        state: {
          state: phaseToWire(event.phase),
          reason: event.reason,
          error: event.failure === undefined ? null : failureToWire(event.failure),
          ranks: (event.ranks ?? []).map(rankToWire),
        },
      };
    case "step":
      return {
        ...base,
        step: {
          step: event.step,
          loss: event.loss,
          gradNorm: event.gradNorm,
          seconds: event.seconds,
          samplesPerSecond: event.seconds > 0 ? batchSize / event.seconds : 0,
          peakMemoryBytes: event.peakBytes,
        },
      };
    case "eval":
      return {
        ...base,
        eval: evaluationToWire(event),
      };
    case "log":
      return { ...base, log: { level: event.level, message: event.message, rank: event.rank } };
  }
}

function evaluationToWire({ step, loss, batches }: EvaluationDone): EvalEvent {
  return { step, loss, batches };
}

export function workerToWire(worker: WorkerView): Worker {
  return {
    name: worker.name,
    state: worker.state,
    address: worker.address,
    backend: worker.backend,
    device: worker.device,
    memoryLimitBytes: worker.memoryLimitBytes,
    jobId: worker.assignment?.jobId ?? "",
    rank: worker.assignment?.rank ?? 0,
    heartbeatAgeSeconds: worker.heartbeatAgeMs / 1000,
    httpAddress: worker.httpAddress,
    precisions: [...worker.precisions],
    workspaceBytes: worker.workspaceBytes,
    backendReason: worker.backendReason,
    lostReason: worker.lostReason ?? "",
  };
}

function phaseToWire(phase: JobPhase): `JOB_STATE_${JobPhase}` {
  return `JOB_STATE_${phase}`;
}

function failureToWire(failure: JobFailure): JobError {
  return {
    code: failure.code,
    message: failure.message,
    rank: failure.rank,
    worker: failure.worker ?? "",
    step: failure.step,
  };
}

function rankToWire(rank: RankSummary): RankReport {
  return {
    rank: rank.rank,
    worker: rank.worker,
    backend: rank.backend,
    device: rank.device,
    peakMemoryBytes: rank.peakBytes,
    predictedPeakMemoryBytes: rank.predictedPeakBytes,
    rssBytes: rank.rssBytes,
    collectiveBytes: rank.collectiveBytes,
    workspaceBytes: rank.workspaceBytes,
  };
}

function timestamp(wallMs: number): Timestamp {
  const seconds = Math.floor(wallMs / 1000);
  return { seconds, nanos: Math.round((wallMs - seconds * 1000) * 1e6) };
}
