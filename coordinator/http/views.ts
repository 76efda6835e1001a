/** What the coordinator knows, as the page's API says it. */
import { coordinates } from "../../shared/mesh/mesh.ts";
import type { WorkerView } from "../gang/worker-registry.ts";
import type { Job } from "../job/job.ts";
import { isTerminal, type JobFailure, type JobPhase } from "../job/job-state.ts";
import type {
  ErrorView,
  JobLine,
  JobStateName,
  JobView,
  MeshView,
  PlanView,
  RankStateName,
  RankView,
  WorkerLine,
} from "../page/api.ts";
import type { JobHistory } from "./job-history.ts";

/** Jobs in a list. */
export const MAX_LISTED_JOBS = 200;
/** Steps that rates look back on. */
const RECENT_STEPS = 16;
/** A step that takes this many times longer than those before it is said to wait for the ranks that have not reported. */
const SLOW_STEP_FACTOR = 4;
const SLOW_STEP_MS = 3_000;

export function workerLine(worker: WorkerView): WorkerLine {
  const { name, state, address, httpAddress, backend, backendReason, device } = worker;
  return {
    name,
    state,
    address,
    httpAddress,
    backend,
    backendReason,
    device,
    memoryLimitBytes: worker.memoryLimitBytes,
    jobId: worker.assignment?.jobId ?? null,
    rank: worker.assignment?.rank ?? null,
    lostReason: worker.lostReason ?? null,
  };
}

export function jobLine(job: Job): JobLine {
  const { machine } = job;
  const { log, endedAtMs } = machine;
  return {
    jobId: job.jobId,
    name: job.name,
    state: machine.phase,
    reason: machine.reason,
    mesh: machine.sizes ?? null,
    steps: machine.steps,
    stepsDone: machine.stepsDone,
    loss: log.numSteps === 0 ? null : finite(log.step(log.numSteps - 1).loss),
    createdAt: time(job.createdAtMs),
    endedAt: endedAtMs === undefined ? null : time(endedAtMs),
  };
}

/** @param nowMs of the wall clock */
export function jobView(job: Job, history: JobHistory, nowMs: number): JobView {
  const { machine } = job;
  const { log, failure } = machine;
  const { numSteps } = log;
  const last = numSteps === 0 ? undefined : log.step(numSteps - 1);
  const stepSeconds = recentStepSeconds(job);
  const { startedAtMs } = history;
  const perSecond = (perStep: number): number | null =>
    stepSeconds === null || stepSeconds === 0 ? null : perStep / stepSeconds;
  return {
    ...jobLine(job),
    error: failure === undefined ? null : errorView(failure),
    batchSize: job.batchSize,
    startedAt: startedAtMs === undefined ? null : time(startedAtMs),
    lastStepAt: history.lastStepAtMs === undefined ? null : time(history.lastStepAtMs),
    gradNorm: finite(last?.gradNorm),
    evaluation: history.lastEvaluation,
    stepSeconds,
    samplesPerSecond: perSecond(job.batchSize),
    tokensPerSecond: job.tokensPerStep > job.batchSize ? perSecond(job.tokensPerStep) : null,
    waitingFor: waitingFor(job, history, stepSeconds, nowMs),
    notes: job.notes,
  };
}

/** The ranks of a job's last start, in order. */
export function rankViews(
  job: Job,
  workers: readonly WorkerView[],
  waited: readonly number[],
): RankView[] {
  const sizes = job.machine.sizes;
  if (sizes === undefined) return [];
  const mesh = {
    axes: [
      { name: "dataParallel", size: sizes.dataParallel },
      { name: "tensorParallel", size: sizes.tensorParallel },
    ],
  };
  const lost = new Set(workers.flatMap((w) => (w.state === "lost" ? [w.name] : [])));
  return job.machine.ranks().map((summary) => {
    const { rank, worker, backend, device } = summary;
    const [dataParallel = 0, tensorParallel = 0] = coordinates(mesh, rank);
    return {
      rank,
      dataParallel,
      tensorParallel,
      worker,
      backend,
      device,
      state: rankState(job, rank, lost.has(worker), waited.includes(rank)),
      predictedPeakBytes: summary.predictedPeakBytes,
      peakBytes: summary.peakBytes,
      limitBytes: job.gang[rank]?.memoryLimitBytes ?? 0,
      rssBytes: summary.rssBytes,
      collectiveBytes: summary.collectiveBytes,
    };
  });
}

export function planView(job: Job): PlanView {
  const { planSummary: plan } = job;
  const { mesh } = plan;
  return {
    ...plan,
    mesh: {
      dataParallel: mesh["dataParallel"] ?? 1,
      tensorParallel: mesh["tensorParallel"] ?? 1,
    } satisfies MeshView,
  };
}

export function countByState(jobs: readonly Job[]): Record<JobStateName, number> {
  const counts = { QUEUED: 0, STARTING: 0, RUNNING: 0, SUCCEEDED: 0, FAILED: 0, CANCELLED: 0 };
  for (const job of jobs) counts[job.machine.phase] += 1;
  return counts;
}

/** Newest first. Where there are too many, those that go on and those that wait come before those that ended. */
export function listedJobs(jobs: readonly Job[]): Job[] {
  const newest = [...jobs].reverse();
  if (newest.length <= MAX_LISTED_JOBS) return newest;
  const keep = new Set(
    [...newest]
      .sort((a, b) => urgency(a.machine.phase) - urgency(b.machine.phase))
      .slice(0, MAX_LISTED_JOBS),
  );
  return newest.filter((job) => keep.has(job));
}

function urgency(phase: JobPhase): number {
  if (phase === "RUNNING" || phase === "STARTING") return 0;
  return isTerminal(phase) ? 2 : 1;
}

function rankState(job: Job, rank: number, isLost: boolean, isWaitedFor: boolean): RankStateName {
  const { phase, failure } = job.machine;
  if (failure?.rank === rank) return "failed";
  switch (phase) {
    case "SUCCEEDED":
      return "done";
    case "FAILED":
    case "CANCELLED":
      return "stopped";
    case "QUEUED":
    case "STARTING":
      return isLost ? "lost" : "starting";
    case "RUNNING":
      if (isLost) return "lost";
      return isWaitedFor ? "waited for" : "running";
  }
}

/** Ranks that hold up the others: said once a step takes much longer than those before it, by what heartbeats say. */
function waitingFor(
  job: Job,
  history: JobHistory,
  stepSeconds: number | null,
  nowMs: number,
): number[] {
  const since = history.lastStepAtMs;
  if (job.machine.phase !== "RUNNING" || since === undefined || stepSeconds === null) return [];
  const slowMs = Math.max(SLOW_STEP_MS, SLOW_STEP_FACTOR * stepSeconds * 1000);
  if (nowMs - since < slowMs) return [];
  const ranks = job.machine.ranks().map(({ rank }) => rank);
  const reported = ranks.map((rank) => job.machine.roundsReported(rank));
  const ahead = Math.max(...reported);
  const behind = ranks.filter((rank) => (reported[rank] ?? 0) < ahead);
  if (behind.length > 0 && behind.length < ranks.length) return behind;
  // All are at the same step, in a collective: who is waited for, and waits for nobody, holds the others up.
  const waits = ranks.map((rank) => job.peerWaits.get(rank) ?? []);
  return ranks.filter(
    (rank) => waits[rank]?.length === 0 && waits.some((peers) => peers.includes(rank)),
  );
}

function recentStepSeconds(job: Job): number | null {
  const { log } = job.machine;
  const count = Math.min(RECENT_STEPS, log.numSteps);
  if (count === 0) return null;
  const seconds = Array.from(
    { length: count },
    (_, i) => log.step(log.numSteps - 1 - i).seconds,
  ).sort((a, b) => a - b);
  return seconds[Math.floor(count / 2)] ?? null;
}

function errorView({ code, message, rank, worker, step }: JobFailure): ErrorView {
  return {
    code,
    message,
    rank: rank ?? null,
    worker: worker ?? null,
    step: step ?? null,
  };
}

function finite(value: number | undefined): number | null {
  return value !== undefined && Number.isFinite(value) ? value : null;
}

function time(wallMs: number): string {
  return new Date(wallMs).toISOString();
}
