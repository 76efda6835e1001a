import { setTimeout as delay } from "node:timers/promises";
import { RankmeshClient } from "../client/client.ts";
import { startCoordinator } from "../coordinator/coordinator-daemon.ts";
import type { Planner } from "../coordinator/planner.ts";
import { FailedPreconditionError } from "../shared/errors.ts";
import { daemonLogger } from "./daemon.ts";
import { plural } from "./format.ts";
import type { LocalRank } from "./local-machine.ts";
import { WorkerProcess, workerExitError } from "./worker-process.ts";

export interface LocalClusterOptions {
  /** One worker process each. */
  readonly ranks: readonly LocalRank[];
  /** Threads of each rank. */
  readonly threads: number;
  /** Folder that the job's paths are relative to. */
  readonly folder: string;
  /** Passes the daemons' logs on to stderr. */
  readonly verbose: boolean;
  /** What compiles jobs. @default planJob */
  readonly planner?: Planner | undefined;
  readonly signal: AbortSignal;
}

export interface LocalCluster {
  readonly client: RankmeshClient;
  /** Rejects when a worker process ends on its own. Never fulfilled. */
  readonly workerLost: Promise<never>;
  /** Ends all of it; leaves no process. */
  stop(): Promise<void>;
}

/** Time for the workers to load their backend and register. */
const START_TIMEOUT_MS = 60_000;
const STOP_GRACE_MS = 5000;

/**
 * A coordinator in this process and one worker process a rank, on free ports of loopback.
 *
 * @throws FailedPreconditionError when a worker ends or does not register in time; with its last log lines
 */
export async function startLocalCluster(options: LocalClusterOptions): Promise<LocalCluster> {
  const coordinator = await startCoordinator({
    listen: "127.0.0.1:0",
    http: "127.0.0.1:0",
    files: { kind: "any", baseDir: options.folder },
    logger: daemonLogger("coordinator", options.verbose ? "info" : "silent"),
    ...(options.planner === undefined ? {} : { planner: options.planner }),
  });
  const workers = options.ranks.map(
    ({ backend, device, memoryLimitBytes }, index) =>
      new WorkerProcess({
        coordinator: coordinator.grpcAddress,
        name: `worker-${index}`,
        backend,
        device,
        threads: options.threads,
        memoryLimitBytes,
        ...(options.verbose ? { onLog: (line: string) => process.stderr.write(`${line}\n`) } : {}),
      }),
  );
  const client = new RankmeshClient({ address: coordinator.grpcAddress });
  let stopping = false;
  const workerLost = new Promise<never>((_, reject) => {
    for (const worker of workers) {
      void worker.exited.then((exit) => {
        if (!stopping) reject(workerExitError(exit));
      });
    }
  });
  workerLost.catch(() => {}); // Told to whoever races with it; a loss after the last race is of no interest.
  const stop = async () => {
    stopping = true;
    client.close();
    await Promise.all(workers.map((worker) => worker.stop(STOP_GRACE_MS)));
    await coordinator.stop(STOP_GRACE_MS);
  };
  try {
    await Promise.race([workersRegistered(client, options), workerLost]);
  } catch (error) {
    await stop();
    throw error;
  }
  return { client, workerLost, stop };
}

async function workersRegistered(
  client: RankmeshClient,
  options: LocalClusterOptions,
): Promise<void> {
  const { ranks, signal } = options;
  const deadline = performance.now() + START_TIMEOUT_MS;
  for (;;) {
    const registered = (await client.workers({ signal })).length;
    if (registered >= ranks.length) return;
    if (performance.now() > deadline) {
      throw new FailedPreconditionError(
        `${registered} of ${plural(ranks.length, "worker")} registered within ${START_TIMEOUT_MS} ms; run with --verbose to see their logs`,
      );
    }
    await delay(20, undefined, { signal }).catch(() => signal.throwIfAborted());
  }
}
