import { expect } from "chai";
import { pino } from "pino";
import { startCoordinator } from "../../coordinator/coordinator-daemon.ts";
import { FailedPreconditionError } from "../../shared/errors.ts";
import { caught } from "../support/caught.ts";
import { CoordinatorHarness, smallJob } from "../support/coordinator-harness.ts";

describe("coordinator: daemon", function () {
  this.timeout(20_000);
  let coordinator: CoordinatorHarness;

  beforeEach(async () => {
    // Long enough that a scrape on a busy machine still comes within it.
    coordinator = await CoordinatorHarness.start({ limits: { metricsMs: 3_000 } });
  });

  afterEach(async () => {
    await coordinator.stop();
  });

  it("exports its metrics under their names and labels, a job's until a while after its end", async () => {
    await coordinator.joinMany(2);
    const { jobId } = await coordinator.submit(smallJob(1, 2));
    await coordinator.finished(jobId);
    const text = await coordinator.metrics();
    for (const line of [
      `rankmesh_train_loss{job_id="${jobId}"} ${1 / 3}`,
      `rankmesh_train_samples_total{job_id="${jobId}"} 12`,
      `rankmesh_train_tokens_total{job_id="${jobId}"} 12`,
      'rankmesh_jobs{state="SUCCEEDED"} 1',
      'rankmesh_jobs{state="QUEUED"} 0',
      'rankmesh_workers{state="idle"} 2',
      'rankmesh_workers{state="lost"} 0',
    ]) {
      expect(text.split("\n"), text.slice(0, 3000)).to.include(line);
    }
    expect(text).to.match(/^rankmesh_worker_heartbeat_age_seconds\{worker="w1"\} \d(\.\d+)?$/m);
    expect(text).to.match(
      /^rankmesh_build_info\{version="0\.1\.0",node="v20[^"]*",role="coordinator"\} 1$/m,
    );
    expect(text).to.match(/^process_resident_memory_bytes \d+$/m);
    await coordinator.until(
      "the job's series go",
      async () => !(await coordinator.metrics()).includes(jobId),
    );
  });

  it("does not start on a data root that is no folder", async () => {
    for (const [dir, why] of [
      ["/no/such/folder", "does not exist"],
      [process.execPath, "is no folder"],
    ] as const) {
      const error = await caught(
        startCoordinator({
          listen: "127.0.0.1:0",
          http: "127.0.0.1:0",
          files: { kind: "root", dir },
          logger: pino({ level: "silent" }),
        }),
      );
      expect(String(error)).to.contain(`data root ${dir} ${why}`);
    }
  });

  it("answers /healthz and its status and refuses to be written to", async () => {
    const url = `http://${coordinator.handle.httpAddress}`;
    expect(await (await fetch(`${url}/healthz`)).text()).to.equal("ok\n");
    const status = await (await fetch(`${url}/api/v1/status`)).json();
    expect(status).to.deep.include({ workers: 0, jobs: [] });
    expect((await fetch(url, { method: "POST" })).status).to.equal(405);
    expect((await fetch(`${url}/etc`)).status).to.equal(404);
  });

  for (const which of ["listen", "http"] as const) {
    it(`says which address is taken when the ${which} port is, and leaves nothing open`, async () => {
      const taken =
        which === "listen" ? coordinator.handle.grpcAddress : coordinator.handle.httpAddress;
      const error = await caught(
        startCoordinator({
          listen: "127.0.0.1:0",
          http: "127.0.0.1:0",
          files: { kind: "none" },
          logger: pino({ level: "silent" }),
          [which]: taken,
        }),
      );
      expect(error).to.be.instanceOf(FailedPreconditionError);
      expect(error.message).to.match(
        new RegExp(`^cannot listen on ${taken}.*: the port is in use`),
      );
    });
  }

  it("warns when it listens beyond loopback", async () => {
    const lines: string[] = [];
    const logger = pino({ level: "warn" }, { write: (line: string) => lines.push(line) });
    const wide = await startCoordinator({
      listen: "0.0.0.0:0",
      http: "127.0.0.1:0",
      files: { kind: "none" },
      logger,
    });
    await wide.stop(0);
    expect(lines.join("")).to.contain("listening beyond loopback without TLS or tokens");
  });

  it("gives a watcher that stops reading for a while every event all the same", async () => {
    await coordinator.joinMany(1);
    const { jobId } = await coordinator.submit(smallJob(1, 1, { steps: 300 }));
    const slow = coordinator.rpc.watchJob({ jobId });
    slow.pause();
    await coordinator.finished(jobId);
    const ids: number[] = [];
    for await (const event of slow as AsyncIterable<{ eventId: number }>) ids.push(event.eventId);
    expect(ids).to.deep.equal(Array.from({ length: 304 }, (_, i) => i + 1));
  });
});
