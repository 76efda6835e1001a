import { expect } from "chai";
import { Registry } from "prom-client";
import type {
  Assignment,
  WorkerState,
  WorkerView,
} from "../../../coordinator/gang/worker-registry.ts";
import {
  ServiceDiscovery,
  serviceDiscoveryRoute,
} from "../../../coordinator/http/service-discovery.ts";
import { DEFAULT_LIMITS } from "../../../coordinator/limits.ts";
import { serveHttp } from "../../../shared/http-server.ts";
import { formatHostPort } from "../../../shared/rpc/address.ts";

const RANK_1: Assignment = { jobId: "j1", generation: 1, rank: 1 };

function worker(
  name: string,
  httpAddress: string,
  more: { state?: WorkerState; assignment?: Assignment } = {},
): WorkerView {
  return {
    name,
    address: "h:1",
    httpAddress,
    backend: "cpu",
    device: "OpenBLAS",
    memoryLimitBytes: 1,
    workspaceBytes: 0,
    precisions: ["float32"],
    backendReason: "",
    fingerprint: "",
    version: "0.1.0",
    lostReason: undefined,
    heartbeatAgeMs: 0,
    state: "idle",
    assignment: undefined,
    ...more,
  };
}

describe("service discovery of workers", () => {
  const addresses = (discovery: ServiceDiscovery, workers: WorkerView[], nowMs: number) =>
    discovery.targets(workers, nowMs).flatMap(({ targets }) => targets);

  it("lists every worker by name, with job, rank, backend and device for relabelling", () => {
    const discovery = new ServiceDiscovery({ keepMs: 30_000 });
    const workers = [worker("b", "h:2", { state: "busy", assignment: RANK_1 }), worker("a", "h:3")];
    expect(discovery.targets(workers, 0)).to.deep.equal([
      {
        targets: ["h:3"],
        labels: {
          worker: "a",
          __meta_rankmesh_job_id: "",
          __meta_rankmesh_rank: "",
          __meta_rankmesh_backend: "cpu",
          __meta_rankmesh_device: "OpenBLAS",
        },
      },
      {
        targets: ["h:2"],
        labels: {
          worker: "b",
          __meta_rankmesh_job_id: "j1",
          __meta_rankmesh_rank: "1",
          __meta_rankmesh_backend: "cpu",
          __meta_rankmesh_device: "OpenBLAS",
        },
      },
    ]);
  });

  it("leaves out workers without an HTTP address", () => {
    const discovery = new ServiceDiscovery({ keepMs: 30_000 });
    expect(discovery.targets([worker("a", "")], 0)).to.deep.equal([]);
  });

  for (const [how, after] of [
    ["was lost", [worker("a", "h:1", { state: "lost" })]],
    ["has left", []],
  ] as const) {
    it(`keeps a worker that ${how} for 30 s, as the rank that it was, and drops it then`, () => {
      const discovery = new ServiceDiscovery({ keepMs: 30_000 });
      const [before] = discovery.targets(
        [worker("a", "h:1", { state: "busy", assignment: RANK_1 })],
        1_000,
      );
      expect(discovery.targets([...after], 31_000)).to.deep.equal([before]);
      expect(discovery.targets([...after], 31_001)).to.deep.equal([]);
    });
  }

  it("does not bring in a worker that was lost before anyone asked", () => {
    const discovery = new ServiceDiscovery({ keepMs: 30_000 });
    expect(discovery.targets([worker("a", "h:1", { state: "lost" })], 0)).to.deep.equal([]);
  });

  it("drops the old address of a worker that is back elsewhere at once", () => {
    const discovery = new ServiceDiscovery({ keepMs: 30_000 });
    discovery.targets([worker("a", "h:1")], 0);
    expect(addresses(discovery, [worker("a", "h:2")], 10)).to.deep.equal(["h:2"]);
  });

  it("lists an address once when another worker has taken it", () => {
    const discovery = new ServiceDiscovery({ keepMs: 30_000 });
    discovery.targets([worker("a", "h:1")], 0);
    const taken = discovery.targets([worker("b", "h:1")], 10);
    expect(taken.map(({ labels }) => labels["worker"])).to.deep.equal(["b"]);
  });

  it("keeps them for two scrapes at the usual 15 s by default", () => {
    expect(DEFAULT_LIMITS.discoveryMs).to.equal(30_000);
  });

  it("answers /sd/workers as JSON, with an empty list where there is no worker, and nothing else", async () => {
    const workers: WorkerView[] = [];
    const route = serviceDiscoveryRoute({ workers: () => workers, nowMs: () => 0, keepMs: 0 });
    const server = await serveHttp(
      { host: "127.0.0.1", port: 0 },
      { registry: new Registry(), problem: () => undefined, routes: [route] },
    );
    try {
      const url = `http://${formatHostPort(server.address)}`;
      const empty = await fetch(`${url}/sd/workers`);
      expect(empty.status).to.equal(200);
      expect(empty.headers.get("content-type")).to.equal("application/json");
      expect(await empty.json()).to.deep.equal([]);
      workers.push(worker("a", "h:1"));
      const one = (await (await fetch(`${url}/sd/workers`)).json()) as { targets: string[] }[];
      expect(one.map(({ targets }) => targets)).to.deep.equal([["h:1"]]);
      expect(await (await fetch(`${url}/sd/workers`, { method: "HEAD" })).text()).to.equal("");
      expect((await fetch(`${url}/sd`)).status).to.equal(404);
    } finally {
      await server.close();
    }
  });
});
