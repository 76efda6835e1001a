import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { expect } from "chai";
import type { JobResult } from "../../cli/job-result.ts";
import {
  type Batch,
  FailedPreconditionError,
  InvalidArgumentError,
  JobFailedError,
  type JobSpecInput,
  RankmeshClient,
} from "../../client/index.ts";
import { caught } from "../support/caught.ts";
import { CliProcess, jobFolder, onTerminal, poll, runCli } from "../support/cli.ts";
import { FakeTerminal } from "../support/terminal.ts";

const SPEC: JobSpecInput = {
  name: "small",
  model: { feedForward: { dim: 48, hidden: 80 } },
  mesh: { tensorParallel: 2 },
  data: { batchSize: 6, safetensors: { path: "data.safetensors" } },
  steps: 5,
  output: { safetensors: "out.safetensors" },
};
/** Without end, for all that a test can see. */
const ENDLESS: JobSpecInput = { ...SPEC, name: "endless", steps: 10_000_000 };

/** One coordinator with a data root and two workers, as daemons of their own, used by all tests in order. */
describe("daemons and the job commands", function () {
  this.timeout(60_000);
  const daemons: CliProcess[] = [];
  let folder: Awaited<ReturnType<typeof jobFolder>>;
  let client: RankmeshClient;
  let address = "";
  let endless = "";
  let small = "";

  const rankmesh = (...args: string[]) => runCli(args, { env: { RANKMESH_ADDRESS: address } });

  before(async () => {
    folder = await jobFolder("feedforward-sum");
    small = await folder.write("small.yaml", SPEC);
    endless = await folder.write("endless.yaml", ENDLESS);
    const coordinator = new CliProcess(
      ["coordinator", "--http", "127.0.0.1:0", "--data-root", folder.path],
      {
        env: { RANKMESH_LISTEN: "127.0.0.1:0" },
      },
    );
    daemons.push(coordinator);
    const [, line = ""] = await coordinator.waitFor(/^(\{"role".*\})\n/);
    const addresses = JSON.parse(line) as Record<string, string>;
    expect(Object.keys(addresses)).to.deep.equal(["role", "grpc", "http"]);
    expect(addresses["role"]).to.equal("coordinator");
    address = addresses["grpc"] ?? "";
    for (const name of ["left", "right"]) {
      const worker = new CliProcess(["worker", "--threads", "1", "--coordinator", address], {
        env: { RANKMESH_NAME: name },
      });
      daemons.push(worker);
      await worker.waitFor(
        /^\{"role":"worker","grpc":"127\.0\.0\.1:\d+","http":"127\.0\.0\.1:\d+"\}\n/,
      );
    }
    client = new RankmeshClient({ address });
    await poll(
      async () => ((await client.workers()).length === 2 ? true : undefined),
      "two workers",
    );
  });

  after(async () => {
    client?.close();
    for (const daemon of daemons) daemon.child.kill("SIGKILL");
    await folder?.dispose();
  });

  it("lists the workers, as a table and as JSON", async () => {
    const table = await rankmesh("workers");
    expect(table.stdout).to.match(/^worker +state +address/);
    const { stdout } = await rankmesh("workers", "--json");
    const workers = JSON.parse(stdout) as Record<string, unknown>[];
    expect(workers.map(({ name, state, jobId }) => ({ name, state, jobId }))).to.deep.equal([
      { name: "left", state: "idle", jobId: null },
      { name: "right", state: "idle", jobId: null },
    ]);
  });

  it("submits a job, waits for its end and writes its result", async () => {
    const json = join(folder.path, "small.json");
    const { code, stdout, stderr } = await rankmesh("job", "submit", small, "--json", json);
    expect(code, stderr).to.equal(0);
    expect(stdout).to.match(/^iterations complete: 5 steps/);
    expect(stderr).to.match(/step 5\/5 {2}loss/);
    const result = JSON.parse(await readFile(json, "utf8")) as JobResult;
    expect(result.state).to.equal("SUCCEEDED");
    expect(result.loss).to.have.length(5);
    expect(result.ranks.map((rank) => rank.worker)).to.deep.equal(["left", "right"]);
  });

  it("gives the same job for the same id, and refuses the id for another spec", async () => {
    const first = await rankmesh("job", "submit", small, "--id", "mine", "--no-wait");
    const again = await rankmesh("job", "submit", small, "--id", "mine", "--no-wait");
    expect([first.stdout, again.stdout]).to.deep.equal(["mine\n", "mine\n"]);
    const other = await rankmesh("job", "submit", endless, "--id", "mine", "--no-wait");
    expect(other.code).to.equal(2);
    expect(other.stderr).to.include("exists with another spec");
    await client.job("mine").result();
  });

  it("leaves a watched job running on Ctrl-C, and says how to cancel it", async () => {
    const job = await client.submit(ENDLESS, { jobId: "watched" });
    const watch = new CliProcess(["job", "watch", "watched", "--address", address]);
    await watch.waitFor(/watching job watched/);
    process.kill(watch.pid, "SIGINT");
    const { code, stderr } = await watch.ended;
    expect(code).to.equal(130);
    expect(stderr).to.include('job watched goes on; "rankmesh job cancel watched" ends it');
    expect((await job.get()).state).to.equal("RUNNING");
  });

  it("draws charts of a watched job on a terminal, and leaves the picture there on Ctrl-C", async function () {
    if (process.platform !== "linux") this.skip(); // Elsewhere `script` takes other flags.
    const watch = onTerminal(["job", "watch", "watched", "--address", address], 100, 30);
    await watch.waitFor(/step time.*longest .*memory of each rank.*0 left {2}cpu .* of .*RUNNING/s);
    watch.child.stdin.write("\x03");
    const { code, stdout } = await watch.ended;
    expect(code, stdout).to.equal(130);
    const terminal = new FakeTerminal(100, 30);
    terminal.write(stdout.replaceAll("\r\n", "\n"));
    const lines = terminal.text.split("\n");
    expect(lines[0]).to.match(/^watching job watched; Ctrl-C detaches/);
    expect(lines.filter((line) => line.startsWith("endless  RUNNING"))).to.have.length(1);
    expect(lines.at(-2)).to.include('job watched goes on; "rankmesh job cancel watched" ends it');
  });

  it("queues a job that cannot start with the reason, or refuses it with --no-queue", async () => {
    const queued = await rankmesh("job", "submit", small, "--id", "later", "--no-wait");
    expect(queued.code, queued.stderr).to.equal(0);
    const { stdout } = await rankmesh("job", "status", "later", "--json");
    expect(JSON.parse(stdout)).to.deep.include({ jobId: "later", state: "QUEUED" });
    expect(stdout).to.match(/needs 2 workers/);
    const json = join(folder.path, "refused.json");
    const refused = await rankmesh("job", "submit", small, "--no-queue", "--json", json);
    expect(refused.code).to.equal(1);
    expect(refused.stderr).to.match(/cannot start now: needs 2 workers/);
    const result = JSON.parse(await readFile(json, "utf8")) as JobResult;
    expect(result.error?.code).to.equal("FAILED_PRECONDITION");
    expect((await caught(client.submit(SPEC, { queue: false }))).message).to.include(
      "cannot start now",
    );
  });

  it("detaches from a submitted job on Ctrl-C", async () => {
    const submit = new CliProcess([
      "job",
      "submit",
      endless,
      "--id",
      "detached",
      "--address",
      address,
    ]);
    await submit.waitFor(/job detached submitted/);
    await submit.waitFor(/watching job detached/);
    process.kill(submit.pid, "SIGINT");
    const { code, stderr } = await submit.ended;
    expect(code).to.equal(130);
    expect(stderr).to.include("detached: job detached goes on");
    expect((await client.cancel("detached")).state).to.equal("CANCELLED");
  });

  it("cancels a running job, after which the queued one runs", async () => {
    const { code, stdout } = await rankmesh("job", "cancel", "watched");
    expect(code).to.equal(0);
    expect(stdout).to.equal("watched is CANCELLED\n");
    const again = await rankmesh("job", "cancel", "watched");
    expect(again.stdout).to.equal("watched is CANCELLED\n");
    expect((await client.job("later").result()).state).to.equal("SUCCEEDED");
    const ended = await rankmesh("job", "watch", "watched");
    expect(ended.code).to.equal(1);
  });

  it("prints a job's events, and lists jobs newest first", async () => {
    const { stdout } = await rankmesh("job", "logs", "later");
    expect(stdout).to.match(/QUEUED/);
    expect(stdout).to.match(/step 4 loss /);
    expect(stdout.trimEnd().split("\n").at(-1)).to.match(/SUCCEEDED/);
    const list = JSON.parse((await rankmesh("job", "list", "--json")).stdout) as {
      jobId: string;
      lastLoss: number | null;
    }[];
    const ids = list.map(({ jobId }) => jobId);
    const { loss } = await client.get("later");
    expect(list[ids.indexOf("later")]?.lastLoss).to.equal(loss.at(-1)).and.to.be.a("number");
    expect(ids.indexOf("later")).to.be.below(ids.indexOf("watched"));
    expect((await rankmesh("job", "list")).stdout).to.match(
      /^job +name +state +age +steps +loss +mesh +reason/,
    );
  });

  it("tells all faults of a submitted job at once: keys that no message carries, plan, data root", async () => {
    const file = await folder.write("bad.yaml", {
      ...SPEC,
      stepz: 5,
      plan: { w9: "colwise" },
      init: { safetensors: "/etc/passwd" },
    });
    const { code, stderr } = await rankmesh("job", "submit", file);
    expect(code).to.equal(2);
    expect(stderr).to.match(/^ {2}stepz: unknown key.*"steps"/m);
    expect(stderr).to.match(/^ {2}plan\["w9"\]: matches no layer/m);
    expect(stderr).to.match(/^ {2}init\.safetensors: .*root/m);
  });

  it("exits with 2 for a job that is not there", async () => {
    const { code, stderr } = await rankmesh("job", "status", "nobody");
    expect(code).to.equal(2);
    expect(stderr).to.include('no job "nobody"');
  });

  it("trains on batches that the client pushes, each made when there is room for it", async () => {
    const steps = 200;
    let made = 0;
    let done = 0;
    let farthestAhead = 0;
    function* batches(): Generator<Batch> {
      for (; made < steps; made++) {
        farthestAhead = Math.max(farthestAhead, made - done);
        yield { x: { data: new Float32Array(6 * 48).fill(1 / (made + 1)), dims: [6, 48] } };
      }
    }
    const job = await client.submit({ ...SPEC, data: { batchSize: 6, stream: {} }, steps });
    const pushed = job.pushBatches(batches());
    for await (const event of job.events()) if (event.kind === "step") done += 1;
    expect(await pushed).to.equal(steps);
    expect((await job.get()).loss).to.have.length(steps);
    // Some are on their way, buffered at the coordinator, and streamed ahead to the ranks.
    expect(farthestAhead).to.be.below(steps / 2);
  });

  it("says so when a client pushes more batches than a job has steps", async () => {
    const batch = { x: { data: new Float32Array(6 * 48), dims: [6, 48] } };
    const job = await client.submit({ ...SPEC, data: { batchSize: 6, stream: {} }, steps: 2 });
    const error = await caught(job.pushBatches([batch, batch, batch]));
    expect(error.message).to.match(/takes 2 batches/);
    await job.cancel();
  });

  it("refuses a batch whose data does not fill its dims", async () => {
    const job = await client.submit({ ...SPEC, data: { batchSize: 6, stream: {} } });
    const short = { x: { data: new Float32Array(5), dims: [6, 48] } };
    const error = await caught(job.pushBatches([short]));
    expect(error).to.be.instanceOf(InvalidArgumentError);
    expect(error.message).to.equal("x: dims [6, 48] hold 288 elements, but data has 5");
    await job.cancel();
  });

  it("gives the final weights of a job that wrote them", async () => {
    const output = { safetensors: "downloaded.safetensors" };
    const { jobId } = await (await client.submit({ ...SPEC, output })).result();
    const pieces: Uint8Array[] = [];
    for await (const piece of client.downloadWeights(jobId)) pieces.push(piece);
    const file = await readFile(join(folder.path, output.safetensors));
    expect(Buffer.concat(pieces).equals(file)).to.equal(true);
    const none = (async () => {
      for await (const _ of client.downloadWeights("watched")) {
        // Nothing comes.
      }
    })();
    expect(await caught(none)).to.be.instanceOf(FailedPreconditionError);
  });

  it("throws what the job failed of", async () => {
    const job = await client.submit({ ...SPEC, optimizer: { sgd: { lr: 1e30 } }, steps: 20 });
    const error = await caught(job.result());
    expect(error).to.be.instanceOf(JobFailedError);
    expect((error as JobFailedError).job.error?.step).to.be.a("number");
  });

  it("ends a watch with the signal's reason", async () => {
    const reason = new Error("enough");
    const job = await client.submit(ENDLESS);
    const controller = new AbortController();
    const watching = (async () => {
      for await (const event of job.events({ signal: controller.signal })) {
        if (event.kind === "step") controller.abort(reason);
      }
    })();
    expect(await caught(watching)).to.equal(reason);
    await job.cancel();
  });

  it("says of each daemon whether it is well", async () => {
    const { code, stdout } = await rankmesh("doctor", "--health");
    expect(code).to.equal(0);
    expect(stdout).to.equal(`ok    health: ${address} is SERVING\n`);
    const all = JSON.parse((await rankmesh("doctor", "--json")).stdout) as {
      ok: boolean;
      findings: unknown[];
    };
    expect(all.findings).to.deep.include({ name: "coordinator", ok: true, detail: "2 workers" });
  });

  for (const [index, role] of ["coordinator", "worker", "worker"].entries()) {
    it(`ends the ${role} ${index} cleanly on SIGTERM, with one line on stdout`, async () => {
      const daemon = daemons[2 - index];
      if (daemon === undefined) throw new Error("no daemon");
      process.kill(daemon.pid, "SIGTERM");
      const { code, stdout, stderr } = await daemon.ended;
      expect(code, stderr).to.equal(0);
      expect(stdout.split("\n")).to.have.length(2);
    });
  }

  it("exits with 3 and says what to do when nobody answers", async () => {
    for (const args of [["workers"], ["job", "submit", small], ["doctor", "--health"]]) {
      const { code, stdout, stderr } = await rankmesh(...args);
      expect(code, args.join(" ")).to.equal(3);
      expect(stdout + stderr).to.include(address);
      expect(stdout + stderr).to.match(/start (one|the daemon)/);
    }
  });
});
