import { stat } from "node:fs/promises";
import type { Logger } from "pino";
import { InvalidArgumentError } from "../shared/errors.ts";
import { type HttpEndpoint, serveHttp } from "../shared/http-server.ts";
import { formatHostPort, type HostPort, isLoopback, parseHostPort } from "../shared/rpc/address.ts";
import { services } from "../shared/rpc/proto.ts";
import { RpcServer } from "../shared/rpc/server.ts";
import { packageVersion } from "../shared/version.ts";
import { systemClock } from "./clock.ts";
import { anyPath, insideRoot, noPaths, type PathPolicy } from "./data/paths.ts";
import { Engine } from "./engine.ts";
import { serviceDiscoveryRoute } from "./http/service-discovery.ts";
import { Snapshots } from "./http/snapshots.ts";
import { pageUrl, type StatusPage, statusPage } from "./http/status-page.ts";
import { LocalJobFiles } from "./job/local-job-files.ts";
import { type CoordinatorLimits, DEFAULT_LIMITS } from "./limits.ts";
import { CoordinatorMetrics } from "./metrics.ts";
import type { Planning } from "./planner.ts";
import { ThreadedPlanning } from "./planning/threaded-planning.ts";
import { rankService } from "./rank-service.ts";
import { StreamedBatches } from "./streamed-batches.ts";
import { trainingService } from "./training-service.ts";

/** Which files jobs may name. */
export type FilesPolicy =
  /** None. */
  | { readonly kind: "none" }
  /** Those inside `dir`; relative paths are relative to it. */
  | { readonly kind: "root"; readonly dir: string }
  /** Any that this process may use; relative paths are relative to `baseDir`. For a user's own process. */
  | { readonly kind: "any"; readonly baseDir: string };

export interface CoordinatorOptions {
  /** host:port of the gRPC server; port 0 takes a free one. */
  readonly listen: string;
  /** host:port of `/metrics` and the status page. */
  readonly http: string;
  /** Names under which browsers may ask for the status page, beside addresses, localhost and this machine's own. @default [] */
  readonly httpHosts?: readonly string[];
  readonly files: FilesPolicy;
  readonly logger: Logger;
  /** Where jobs are compiled; closed with the coordinator. @default ThreadedPlanning */
  readonly planning?: Planning;
  /** Instead of DEFAULT_LIMITS. */
  readonly limits?: Partial<CoordinatorLimits>;
}

export interface CoordinatorHandle {
  /** Bound host:port of the gRPC server. */
  readonly grpcAddress: string;
  /** Bound host:port of /metrics and the status page. */
  readonly httpAddress: string;
  /** Of the status page, for a browser on this machine. */
  readonly pageUrl: string;
  /** Cancels all jobs and ends all sessions in order, within `graceMs`; then cuts off what is left. */
  stop(graceMs: number): Promise<void>;
  /** Settles when the coordinator has ended. */
  readonly done: Promise<void>;
}

/**
 * Starts a coordinator in this process.
 * @throws FailedPreconditionError when a port is taken; InvalidArgumentError for an address or a data root that is none
 */
export async function startCoordinator(options: CoordinatorOptions): Promise<CoordinatorHandle> {
  const { logger } = options;
  const limits = { ...DEFAULT_LIMITS, ...options.limits };
  const grpc = parseHostPort(options.listen, "listen");
  const http = parseHostPort(options.http, "http");
  if (options.files.kind === "root") await requireFolder(options.files.dir);
  const version = packageVersion();
  const streams = new StreamedBatches();
  const files = new LocalJobFiles(pathPolicy(options.files), streams);
  const metrics = new CoordinatorMetrics({ version, keepMs: limits.metricsMs });
  const clock = systemClock;
  const planning = options.planning ?? new ThreadedPlanning({ limits, logger });
  const engine = new Engine({ planning, files, clock, limits, logger, observer: metrics });
  metrics.observe(engine.jobs, engine.workers, () => clock().monotonicMs);
  const { training, rank } = services();
  const server = new RpcServer({
    services: [
      {
        service: training,
        handlers: trainingService({
          engine,
          planning,
          files,
          streams,
          clock,
          cancelWaitMs: limits.releaseMs + 1_000,
        }),
      },
      {
        service: rank,
        handlers: rankService({ engine, heartbeatMs: limits.heartbeatMs, version, logger }),
      },
    ],
  });
  let stopping = false;
  const snapshots = new Snapshots({ engine, clock, version });
  let page: StatusPage | undefined;
  let httpServer: HttpEndpoint | undefined;
  const closeAll = async (graceMs: number): Promise<void> => {
    stopping = true;
    server.setServing(false);
    // Jobs are cancelled first: that their plans end then is no failure of theirs.
    const jobsEnded = engine.stop(graceMs);
    await planning.close();
    await jobsEnded;
    await server.stop(Math.min(graceMs, 500));
    page?.close();
    await httpServer?.close();
    metrics.close();
  };
  let bound: HostPort;
  try {
    page = statusPage({
      snapshots,
      hostNames: [http.host, ...(options.httpHosts ?? [])],
      logger,
    });
    httpServer = await serveHttp(http, {
      registry: metrics.registry,
      problem: () => (stopping ? "stopping" : undefined),
      routes: [
        serviceDiscoveryRoute({
          workers: (nowMs) => engine.workers.list(nowMs),
          nowMs: () => clock().monotonicMs,
          keepMs: limits.discoveryMs,
        }),
        page.route,
      ],
    });
    bound = await server.bind(grpc);
  } catch (error) {
    await closeAll(0);
    throw error;
  }
  for (const { host } of [bound, httpServer.address]) {
    if (isLoopback(host)) continue;
    logger.warn(
      { host },
      "listening beyond loopback without TLS or tokens: whoever reaches this port can run jobs",
    );
  }
  const grpcAddress = formatHostPort(bound);
  const httpAddress = formatHostPort(httpServer.address);
  snapshots.grpcAddress = grpcAddress;
  const url = pageUrl(httpServer.address);
  logger.info(
    { grpc: grpcAddress, http: httpAddress, page: url, version, files: options.files, limits },
    `coordinator is up; its status page is ${url}`,
  );
  let finished: () => void = () => undefined;
  const done = new Promise<void>((resolve) => {
    finished = resolve;
  });
  let stopped: Promise<void> | undefined;
  return {
    grpcAddress,
    httpAddress,
    pageUrl: url,
    stop(graceMs) {
      stopped ??= closeAll(graceMs).finally(finished);
      return stopped;
    },
    done,
  };
}

function pathPolicy(files: FilesPolicy): PathPolicy {
  switch (files.kind) {
    case "none":
      return noPaths();
    case "root":
      return insideRoot(files.dir);
    case "any":
      return anyPath(files.baseDir);
  }
}

async function requireFolder(dir: string): Promise<void> {
  const found = await stat(dir).catch(() => undefined);
  if (found?.isDirectory()) return;
  const what = found === undefined ? "does not exist" : "is no folder";
  throw new InvalidArgumentError(`data root ${dir} ${what}; name the folder that jobs may use`);
}
