import { spawn } from "node:child_process";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { expect } from "chai";
import { parse } from "yaml";
import type { JobResult } from "../../cli/job-result.ts";
import { RankmeshClient } from "../../client/index.ts";
import { CliProcess, type CliResult, poll, runCli } from "../support/cli.ts";
import { fixturePath } from "../support/fixtures.ts";

const ROOT = dirname(dirname(dirname(fixturePath("x"))));
const EXAMPLE = join(ROOT, "examples/custom-block");
const BLOCK = "Every block adds positions of its own, and reads what stands before. ";
const TEXT = BLOCK.repeat(60);
/** Reordering float32 sums over ranks moves a loss by about 1e-6 of itself. */
const LOSS_TOL = 1e-5;

/** The example as its readers run it: a model file with a block of its own, and a program around the SDK. */
describe("the custom block", function () {
  this.timeout(180_000);
  let folder = "";
  before(async () => {
    folder = await mkdtemp(join(tmpdir(), "rankmesh-block-"));
    await writeFile(join(folder, "text.txt"), TEXT);
  });
  after(() => rm(folder, { recursive: true, force: true }));

  /** Runs its job file on the test's text. */
  async function losses(name: string, changes: object): Promise<number[]> {
    const job: unknown = parse(await readFile(join(EXAMPLE, "job.yaml"), "utf8"));
    const file = join(folder, `${name}.yaml`);
    const spec = {
      ...(job as object),
      model: { module: join(EXAMPLE, "model.mjs") },
      data: { batchSize: 4, text: { path: "text.txt", seqLen: 64 } },
      steps: 8,
      ...changes,
    };
    await writeFile(file, JSON.stringify(spec)); // JSON is YAML
    const json = join(folder, `${name}.json`);
    const { code, stderr } = await runCli(["run", file, "--json", json], { timeoutMs: 90_000 });
    expect(code, stderr).to.equal(0);
    return (JSON.parse(await readFile(json, "utf8")) as JobResult).loss.map(Number);
  }

  it("learns, and gives the losses of one rank on two", async () => {
    const alone = await losses("alone", { mesh: {} });
    expect(alone[0]).to.be.closeTo(Math.log(256), 0.5);
    expect(alone.at(-1)).to.be.below((alone[0] ?? 0) - 0.5);
    const split = await losses("two", {});
    alone.forEach((want, step) => {
      const distance = Math.abs((split[step] ?? Number.NaN) - want) / want;
      expect(distance, `loss of step ${step}`).to.be.at.most(LOSS_TOL);
    });
  });

  it("says what a text is cut into that the model was not traced for", async () => {
    const file = join(folder, "short.yaml");
    const job = {
      model: { module: join(EXAMPLE, "model.mjs") },
      loss: "cross_entropy",
      data: { text: { path: "text.txt", seqLen: 32 } },
    };
    await writeFile(file, JSON.stringify(job));
    const { code, stderr } = await runCli(["plan", file]);
    expect(code).to.equal(2);
    expect(stderr).to.include("data.text.seqLen: is 32; the model was traced for 64 tokens");
  });

  describe("in a program of its own, on two workers", () => {
    const daemons: CliProcess[] = [];
    let address = "";

    before(async () => {
      const coordinator = new CliProcess(["coordinator"], {
        env: { RANKMESH_LISTEN: "127.0.0.1:0", RANKMESH_HTTP: "127.0.0.1:0" },
      });
      daemons.push(coordinator);
      const [, found = ""] = await coordinator.waitFor(/"grpc":"([^"]+)"/);
      address = found;
      for (const name of ["left", "right"]) {
        const args = ["worker", "--threads", "1", "--coordinator", address, "--name", name];
        daemons.push(new CliProcess(args));
      }
      const client = new RankmeshClient({ address });
      try {
        await poll(
          async () => ((await client.workers()).length === 2 ? true : undefined),
          "two workers",
        );
      } finally {
        client.close();
      }
    });
    after(() => {
      for (const daemon of daemons) daemon.child.kill("SIGKILL");
    });

    /** Runs the program; `onOutput` sees what it has written so far, and its process. */
    function program(
      steps: number,
      onOutput: (stdout: string, interrupt: () => void) => void = () => {},
    ): Promise<CliResult> {
      const child = spawn(
        process.execPath,
        [join(EXAMPLE, "train.mjs"), join(folder, "text.txt")],
        { env: { ...process.env, RANKMESH_ADDRESS: address, STEPS: `${steps}` } },
      );
      const timer = setTimeout(() => child.kill("SIGKILL"), 90_000);
      let [stdout, stderr] = ["", ""];
      child.stdout.setEncoding("utf8").on("data", (text: string) => {
        stdout += text;
        onOutput(stdout, () => child.kill("SIGINT"));
      });
      child.stderr.setEncoding("utf8").on("data", (text: string) => {
        stderr += text;
      });
      return new Promise((resolve) => {
        child.once("close", (code, signal) => {
          clearTimeout(timer);
          resolve({ code, signal, stdout, stderr });
        });
      });
    }

    it("streams batches and reads a typed event a step", async () => {
      const { code, stdout, stderr } = await program(6);
      expect(code, stderr).to.equal(0);
      const steps = [...stdout.matchAll(/^step (\d+) loss (\d+\.\d{4})$/gm)];
      expect(steps.map(([, step]) => Number(step))).to.deep.equal([0, 1, 2, 3, 4, 5]);
      expect(Number(steps[5]?.[2])).to.be.below(Number(steps[0]?.[2]));
      expect(stdout).to.match(/^SUCCEEDED/m);
      expect(stdout).to.match(/^6 batches taken\n$/m);
    });

    it("ends its job when it is interrupted", async () => {
      const { code, stderr, stdout } = await program(1_000_000, (text, interrupt) => {
        if (text.includes("step 2 ")) interrupt();
      });
      expect(code, stdout).to.equal(1);
      expect(stderr).to.include("interrupted");
      const client = new RankmeshClient({ address });
      try {
        const jobs = [];
        for await (const job of client.list()) jobs.push(job);
        expect(jobs.map(({ state }) => state)).to.deep.equal(["CANCELLED", "SUCCEEDED"]);
      } finally {
        client.close();
      }
    });

    it("tells all faults of a spec that its coordinator refuses", async () => {
      const { code, stderr } = await program(-1);
      expect(code).to.equal(1);
      expect(stderr).to.match(/^steps: is -1; must be an integer at least 0/);
    });
  });
});
