import { setTimeout as delay } from "node:timers/promises";
import { RankmeshClient } from "../client/client.ts";
import { startCoordinator } from "../coordinator/coordinator-daemon.ts";
import type { Planner } from "../coordinator/planner.ts";
import { inProcess } from "../coordinator/planning/in-process.ts";
import { FailedPreconditionError } from "../shared/errors.ts";
import { daemonLogger } from "./daemon.ts";
import { plural } from "./format.ts";
import type { LocalRank } from "./local-machine.ts";
import { WorkerProcess, workerExitError } from "./worker-process.ts";

export interface LocalCoordinatorOptions {
  /** Folder that jobs' paths are relative to. */
  readonly folder: string;
  /** host:port of the status page and /metrics. @default a free port of loopback */
  readonly http?: string;
  /** Passes the coordinator's log on to stderr. */
  readonly verbose: boolean;
  /** What compiles jobs, in this thread. @default planJob, in a thread of its own for large models */
  readonly planner?: Planner | undefined;
}

/** A coordinator in this process. */
export interface LocalCoordinator {
  readonly client: RankmeshClient;
  readonly grpcAddress: string;
  /** Of its status page. */
  readonly pageUrl: string;
  stop(): Promise<void>;
}

export interface LocalWorkersOptions {
  /** One worker process each. */
  readonly ranks: readonly LocalRank[];
  /** Threads of each rank. */
  readonly threads: number;
  /** Passes the workers' logs on to stderr. */
  readonly verbose: boolean;
  readonly signal: AbortSignal;
}

export interface LocalWorkers {
  /** Rejects when a worker process ends on its own. Never fulfilled. */
  readonly lost: Promise<never>;
  /** Ends them all; leaves no process. */
  stop(): Promise<void>;
}

/** Time for the workers to load their backend and register. */
const START_TIMEOUT_MS = 60_000;
const STOP_GRACE_MS = 5000;

/** Starts a coordinator in this process, on a free port of loopback. */
export async function startLocalCoordinator(
  options: LocalCoordinatorOptions,
): Promise<LocalCoordinator> {
  const coordinator = await startCoordinator({
    listen: "127.0.0.1:0",
    http: options.http ?? "127.0.0.1:0",
    files: { kind: "any", baseDir: options.folder },
    logger: daemonLogger("coordinator", options.verbose ? "info" : "silent"),
    ...(options.planner === undefined ? {} : { planning: inProcess(options.planner) }),
  });
  const { grpcAddress, pageUrl } = coordinator;
  const client = new RankmeshClient({ address: grpcAddress });
  return {
    client,
    grpcAddress,
    pageUrl,
    async stop() {
      client.close();
      await coordinator.stop(STOP_GRACE_MS);
    },
  };
}

/**
 * Starts one worker process a rank, named worker-0, worker-1, ... They are all that the coordinator has: those that it had
 * before are gone first.
 *
 * @throws FailedPreconditionError when a worker ends or does not register in time; with its last log lines
 */
export async function startLocalWorkers(
  { client, grpcAddress }: LocalCoordinator,
  options: LocalWorkersOptions,
): Promise<LocalWorkers> {
  const { signal } = options;
  await untilWorkers(client, signal, {
    holds: (count) => count === 0,
    otherwise: (count) => `${plural(count, "worker")} of the run before did not leave`,
  });
  const workers = options.ranks.map(
    ({ backend, device, memoryLimitBytes }, index) =>
      new WorkerProcess({
        coordinator: grpcAddress,
        name: `worker-${index}`,
        backend,
        device,
        threads: options.threads,
        memoryLimitBytes,
        ...(options.verbose ? { onLog: (line: string) => process.stderr.write(`${line}\n`) } : {}),
      }),
  );
  let stopping = false;
  const lost = new Promise<never>((_, reject) => {
    for (const worker of workers) {
      void worker.exited.then((exit) => {
        if (!stopping) reject(workerExitError(exit));
      });
    }
  });
  lost.catch(() => {}); // Told to whoever races with it; a loss after the last race is of no interest.
  const stop = async () => {
    stopping = true;
    await Promise.all(workers.map((worker) => worker.stop(STOP_GRACE_MS)));
  };
  const wanted = options.ranks.length;
  const registered = untilWorkers(client, signal, {
    holds: (count) => count >= wanted,
    otherwise: (count) =>
      `${count} of ${plural(wanted, "worker")} registered within ${START_TIMEOUT_MS} ms; run with --verbose to see their logs`,
  });
  try {
    await Promise.race([registered, lost]);
  } catch (error) {
    await stop();
    throw error;
  }
  return { lost, stop };
}

/** @throws FailedPreconditionError when the number of workers that are there does not hold in time */
async function untilWorkers(
  client: RankmeshClient,
  signal: AbortSignal,
  { holds, otherwise }: { holds(count: number): boolean; otherwise(count: number): string },
): Promise<void> {
  const deadline = performance.now() + START_TIMEOUT_MS;
  for (;;) {
    const workers = await client.workers({ signal });
    const count = workers.filter(({ state }) => state !== "lost").length;
    if (holds(count)) return;
    if (performance.now() > deadline) throw new FailedPreconditionError(otherwise(count));
    await delay(20, undefined, { signal }).catch(() => signal.throwIfAborted());
  }
}
