import { formatBytes } from "../../shared/format-bytes.ts";
import type { AxisSize, MeshSpec } from "../../shared/job/job-spec.ts";
import { JOB_PRECISION } from "../../shared/job/precision.ts";
import type { Precision } from "../../shared/program/program.ts";
import type { MeshSizes } from "../job/job-state.ts";
import { cannotCompute } from "./precision.ts";

/** A worker as the scheduler sees it. */
export interface SchedulableWorker {
  readonly name: string;
  readonly backend: string;
  /** Workers of equal fingerprint compute equal bits. */
  readonly fingerprint: string;
  /** 0: the worker named no limit. */
  readonly memoryLimitBytes: number;
  /** What its backend takes beside a program's arena. */
  readonly workspaceBytes: number;
  /** What programs may hold their activations in. */
  readonly precisions: readonly Precision[];
}

/** What a job asks of the workers. */
export interface Demand {
  readonly mesh: MeshSpec;
  readonly allowMixedBackends: boolean;
  readonly precision: Precision;
  /**
   * Exact bytes of a rank's program at these sizes; a job may need less where no more than `memoryBytes` is there. Undefined
   * while that is being compiled.
   * @throws InvalidArgumentError when the job does not compile at them
   */
  arenaBytes(sizes: MeshSizes, memoryBytes?: number): number | undefined;
}

/** Where a job runs, or why it doesn't yet, or why it never can. */
export type Placement =
  | {
      readonly kind: "start";
      readonly sizes: MeshSizes;
      /** Of every rank; its backend's workspace comes on top. */
      readonly arenaBytes: number;
      /** Worker of every rank, in rank order. */
      readonly workers: readonly string[];
    }
  | { readonly kind: "wait"; readonly reason: string }
  /** Its plan, or that of a job before it, is being made: nothing is decided yet. */
  | { readonly kind: "planning"; readonly reason: string }
  | { readonly kind: "invalid"; readonly error: Error };

/** A job in the queue, first come first. */
export interface QueuedJob extends Demand {
  readonly jobId: string;
  /** How many later jobs were started before it although it could have used their workers. */
  readonly overtaken: number;
}

export interface Scheduled {
  readonly jobId: string;
  readonly placement: Placement;
  /** The job's new count. */
  readonly overtaken: number;
}

/** A waiting job lets this many later ones pass; then they wait for it. */
export const MAX_OVERTAKEN = 8;

const BACKEND_ORDER = ["cuda", "gpujs", "cpu", "reference"];

/**
 * One pass over the queue: what starts now, and why the rest waits.
 *
 * First come, first served, with bounded overtaking: a job that does not fit now lets smaller later ones pass, so
 * that free workers are used; but once `MAX_OVERTAKEN` jobs have passed it, nothing later starts before it. A job that
 * would not fit even if every registered worker were free holds nobody up.
 *
 * Nothing is decided past a job whose plan is being made: what starts, and in which order, does not depend on how long plans take.
 */
export function schedule(
  queue: readonly QueuedJob[],
  free: readonly SchedulableWorker[],
  registered: readonly SchedulableWorker[],
): Scheduled[] {
  const results: { jobId: string; placement: Placement; overtaken: number; couldRun: boolean }[] =
    [];
  let left = free;
  let barrier: string | undefined;
  let planned: string | undefined;
  for (const job of queue) {
    if (planned !== undefined) {
      const reason = `waits for the plan of job ${planned}, which came first`;
      results.push({
        jobId: job.jobId,
        placement: { kind: "planning", reason },
        overtaken: job.overtaken,
        couldRun: false,
      });
      continue;
    }
    if (barrier !== undefined) {
      const reason = `waits behind job ${barrier}, which came first and was overtaken ${MAX_OVERTAKEN} times`;
      results.push({
        jobId: job.jobId,
        placement: { kind: "wait", reason },
        overtaken: job.overtaken,
        couldRun: false,
      });
      continue;
    }
    const placement = place(job, left, registered);
    const alone = placement.kind === "wait" ? place(job, registered, registered) : undefined;
    const couldRun = alone?.kind === "start";
    if (placement.kind === "planning" || alone?.kind === "planning") planned = job.jobId;
    if (placement.kind === "start") {
      left = left.filter((worker) => !placement.workers.includes(worker.name));
      for (const earlier of results) if (earlier.couldRun) earlier.overtaken += 1;
    }
    results.push({ jobId: job.jobId, placement, overtaken: job.overtaken, couldRun });
    const stuck = results.find((r) => r.couldRun && r.overtaken >= MAX_OVERTAKEN);
    if (stuck !== undefined) barrier = stuck.jobId;
  }
  return results.map(({ jobId, placement, overtaken }) => ({ jobId, placement, overtaken }));
}

/** Places one job on the free workers: all of its ranks or none. Pure and deterministic. */
export function place(
  job: Demand,
  free: readonly SchedulableWorker[],
  registered: readonly SchedulableWorker[],
): Placement {
  try {
    return placeGang(job, free, registered);
  } catch (error) {
    // Whatever one job's compilation throws is that job's end, never the queue's.
    return { kind: "invalid", error: error instanceof Error ? error : new Error(String(error)) };
  }
}

function placeGang(
  job: Demand,
  free: readonly SchedulableWorker[],
  registered: readonly SchedulableWorker[],
): Placement {
  let shortOfMemory: MemoryShortage | undefined;
  const able = free.filter(({ precisions }) => precisions.includes(job.precision));
  for (const group of groupsFor(able, job)) {
    // A larger gang needs less memory per rank, so that dropping small workers may rule out others: repeat.
    let members: readonly SchedulableWorker[] = group;
    for (;;) {
      const sizes = sizesFor(job.mesh, members.length);
      if (sizes === undefined) break;
      const need = sizes.dataParallel * sizes.tensorParallel;
      const arenaBytes = job.arenaBytes(sizes, memoryOf(members, need));
      if (arenaBytes === undefined) {
        const { dataParallel, tensorParallel } = sizes;
        const mesh = `dataParallel ${dataParallel} x tensorParallel ${tensorParallel}`;
        return { kind: "planning", reason: `its plan for ${mesh} is being made` };
      }
      const fit = members.filter((worker) => fits(arenaBytes, worker));
      if (fit.length >= need) {
        return {
          kind: "start",
          sizes,
          arenaBytes,
          workers: fit.slice(0, need).map((worker) => worker.name),
        };
      }
      shortOfMemory ??= { arenaBytes, need, fit: fit.length };
      if (fit.length === members.length) break;
      members = fit;
    }
  }
  return { kind: "wait", reason: waitReason(job, free, registered, shortOfMemory) };
}

/** A rank's program at sizes that there were workers for, and how many of them hold it. */
interface MemoryShortage {
  readonly arenaBytes: number;
  readonly need: number;
  readonly fit: number;
}

/**
 * The mesh on `workers` workers: fixed sizes as they are, `auto` as large as the workers allow. Where both axes are `auto`,
 * tensorParallel takes all: it is what divides a model's memory. Undefined when there are too few.
 */
export function sizesFor(mesh: MeshSpec, workers: number): MeshSizes | undefined {
  const { dataParallel, tensorParallel } = mesh;
  const sizes: MeshSizes =
    tensorParallel === "auto"
      ? {
          dataParallel: dataParallel === "auto" ? 1 : dataParallel,
          tensorParallel: Math.floor(workers / (dataParallel === "auto" ? 1 : dataParallel)),
        }
      : {
          dataParallel:
            dataParallel === "auto" ? Math.floor(workers / tensorParallel) : dataParallel,
          tensorParallel,
        };
  const need = sizes.dataParallel * sizes.tensorParallel;
  return need >= 1 && need <= workers ? sizes : undefined;
}

/** The smallest mesh that the spec allows. */
export function leastSizes(mesh: MeshSpec): MeshSizes {
  const least = (size: AxisSize): number => (size === "auto" ? 1 : size);
  return { dataParallel: least(mesh.dataParallel), tensorParallel: least(mesh.tensorParallel) };
}

/** The largest arena that each of `ranks` of these workers holds; infinite where they name no limit. */
export function memoryOf(workers: readonly SchedulableWorker[], ranks: number): number {
  const limits = workers.map(arenaLimit);
  return limits.sort((a, b) => (a > b ? -1 : a < b ? 1 : 0))[ranks - 1] ?? 0;
}

/** What a rank of this arena takes of its worker at its peak, exactly. */
export function peakOn(arenaBytes: number, worker: SchedulableWorker): number {
  return arenaBytes + worker.workspaceBytes;
}

export function fits(arenaBytes: number, worker: SchedulableWorker): boolean {
  return arenaBytes <= arenaLimit(worker);
}

/** The largest arena that a worker holds. */
export function arenaLimit({ memoryLimitBytes, workspaceBytes }: SchedulableWorker): number {
  return memoryLimitBytes === 0 ? Number.POSITIVE_INFINITY : memoryLimitBytes - workspaceBytes;
}

/**
 * The free workers in groups that may serve one job, best first, each in natural order of names (`w2` before `w10`).
 * A fixed mesh prefers the faster backend, then the smallest group that is large enough; an `auto` mesh the largest group.
 * Where a job allows mixed backends, all workers together are the last of them, or the first of an `auto` mesh.
 */
function groupsFor(free: readonly SchedulableWorker[], job: Demand): SchedulableWorker[][] {
  const sorted = [...free].sort((a, b) => byName(a.name, b.name));
  const groups = new Map<string, SchedulableWorker[]>();
  for (const worker of sorted) {
    groups.set(worker.fingerprint, [...(groups.get(worker.fingerprint) ?? []), worker]);
  }
  const auto = job.mesh.dataParallel === "auto" || job.mesh.tensorParallel === "auto";
  const alike = [...groups.entries()]
    .sort(([keyA, a], [keyB, b]) => {
      const backend = backendOrder(a) - backendOrder(b);
      const size = auto ? b.length - a.length : a.length - b.length;
      return (auto ? size || backend : backend || size) || byName(keyA, keyB);
    })
    .map(([, members]) => members);
  if (!job.allowMixedBackends || alike.length < 2) return alike;
  return auto ? [sorted, ...alike] : [...alike, sorted];
}

function backendOrder(group: readonly SchedulableWorker[]): number {
  const index = BACKEND_ORDER.indexOf(group[0]?.backend ?? "");
  return index < 0 ? BACKEND_ORDER.length : index;
}

const collator = new Intl.Collator("en", { numeric: true });

function byName(a: string, b: string): number {
  return collator.compare(a, b) || (a < b ? -1 : a > b ? 1 : 0);
}

function waitReason(
  job: Demand,
  free: readonly SchedulableWorker[],
  registered: readonly SchedulableWorker[],
  shortOfMemory: MemoryShortage | undefined,
): string {
  const { dataParallel, tensorParallel } = leastSizes(job.mesh);
  const need = dataParallel * tensorParallel;
  const able = free.filter(({ precisions }) => precisions.includes(job.precision));
  const unable = free.filter((worker) => !able.includes(worker));
  const computing = unable.length === 0 ? "" : ` that compute in ${JOB_PRECISION[job.precision]}`;
  const besides = unable.length === 0 ? "" : `; ${cannotCompute(unable)}`;
  const needs = `needs ${count(need, "worker")}${computing}`;
  if (registered.length === 0) return `${needs}, none is registered`;
  if (able.length < need)
    return `${needs}, ${isAre(able.length)} free (${registered.length} registered)${besides}`;
  if (shortOfMemory !== undefined) {
    const { arenaBytes, need: ranks, fit } = shortOfMemory;
    const workspace = Math.max(...able.map(({ workspaceBytes }) => workspaceBytes));
    const own = workspace === 0 ? "" : ` beside up to ${formatBytes(workspace)} for their backend`;
    return (
      `needs ${count(ranks, "worker")}${computing} with ${formatBytes(arenaBytes)} of memory each${own}, ` +
      `${fit} of ${able.length} free ones ${fit === 1 ? "has" : "have"} it (${registered.length} registered)${besides}`
    );
  }
  const kinds = new Map<string, number>();
  for (const worker of able)
    kinds.set(worker.fingerprint, (kinds.get(worker.fingerprint) ?? 0) + 1);
  const list = [...kinds]
    .sort(([a], [b]) => byName(a, b))
    .map(([kind, number]) => `${number} x ${kind}`);
  return `${needs} of one kind, free are ${list.join(", ")} (${registered.length} registered); workers are of one kind when backend, build, CPU and --threads are equal; allowMixedBackends takes any${besides}`;
}

function isAre(number: number): string {
  if (number === 0) return "none is";
  return number === 1 ? "1 is" : `${number} are`;
}

function count(number: number, noun: string): string {
  return `${number} ${noun}${number === 1 ? "" : "s"}`;
}
