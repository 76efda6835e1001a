import { hostname } from "node:os";
import { setTimeout as delay } from "node:timers/promises";
import type { Logger } from "pino";
import { type DeviceError, UnavailableError } from "../shared/errors.ts";
import { serveHttp } from "../shared/http-server.ts";
import { formatHostPort, type HostPort, isLoopback, parseHostPort } from "../shared/rpc/address.ts";
import { RpcServer } from "../shared/rpc/server.ts";
import { packageVersion } from "../shared/version.ts";
import { CollectiveHub } from "./collective/collective-hub.ts";
import { collectiveService } from "./collective/collective-service.ts";
import { BACKEND_MODULE, type LoadedBackend, loadBackend } from "./compute/backend-loader.ts";
import { Deferred } from "./deferred.ts";
import { BufferGarbage, keepYoungGenerationSmall } from "./garbage.ts";
import { openGrpcRing } from "./grpc-ring.ts";
import { WorkerMetrics } from "./metrics.ts";
import { RankHost } from "./rank-host.ts";
import { SessionKeeper } from "./session.ts";
import { readShardHandler } from "./shard-reader.ts";

export interface WorkerOptions {
  /** host:port of the coordinator. */
  readonly coordinator: string;
  /** host:port to serve peers on; port 0 takes a free one. @default 127.0.0.1:0 */
  readonly listen?: string;
  /** host:port at which peers reach this worker. @default the bound address; this host's name where all interfaces are bound */
  readonly advertise?: string;
  /** host:port of /metrics. @default 127.0.0.1:0 */
  readonly http?: string;
  /** Name of the backend, or `auto`. @default auto */
  readonly backend?: string;
  /** Device of the backend. @default the backend's first */
  readonly device?: string;
  /** Unique among the live workers. @default host name, process and port */
  readonly name?: string;
  /** Threads that compute. @default the backend's: all cores */
  readonly threads?: number;
  /** Most memory that a job may take. @default the device's, or what this host has available now */
  readonly memoryLimitBytes?: number;
  readonly logger: Logger;
  /** URL of the module that exports `createBackend`. @default the project's own backends */
  readonly backendModule?: string;
  /** The backend of that choice, where it was made already. */
  readonly loaded?: LoadedBackend;
}

export interface WorkerHandle {
  /** Bound host:port of the gRPC server. */
  readonly grpcAddress: string;
  /** Bound host:port of /metrics. */
  readonly httpAddress: string;
  /**
   * Ends in order: a running rank is reported as failed and freed, the session and the servers are closed; what
   * is left after `graceMs` is cut off.
   */
  stop(graceMs: number): Promise<void>;
  /** Settles when the worker has ended; rejects when it ended by a fault, or was refused by the coordinator for good. */
  readonly done: Promise<void>;
}

/** The coordinator has this long to take what a worker says as it ends. */
const LAST_WORDS_MS = 1_000;

/**
 * Starts a worker: it serves its peers, joins the coordinator as soon as that one is there, and computes one rank
 * at a time.
 * @throws FailedPreconditionError when it cannot bind its ports; what the backend has against this machine
 */
export async function startWorker(options: WorkerOptions): Promise<WorkerHandle> {
  const { logger } = options;
  keepYoungGenerationSmall();
  parseHostPort(options.coordinator, "coordinator");
  const listen = parseHostPort(options.listen ?? "127.0.0.1:0", "listen");
  const httpAt = parseHostPort(options.http ?? "127.0.0.1:0", "http");
  if (options.advertise !== undefined) parseHostPort(options.advertise, "advertise");
  const backendModule = options.backendModule ?? BACKEND_MODULE;
  const choice = {
    backend: options.backend ?? "auto",
    device: options.device ?? "",
    threads: options.threads,
  };
  // Held for the process's life: it tells what this worker is, and keeps the native libraries loaded between jobs.
  const backend = options.loaded ?? (await loadBackend(backendModule, choice));
  const memoryLimitBytes =
    options.memoryLimitBytes ?? backend.memoryBytes ?? process.availableMemory();
  const version = packageVersion();
  const metrics = new WorkerMetrics({ version });
  const hub = new CollectiveHub();
  const ended = new Deferred<void>();
  let stopping = false;
  let deviceLost: string | undefined;

  const host = new RankHost({
    backendModule,
    // The very backend that is announced: nothing that was left open is chosen anew for a job.
    backend: { ...choice, backend: backend.name, device: backend.settledDevice ?? choice.device },
    backendName: backend.name,
    device: backend.device,
    memoryLimitBytes,
    workspaceBytes: backend.workspaceBytes,
    openRing: openGrpcRing(hub),
    metrics,
    garbage: new BufferGarbage(),
    logger,
    onFatal: (error) => giveUp(error),
    onDeviceLost: (error) => retire(error),
  });
  const server = new RpcServer({
    services: [
      {
        service: collectiveService(),
        handlers: { PullFrames: hub.pullFrames, ReadShard: readShardHandler(() => host.runner) },
      },
    ],
  });
  const bound = await server.bind(listen);
  const http = await serveHttp(httpAt, {
    registry: metrics.registry,
    problem: () => (stopping ? "stopping" : deviceLost),
  }).catch(async (error: unknown) => {
    await server.stop(0);
    throw error;
  });
  for (const { host: at } of [bound, http.address]) {
    if (!isLoopback(at)) {
      logger.warn(
        { host: at },
        "bound beyond loopback, without encryption or authentication: use a network that you trust",
      );
    }
  }

  const session = new SessionKeeper({
    coordinator: options.coordinator,
    register: {
      name: options.name ?? `${hostname()}-${process.pid}-${bound.port}`,
      address: options.advertise ?? formatHostPort(reachable(bound)),
      httpAddress: formatHostPort(reachable(http.address)),
      backend: backend.name,
      device: backend.device,
      memoryLimitBytes,
      fingerprint: backend.fingerprint,
      version,
      workspaceBytes: backend.workspaceBytes,
      precisions: [...backend.precisions],
      backendReason: backend.reason ?? "",
      ncclVersion: backend.exchange?.ncclVersion ?? "",
      deviceUuid: backend.exchange?.deviceUuid ?? "",
    },
    host,
    logger,
  });
  const serving = session.run();

  // It stays, so that whoever looks finds the reason; another backend in place of the lost one would be no answer.
  const retire = (error: DeviceError): void => {
    deviceLost = `device lost: ${error.message}`;
    server.setServing(false);
    host.retire();
    session.leave(deviceLost);
    logger.fatal(
      { device: backend.device, call: error.call, status: error.status, reason: error.message },
      "the device is lost; this worker takes no more jobs: look at the device, then restart the worker",
    );
  };

  // The process ends, and with it whatever it still holds; the coordinator is told why.
  const giveUp = (error: Error): void => {
    server.setServing(false);
    host.retire();
    session.leave(error.message);
    const told = Promise.race([serving, delay(LAST_WORDS_MS, undefined, { ref: false })]);
    void told.catch(() => undefined).then(() => ended.reject(error));
  };

  let stopped: Promise<void> | undefined;
  const stop = (graceMs: number): Promise<void> => {
    stopped ??= (async () => {
      stopping = true;
      server.setServing(false);
      session.announceLeave();
      // A kernel under way may last longer than the grace; the system then frees what it holds.
      await Promise.race([
        host.close(new UnavailableError("the worker is shutting down")),
        delay(graceMs / 2, undefined, { ref: false }),
      ]);
      session.stop();
      await serving.catch(() => undefined);
      hub.close();
      await Promise.all([server.stop(graceMs / 4), http.close()]);
      metrics.close();
      ended.resolve();
    })();
    return stopped;
  };
  serving.catch((error: unknown) => {
    // Whatever ended it, nothing may be left behind; the first cause is the one that `done` tells.
    ended.reject(error);
    return stop(0);
  });
  logger.info(
    {
      backend: backend.name,
      device: backend.device,
      reason: backend.reason,
      nccl: backend.exchange?.ncclVersion,
      memoryLimitBytes,
      grpc: formatHostPort(bound),
      http: formatHostPort(http.address),
    },
    "worker listens",
  );
  return {
    grpcAddress: formatHostPort(bound),
    httpAddress: formatHostPort(http.address),
    stop,
    done: ended.promise,
  };
}

/** The bound address as others can use it: one that stands for all interfaces is no address to dial. */
function reachable({ host, port }: HostPort): HostPort {
  return host === "0.0.0.0" || host === "::" ? { host: hostname(), port } : { host, port };
}
