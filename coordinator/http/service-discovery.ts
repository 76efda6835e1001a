import type { HttpRoute } from "../../shared/http-server.ts";
import type { WorkerView } from "../gang/worker-registry.ts";

/** One entry of Prometheus' HTTP service discovery. Labels that start with `__meta_` are for relabelling only. */
export interface TargetGroup {
  /** host:port of `/metrics`. */
  readonly targets: readonly string[];
  readonly labels: Readonly<Record<string, string>>;
}

interface Listed {
  readonly group: TargetGroup;
  readonly worker: string;
  /** When an answer last found it live. */
  liveMs: number;
}

/**
 * Which workers Prometheus scrapes. A worker that was lost or has left stays in the answers for `keepMs` after the last
 * one that found it live: its final values are collected, and that it no longer answers is seen. One that no answer has
 * listed was never scraped, so what earlier answers said is all there is to remember. Pure: times are passed in.
 */
export class ServiceDiscovery {
  readonly #keepMs: number;
  /** By target. */
  readonly #listed = new Map<string, Listed>();

  constructor(options: { readonly keepMs: number }) {
    this.#keepMs = options.keepMs;
  }

  /** All targets at `nowMs`, by worker. Workers without an HTTP address are none. */
  targets(workers: readonly WorkerView[], nowMs: number): TargetGroup[] {
    const live = workers.filter((worker) => worker.state !== "lost" && worker.httpAddress !== "");
    const names = new Set(live.map((worker) => worker.name));
    for (const [target, listed] of this.#listed) {
      // A worker that is back elsewhere has left its old address for good.
      if (nowMs - listed.liveMs > this.#keepMs || names.has(listed.worker))
        this.#listed.delete(target);
    }
    for (const worker of live) {
      const group = { targets: [worker.httpAddress], labels: labelsOf(worker) };
      this.#listed.set(worker.httpAddress, { group, worker: worker.name, liveMs: nowMs });
    }
    return [...this.#listed.values()]
      .sort((a, b) => (a.worker < b.worker ? -1 : 1))
      .map(({ group }) => group);
  }
}

/** Serves the targets at `/sd/workers`, as `http_sd_configs` wants them: always the whole list. */
export function serviceDiscoveryRoute(from: {
  readonly workers: (nowMs: number) => readonly WorkerView[];
  readonly nowMs: () => number;
  /** A worker that is no longer live is listed for this long. */
  readonly keepMs: number;
}): HttpRoute {
  const discovery = new ServiceDiscovery(from);
  const serves = "/sd/workers";
  return {
    serves,
    answer(path, request, response) {
      if (path !== serves) return false;
      const nowMs = from.nowMs();
      const body = JSON.stringify(discovery.targets(from.workers(nowMs), nowMs));
      response.writeHead(200, { "content-type": "application/json" });
      response.end(request.method === "HEAD" ? undefined : body);
      return true;
    },
  };
}

function labelsOf({ name, assignment, backend, device }: WorkerView): Record<string, string> {
  return {
    worker: name,
    __meta_rankmesh_job_id: assignment?.jobId ?? "",
    __meta_rankmesh_rank: assignment === undefined ? "" : String(assignment.rank),
    __meta_rankmesh_backend: backend,
    __meta_rankmesh_device: device,
  };
}
