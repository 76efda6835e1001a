import { request as httpRequest, type IncomingHttpHeaders } from "node:http";
import { connect } from "node:net";
import { expect } from "chai";
import type {
  HistoryView,
  JobDetails,
  JobLine,
  OverviewView,
  PlanView,
  StatusView,
  WorkerLine,
} from "../../coordinator/page/api.ts";
import { poll } from "../support/cli.ts";
import { CoordinatorHarness, smallJob } from "../support/coordinator-harness.ts";

interface Reply {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly text: string;
}

interface StreamEvent {
  readonly id: string | undefined;
  readonly event: string | undefined;
  readonly data: unknown;
}

describe("coordinator: status page and its API", function () {
  this.timeout(30_000);
  let coordinator: CoordinatorHarness;
  beforeEach(async () => {
    coordinator = await CoordinatorHarness.start({ httpHosts: ["train.example.org"] });
  });
  afterEach(() => coordinator.stop());

  /** As it stands: no client of ours sets or checks the path or Host. */
  async function ask(
    path: string,
    options: { readonly method?: string; readonly headers?: Record<string, string> } = {},
  ): Promise<Reply> {
    const [host = "", port = ""] = coordinator.handle.httpAddress.split(":");
    return await new Promise((resolve, reject) => {
      const request = httpRequest(
        { host, port: Number(port), path, agent: false, ...options },
        (response) => {
          let text = "";
          response.setEncoding("utf8").on("data", (part: string) => {
            text += part;
          });
          response.on("end", () =>
            resolve({ status: response.statusCode ?? 0, headers: response.headers, text }),
          );
        },
      );
      request.on("error", reject);
      request.end();
    });
  }

  async function json<T>(path: string): Promise<T> {
    const { status, text } = await ask(path);
    expect(status, text).to.equal(200);
    return JSON.parse(text) as T;
  }

  /** Reads events until `enough`, then leaves. */
  async function stream(
    path: string,
    enough: (events: readonly StreamEvent[]) => boolean,
    headers: Record<string, string> = {},
  ): Promise<StreamEvent[]> {
    const leaving = new AbortController();
    const url = `http://${coordinator.handle.httpAddress}${path}`;
    const response = await fetch(url, { headers, signal: leaving.signal });
    expect(response.status).to.equal(200);
    let text = "";
    let events: StreamEvent[] = [];
    for await (const part of response.body ?? []) {
      text += Buffer.from(part as Uint8Array).toString("utf8");
      events = text.split("\n\n").slice(0, -1).flatMap(parseEvent);
      if (enough(events)) break;
    }
    leaving.abort();
    return events;
  }

  it("serves a page that runs its own files and nothing else", async () => {
    const { status, headers, text } = await ask("/");
    expect(status).to.equal(200);
    expect(headers["content-type"]).to.equal("text/html; charset=utf-8");
    expect(headers["x-content-type-options"]).to.equal("nosniff");
    expect(headers).not.to.have.property("access-control-allow-origin");
    const policy = headers["content-security-policy"];
    expect(policy).to.contain("default-src 'none'; script-src 'self'");
    expect(policy).to.contain("frame-ancestors 'none'");
    expect(policy).not.to.contain("unsafe");
    const files = [...text.matchAll(/(?:src|href)="([^"#]+)"/g)].map((match) => match[1] ?? "");
    expect(files).to.have.length.above(3);
    for (const file of files) {
      expect(file).to.match(/^\/assets\//);
      const asset = await ask(file);
      expect(asset.status, file).to.equal(200);
      expect(asset.headers["x-content-type-options"]).to.equal("nosniff");
      const etag = asset.headers.etag ?? "";
      const again = await ask(file, { headers: { "if-none-match": etag } });
      expect([again.status, again.text]).to.deep.equal([304, ""]);
    }
    for (const [accepted, encoding] of [
      ["br, gzip", "gzip"],
      ["GZIP;q=0.5", "gzip"],
      ["gzip;q=0, br", undefined],
      ["br, gzip; q=0.0", undefined],
      ["identity", undefined],
    ] as const) {
      const reply = await ask("/", { headers: { "accept-encoding": accepted } });
      expect(reply.headers["content-encoding"], accepted).to.equal(encoding);
    }
  });

  it("answers only to hosts that it knows, except for metrics, health and discovery", async () => {
    const from = (host: string, path: string) => ask(path, { headers: { host } });
    for (const path of ["/", "/assets/main.js", "/api/v1/status", "/api/v1/events"]) {
      const refused = await from("evil.example:8080", path);
      expect(refused.status, path).to.equal(403);
      expect(refused.text).to.contain("--http-host NAME");
      expect(refused.text).to.contain("evil.example:8080");
    }
    expect((await from("train.example.org:8080", "/")).status).to.equal(200);
    expect((await from("localhost", "/api/v1/status")).status).to.equal(200);
    for (const path of ["/metrics", "/healthz", "/sd/workers"])
      expect((await from("coordinator:8080", path)).status, path).to.equal(200);
  });

  it("tells of workers, jobs, ranks and plan as JSON", async () => {
    await coordinator.joinMany(2);
    const { jobId } = await coordinator.submit(
      smallJob(1, 2, { eval: { every: 3, data: { random: { length: 4, seed: 2 } } } }),
    );
    await coordinator.finished(jobId);
    const status = await json<StatusView>("/api/v1/status");
    expect(status).to.deep.include({ workers: 2, idleWorkers: 2 });
    expect(status.jobsByState).to.include({ SUCCEEDED: 1, FAILED: 0 });
    const { workers } = await json<{ workers: WorkerLine[] }>("/api/v1/workers");
    expect(workers.map(({ name, state }) => [name, state])).to.deep.equal([
      ["w0", "idle"],
      ["w1", "idle"],
    ]);
    const { jobs } = await json<{ jobs: JobLine[] }>("/api/v1/jobs");
    expect(jobs.map((job) => job.jobId)).to.deep.equal([jobId]);
    const { job, ranks, history } = await json<JobDetails>(`/api/v1/jobs/${jobId}`);
    expect(job).to.deep.include({
      state: "SUCCEEDED",
      stepsDone: 3,
      mesh: { dataParallel: 1, tensorParallel: 2 },
      samplesPerSecond: 16,
    });
    expect(job.evaluation?.step).to.equal(3);
    expect(ranks).to.have.length(2);
    expect(ranks[1]).to.deep.include({
      rank: 1,
      tensorParallel: 1,
      worker: "w1",
      state: "done",
      peakBytes: 1001,
      limitBytes: 2 ** 30,
      rssBytes: 5000,
    });
    expect(history.points.last).to.deep.equal([1, 2, 3]);
    expect(history.points.loss).to.deep.equal([1, 1 / 2, 1 / 3]);
    expect(history.notes.map(({ state }) => state)).to.deep.equal([
      "QUEUED",
      "STARTING",
      "RUNNING",
      "SUCCEEDED",
    ]);
    const plan = await json<PlanView>(`/api/v1/jobs/${jobId}/plan`);
    expect(plan.mesh).to.deep.equal({ dataParallel: 1, tensorParallel: 2 });
    expect(plan.collectives).to.have.length(1);
    expect(plan.collectives[0]).to.deep.include({ op: "allReduce", axes: ["tensorParallel"] });
    expect(plan.shards.map(({ name, localShape }) => [name, localShape])).to.deep.equal([
      ["w1.weight", [4, 6]],
      ["w2.weight", [6, 4]],
      ["w3.weight", [4, 6]],
    ]);
    const kinds = Object.values(plan.memoryByKind).reduce((a, b) => a + b, 0);
    expect(kinds).to.equal(plan.arenaBytes);
  });

  it("streams a job's history, then what follows, and resumes after the last event that a page got", async () => {
    let release: () => void = () => undefined;
    const released = new Promise<void>((resolve) => {
      release = resolve;
    });
    await coordinator.joinMany(1, () => ({
      onStep: async (step) => {
        if (step === 2) await released;
        return undefined;
      },
    }));
    const { jobId } = await coordinator.submit(smallJob(1, 1, { steps: 4 }));
    await coordinator.until(
      "two steps",
      async () => (await coordinator.get(jobId)).stepsDone === 2,
    );
    const path = `/api/v1/events?job=${encodeURIComponent(jobId)}`;
    const first = await stream(path, (events) => events.some(({ event }) => event === "history"));
    const overview = first.find(({ event }) => event === "overview")?.data as
      | OverviewView
      | undefined;
    expect(overview?.jobs.map((job) => job.jobId)).to.deep.equal([jobId]);
    const whole = first.find(({ event }) => event === "history");
    expect((whole?.data as HistoryView | undefined)?.points.last).to.deep.equal([1, 2]);
    release();
    await coordinator.finished(jobId);
    const resumed = await stream(path, (events) => events.some(({ event }) => event === "update"), {
      "last-event-id": whole?.id ?? "",
    });
    expect(resumed.map(({ event }) => event)).not.to.include("history");
    const update = resumed.find(({ event }) => event === "update")?.data as HistoryView;
    expect(update.points.last).to.deep.equal([3, 4]);
    expect(update.notes.map(({ state }) => state)).to.deep.equal(["SUCCEEDED"]);
    const elsewhere = await stream(
      path,
      (events) => events.some(({ event }) => event === "history" || event === "update"),
      { "last-event-id": "000000000000.3" },
    );
    expect(elsewhere.at(-1)?.event).to.equal("history");
  });

  it("says when it knows no such job, and goes on with the overview", async () => {
    const events = await stream("/api/v1/events?job=nobody", (all) => all.length >= 3);
    expect(events.map(({ event }) => event)).to.deep.equal(["clock", "overview", "gone"]);
  });

  it("refuses more open pages than it can serve, and lets the next in when one has gone", async () => {
    const leaving = new AbortController();
    const url = `http://${coordinator.handle.httpAddress}/api/v1/events`;
    const open = await Promise.all(
      Array.from({ length: 100 }, () => fetch(url, { signal: leaving.signal })),
    );
    expect(new Set(open.map(({ status }) => status))).to.deep.equal(new Set([200]));
    const refused = await ask("/api/v1/events");
    expect(refused.status).to.equal(503);
    expect(refused.headers["retry-after"]).to.equal("10");
    leaving.abort();
    await poll(async () => {
      const again = new AbortController();
      const { status } = await fetch(url, { signal: again.signal });
      again.abort();
      return status === 200 ? true : undefined;
    }, "room for another page");
  });

  it("outlives hundreds of connections that say nothing, and workers still join meanwhile", async () => {
    const [host = "", port = ""] = coordinator.handle.httpAddress.split(":");
    const sockets = Array.from({ length: 700 }, () =>
      connect(Number(port), host)
        .on("error", () => undefined)
        .resume(),
    );
    await poll(
      () => (sockets.filter(({ closed }) => closed).length >= 188 ? true : undefined),
      "end of the connections beyond 512",
    );
    await coordinator.joinMany(1);
    for (const socket of sockets) socket.destroy();
    await poll(async () => {
      const reply = await ask("/healthz").catch(() => undefined);
      return reply?.status === 200 ? true : undefined;
    }, "an answer");
    expect((await json<StatusView>("/api/v1/status")).workers).to.equal(1);
  });

  it("takes any request for what it is", async () => {
    for (const [path, status] of [
      ["/api/v1/jobs/nobody", 404],
      ["/api/v1/jobs/%E0%A4%A", 404],
      ["/api/v1/jobs/%00", 404],
      ["/api/v1/jobs/a/b/c", 404],
      ["/api/v1/jobs//plan", 404],
      ["/api/v1/", 404],
      ["/api/v1/__proto__", 404],
      ["/assets/", 404],
      ["/assets/../../package.json", 404],
      ["/assets/%2e%2e%2fpackage.json", 404],
      ["/assets/main.js.map", 404],
      ["/assets/constructor", 404],
      [`/api/v1/jobs/${"x".repeat(10_000)}`, 404],
      [`/${"x".repeat(100_000)}`, 431],
      ["/?a=%ff", 200],
      ["/api/v1/status?job=%ff&job=2", 200],
    ] as const) {
      const reply = await ask(path);
      expect(reply.status, path.slice(0, 80)).to.equal(status);
      expect(reply.text.length).to.be.below(10_000);
    }
    for (const method of ["POST", "PUT", "DELETE", "OPTIONS"]) {
      const { status, headers } = await ask("/api/v1/status", { method });
      expect([status, headers.allow], method).to.deep.equal([405, "GET, HEAD"]);
    }
    expect((await ask("/nothing")).text).to.equal(
      "nothing here; there are /metrics, /healthz, /sd/workers, /, /api/v1/...\n",
    );
    for (const path of ["/", "/assets/style.css", "/api/v1/status", "/api/v1/events"]) {
      const head = await ask(path, { method: "HEAD" });
      expect([head.status, head.text], path).to.deep.equal([200, ""]);
    }
    const [host = "", port = ""] = coordinator.handle.httpAddress.split(":");
    for (const bytes of [
      "\0\0\0\0",
      "GET / HTTP/1.0\r\n\r\n",
      "GET http://a.b/ HTTP/1.1\r\nhost: a\r\n\r\n",
    ]) {
      const socket = connect(Number(port), host);
      await new Promise<void>((resolve) => {
        socket.on("close", () => resolve()).on("error", () => resolve());
        socket.resume().end(bytes);
      });
    }
    expect((await ask("/healthz")).text).to.equal("ok\n");
  });
});

function parseEvent(text: string): StreamEvent[] {
  const field = (name: string): string | undefined =>
    text
      .split("\n")
      .find((line) => line.startsWith(`${name}: `))
      ?.slice(name.length + 2);
  const data = field("data");
  if (data === undefined) return [];
  return [{ id: field("id"), event: field("event"), data: JSON.parse(data) }];
}
