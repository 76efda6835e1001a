import { readFile, stat } from "node:fs/promises";
import { join } from "node:path";
import { expect } from "chai";
import type { JobResult } from "../../cli/job-result.ts";
import { CliProcess, childrenOf, isRunning, jobFolder, poll, runCli } from "../support/cli.ts";

/** Without end, for all that a test can see. */
const ENDLESS_STEPS = 10_000_000;

const SPEC = {
  name: "endless",
  model: { feedForward: { dim: 48, hidden: 80 } },
  mesh: { tensorParallel: 2 },
  data: { batchSize: 6, safetensors: { path: "data.safetensors" } },
  steps: ENDLESS_STEPS,
};

describe("rankmesh run when things go wrong", function () {
  this.timeout(40_000);
  let folder: Awaited<ReturnType<typeof jobFolder>>;
  let json = "";
  const started: CliProcess[] = [];

  before(async () => {
    folder = await jobFolder("feedforward-sum");
    json = join(folder.path, "out.json");
  });
  afterEach(() => {
    for (const cli of started.splice(0)) cli.child.kill("SIGKILL");
  });
  after(() => folder.dispose());

  /** A run with two workers, in the middle of its steps. */
  async function runningJob(): Promise<{ cli: CliProcess; workers: readonly number[] }> {
    const file = await folder.write("job.yaml", SPEC);
    const cli = new CliProcess(["run", file, "--json", json, "--verbose"]);
    started.push(cli);
    await cli.waitFor(/job starts/);
    const workers = await poll(() => {
      const children = childrenOf(cli.pid);
      return children.length === 2 ? children : undefined;
    }, "two workers");
    await cli.waitFor(/step \d+\/|first step|running/i);
    return { cli, workers };
  }

  async function result(): Promise<JobResult> {
    return JSON.parse(await readFile(json, "utf8")) as JobResult;
  }

  async function allGone(pids: readonly number[]): Promise<void> {
    await poll(() => (pids.some(isRunning) ? undefined : true), `end of ${pids.join(", ")}`, 5000);
  }

  it("leaves no process behind when it is killed", async function () {
    if (process.platform !== "linux") this.skip();
    const { cli, workers } = await runningJob();
    process.kill(cli.pid, "SIGKILL");
    await allGone([cli.pid, ...workers]);
  });

  for (const signal of ["SIGINT", "SIGTERM"] as const) {
    it(`cancels its job and leaves no process behind on ${signal}`, async function () {
      if (process.platform !== "linux") this.skip();
      const { cli, workers } = await runningJob();
      process.kill(cli.pid, signal);
      const { code } = await cli.ended;
      expect(code).to.equal(130);
      expect(await result()).to.deep.include({ state: "CANCELLED", error: null });
      await allGone(workers);
    });
  }

  it("fails within 5 s and names rank and step when a worker is killed", async function () {
    if (process.platform !== "linux") this.skip();
    const { cli, workers } = await runningJob();
    const [first = 0] = workers;
    const before = performance.now();
    process.kill(first, "SIGKILL");
    const { code, stderr } = await cli.ended;
    expect(performance.now() - before).to.be.below(5000);
    expect(code).to.equal(1);
    expect(stderr).to.match(/rankmesh: job .* failed: .*rank [01].*worker-[01]/);
    const { state, error } = await result();
    expect(state).to.equal("FAILED");
    expect(error?.code).to.equal("UNAVAILABLE");
    expect(error?.rank).to.be.oneOf([0, 1]);
    expect(error?.step).to.be.at.least(0);
    await allGone(workers);
  });

  it("fails with the step of a loss that is no number", async () => {
    const file = await folder.write("nan.yaml", {
      ...SPEC,
      mesh: {},
      optimizer: { sgd: { lr: 1e30 } },
      steps: 20,
    });
    const { code, stderr } = await runCli(["run", file, "--json", json]);
    expect(code, stderr).to.equal(1);
    const { state, error, loss } = await result();
    expect(state).to.equal("FAILED");
    expect(error?.step).to.be.a("number");
    expect(stderr).to.include(`step ${error?.step}`);
    expect(loss.at(-1)).to.equal(null);
  });

  it("tells all faults of a job at once, with their places in the file, and starts nothing", async () => {
    const file = await folder.write("bad.yaml", {
      ...SPEC,
      mesh: { tensorParallel: 3 },
      data: { ...SPEC.data, batchSize: 0 },
      init: { safetensors: "none.safetensors" },
      bogus: 1,
    });
    const { code, stdout, stderr } = await runCli(["run", file, "--json", json]);
    expect(code).to.equal(2);
    expect(stdout).to.equal("");
    expect(stderr).to.match(/not valid \(\d faults\)/);
    for (const fault of [
      /^ {2}bogus: unknown key.*bad\.yaml:1:\d+\)$/m,
      /^ {2}data\.batchSize: is 0/m,
      /"w1": 80 out-features are not divisible by 3 ranks/,
      /^ {2}init\.safetensors: "none\.safetensors": no such file/m,
    ]) {
      expect(stderr).to.match(fault);
    }
    const { state, error } = await result();
    expect(state).to.equal("FAILED");
    expect(error).to.deep.include({ code: "INVALID_ARGUMENT", rank: null, step: null });
  });

  it("refuses before it starts to write its result where it cannot", async () => {
    const file = await folder.write("job.yaml", SPEC);
    const { code, stderr } = await runCli(["run", file, "--json", "/no/such/folder/out.json"]);
    expect(code).to.equal(2);
    expect(stderr).to.equal(
      "rankmesh: --json /no/such/folder/out.json: cannot write into /no/such/folder; create the folder or choose another path\n",
    );
  });

  it("writes weights that are byte for byte the same each time", async () => {
    const outputs = await Promise.all(
      ["a", "b"].map(async (name) => {
        const file = await folder.write(`${name}.yaml`, {
          ...SPEC,
          steps: 5,
          output: { safetensors: `${name}.safetensors` },
        });
        const { code, stderr } = await runCli(["run", file]);
        expect(code, stderr).to.equal(0);
        return await readFile(join(folder.path, `${name}.safetensors`));
      }),
    );
    expect(outputs[0]?.equals(outputs[1] ?? Buffer.alloc(0))).to.equal(true);
  });

  it("writes its initial weights for a job without steps", async () => {
    const output = join(folder.path, "initial.safetensors");
    const file = await folder.write("zero.yaml", {
      ...SPEC,
      steps: 0,
      output: { safetensors: output },
    });
    const { code, stderr, stdout } = await runCli(["run", file]);
    expect(code, stderr).to.equal(0);
    expect(stdout).to.match(/^iterations complete: 0 steps/);
    expect((await stat(output)).size).to.be.above(4 * 3 * 48 * 80);
  });
});
