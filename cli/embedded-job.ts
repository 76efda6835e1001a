import { setTimeout as delay } from "node:timers/promises";
import type { RankmeshClient } from "../client/client.ts";
import type { JobHandle } from "../client/job-handle.ts";
import { isTerminal, type Job } from "../client/job-types.ts";
import { RankmeshError } from "../shared/errors.ts";
import type { JobSpecInput } from "../shared/job/job-spec.ts";
import { followJob } from "./follow-job.ts";
import { plural, printable } from "./format.ts";
import { type LocalCoordinator, type LocalWorkers, startLocalWorkers } from "./local-cluster.ts";
import type { LocalRank } from "./local-machine.ts";
import { threadsPerRank } from "./machine.ts";
import { Progress, type ProgressStream } from "./progress.ts";

export interface EmbeddedJobOptions {
  /** Has no workers but this job's. */
  readonly coordinator: LocalCoordinator;
  readonly spec: JobSpecInput;
  /** Ranks of the job's mesh: one worker process each. */
  readonly ranks: readonly LocalRank[];
  readonly steps: number;
  /** Put before each progress line. */
  readonly title: string;
  /** Whether to say which backend `auto` took, and why. @default true */
  readonly sayBackend?: boolean;
  readonly verbose: boolean;
  readonly stderr: ProgressStream;
  readonly signal: AbortSignal;
  /** Brings the running job to its end. @default followJob */
  readonly follow?: (handle: JobHandle, progress: Progress) => Promise<Job>;
}

/** The coordinator sees a lost worker by itself and says what it means; only when it does not, we do. */
const LOSS_GRACE_MS = 10_000;
/** A cancelled job ends within two steps; one whose steps take longer than this is cut off with its processes. */
const CANCEL_TIMEOUT_MS = 10_000;

/**
 * Runs one job on workers of its own, which are gone when this returns or throws.
 * An abort of `signal` cancels the job; it is then returned as CANCELLED.
 *
 * @returns the ended job
 */
export async function runEmbeddedJob(options: EmbeddedJobOptions): Promise<Job> {
  const { coordinator, stderr: stream, title, steps, ranks, verbose, signal } = options;
  const { client } = coordinator;
  const progress = new Progress({ stream, title, steps }).start();
  progress.status(`starting ${plural(ranks.length, "worker")}`);
  const threads = threadsPerRank(ranks.length);
  const starting = startLocalWorkers(coordinator, { ranks, threads, verbose, signal });
  const workers = await starting.catch((error: unknown) => {
    progress.end();
    throw error;
  });
  try {
    if (options.sayBackend ?? true) {
      for (const line of await chosenBackends(client, signal)) progress.note(line);
    }
    // All workers that there will ever be are here: what cannot start now never will.
    const handle = await client.submit(options.spec, { signal, queue: false });
    try {
      const ended = options.follow?.(handle, progress) ?? followJob(handle, progress, signal);
      return await Promise.race([ended, lossUnnoticed(workers)]);
    } catch (error) {
      if (!signal.aborted) throw error;
      return await cancelAndWait(handle);
    }
  } finally {
    progress.end();
    await workers.stop();
  }
}

/** What `auto` took, and why. */
async function chosenBackends(client: RankmeshClient, signal: AbortSignal): Promise<string[]> {
  const workers = await client.workers({ signal });
  const lines = workers.flatMap(({ backend, backendReason }) =>
    backendReason.startsWith("auto: ")
      ? [`backend ${backend}, ${printable(backendReason.replace("auto: ", ""))}`]
      : [],
  );
  return [...new Set(lines)];
}

async function lossUnnoticed(workers: LocalWorkers): Promise<never> {
  try {
    return await workers.lost;
  } catch (error) {
    await delay(LOSS_GRACE_MS, undefined, { ref: false });
    throw error;
  }
}

async function cancelAndWait(handle: JobHandle): Promise<Job> {
  const signal = AbortSignal.timeout(CANCEL_TIMEOUT_MS);
  let job = await handle.cancel({ signal });
  try {
    for await (const _ of handle.events({ signal })) {
      // Only the end matters here.
    }
    job = await handle.get();
  } catch (error) {
    // The processes are ended all the same; the job is what it was last known to be.
    if (!signal.aborted && !(error instanceof RankmeshError)) throw error;
  }
  return isTerminal(job.state) ? job : { ...job, state: "CANCELLED" };
}
