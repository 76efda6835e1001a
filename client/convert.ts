/** Wire messages to the client's plain types. */

import { InternalError } from "../shared/errors.ts";
import type { Timestamp__Output } from "../shared/rpc/gen/google/protobuf/Timestamp.ts";
import type { Job__Output } from "../shared/rpc/gen/rankmesh/v1/Job.ts";
import type { JobError__Output } from "../shared/rpc/gen/rankmesh/v1/JobError.ts";
import type { RankReport__Output } from "../shared/rpc/gen/rankmesh/v1/RankReport.ts";
import type { WatchJobResponse__Output } from "../shared/rpc/gen/rankmesh/v1/WatchJobResponse.ts";
import type { Worker__Output } from "../shared/rpc/gen/rankmesh/v1/Worker.ts";
import {
  JOB_STATES,
  type Job,
  type JobError,
  type JobEvent,
  type JobState,
  type RankReport,
  type Worker,
} from "./job-types.ts";

const STATE_PREFIX = "JOB_STATE_";

export function jobFromWire(job: Job__Output | null): Job {
  if (job === null) throw new InternalError("the coordinator's answer holds no job");
  return {
    jobId: job.jobId,
    name: job.name,
    state: stateFromWire(job.state),
    reason: job.reason,
    error: errorFromWire(job.error),
    mesh:
      job.dataParallel > 0 && job.tensorParallel > 0
        ? { dataParallel: job.dataParallel, tensorParallel: job.tensorParallel }
        : undefined,
    steps: job.steps,
    stepsDone: job.stepsDone,
    batchSize: job.batchSize,
    loss: job.loss,
    gradNorm: job.gradNorm,
    stepSeconds: job.stepSeconds,
    evaluations: job.evaluations,
    lastLoss: job.lastLoss,
    ranks: job.ranks.map(rankFromWire),
    notes: job.notes,
    generation: job.generation,
    createdAt: dateFromWire(job.createdAt),
    endedAt: dateFromWire(job.endedAt),
  };
}

/** The event of a watch message; undefined for a kind that this version does not know. */
export function eventFromWire(message: WatchJobResponse__Output): JobEvent | undefined {
  const base = { eventId: message.eventId, time: dateFromWire(message.time) };
  const { state, step, eval: evaluation, log } = message;
  if (state) {
    return {
      ...base,
      kind: "state",
      state: stateFromWire(state.state),
      reason: state.reason,
      error: errorFromWire(state.error),
      ranks: state.ranks.map(rankFromWire),
    };
  }
  if (step) {
    return {
      ...base,
      kind: "step",
      step: step.step,
      loss: step.loss,
      gradNorm: step.gradNorm,
      seconds: step.seconds,
      samplesPerSecond: step.samplesPerSecond,
      peakMemoryBytes: step.peakMemoryBytes,
    };
  }
  if (evaluation) return { ...base, kind: "eval", ...evaluation };
  if (log) return { ...base, kind: "log", level: log.level, message: log.message, rank: log.rank };
  return undefined;
}

export function workerFromWire(worker: Worker__Output): Worker {
  const serves = worker.jobId !== "";
  return {
    name: worker.name,
    state: worker.state,
    address: worker.address,
    httpAddress: worker.httpAddress,
    backend: worker.backend,
    device: worker.device,
    memoryLimitBytes: worker.memoryLimitBytes,
    jobId: serves ? worker.jobId : undefined,
    rank: serves ? worker.rank : undefined,
    heartbeatAgeSeconds: worker.heartbeatAgeSeconds,
    precisions: worker.precisions,
    workspaceBytes: worker.workspaceBytes,
    backendReason: worker.backendReason,
    lostReason: worker.lostReason === "" ? undefined : worker.lostReason,
  };
}

function stateFromWire(wire: string): JobState {
  const state = JOB_STATES.find((name) => wire === STATE_PREFIX + name);
  if (state === undefined)
    throw new InternalError(`the coordinator names an unknown job state ${wire}`);
  return state;
}

function errorFromWire(error: JobError__Output | null): JobError | undefined {
  if (error === null) return undefined;
  return {
    code: error.code,
    message: error.message,
    rank: error.rank,
    worker: error.worker === "" ? undefined : error.worker,
    step: error.step,
  };
}

function rankFromWire(rank: RankReport__Output): RankReport {
  return {
    rank: rank.rank,
    worker: rank.worker,
    backend: rank.backend,
    device: rank.device,
    peakMemoryBytes: rank.peakMemoryBytes,
    predictedPeakMemoryBytes: rank.predictedPeakMemoryBytes,
    rssBytes: rank.rssBytes,
    collectiveBytes: rank.collectiveBytes,
    workspaceBytes: rank.workspaceBytes,
  };
}

function dateFromWire(time: Timestamp__Output | null): Date | undefined {
  return time === null ? undefined : new Date(time.seconds * 1000 + time.nanos / 1e6);
}
