import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { expect } from "chai";
import type { QuickstartResult } from "../../cli/memory-table.ts";
import { CliProcess, childrenOf, isRunning, jobFolder, poll, runCli } from "../support/cli.ts";

const SMALL = ["--dim", "48", "--hidden", "80", "--batch", "6"];

describe("rankmesh quickstart", function () {
  this.timeout(40_000);
  let folder: Awaited<ReturnType<typeof jobFolder>>;
  before(async () => {
    folder = await jobFolder("feedforward-sum");
  });
  after(() => folder.dispose());

  it("trains on each number of ranks and writes table and JSON", async () => {
    const json = join(folder.path, "quickstart.json");
    const { code, stdout, stderr } = await runCli([
      "quickstart",
      ...SMALL,
      "--steps",
      "4",
      "--tp",
      "1,2",
      "--json",
      json,
    ]);
    expect(code, stderr).to.equal(0);
    expect(stdout).to.match(/^iterations complete: 4 steps on each of 1, 2 ranks\n/);
    expect(stdout).to.match(/^ranks +predicted +measured +resident +step time +loss$/m);
    expect(stdout).to.match(/^measured = predicted on every rank, initialisation included$/m);
    expect(stderr).to.match(/^the largest run \(2 ranks\) takes about .* available$/m);
    expect(stderr.match(/^status page: http:\/\/127\.0\.0\.1:\d+\/$/gm)).to.have.length(1);
    const result = JSON.parse(await readFile(json, "utf8")) as QuickstartResult;
    const { runs, ...settings } = result;
    expect(settings).to.deep.include({
      model: "feedForward",
      dim: 48,
      hidden: 80,
      batch: 6,
      steps: 4,
    });
    expect(settings.backend).to.be.oneOf(["cpu", "reference"]);
    expect(runs.map(({ tensorParallel }) => tensorParallel)).to.deep.equal([1, 2]);
    for (const run of runs) {
      expect(run.loss).to.have.length(4);
      expect(run.ranks).to.have.length(run.tensorParallel);
      expect(run.stepSeconds.median).to.be.above(0);
      for (const rank of run.ranks) {
        expect(rank.peakMemoryBytes).to.equal(rank.predictedPeakMemoryBytes);
        expect(rank.rssBytes).to.be.above(rank.peakMemoryBytes);
      }
    }
  });

  it("names sizes that do not divide before it starts anything", async () => {
    const { code, stdout, stderr } = await runCli(["quickstart", ...SMALL, "--tp", "1,3"]);
    expect(code).to.equal(2);
    expect(stdout).to.equal("");
    expect(stderr).to.match(/80 .* not divisible by 3/);
  });

  it("refuses a model that the machine has no memory for, with both figures", async () => {
    const { code, stderr } = await runCli(["quickstart", "--dim", "262144", "--hidden", "262144"]);
    expect(code).to.equal(2);
    expect(stderr).to.match(
      /takes about [\d.]+ TB of memory; [\d.]+ [MG]B of .* are available; choose a smaller --dim/,
    );
  });

  it("leaves no process behind on Ctrl-C", async function () {
    if (process.platform !== "linux") this.skip();
    const cli = new CliProcess(["quickstart", ...SMALL, "--steps", "10000000", "--tp", "2"]);
    const workers = await poll(() => {
      const children = childrenOf(cli.pid);
      return children.length === 2 ? children : undefined;
    }, "two workers");
    process.kill(cli.pid, "SIGINT");
    expect((await cli.ended).code).to.equal(130);
    await poll(() => (workers.some(isRunning) ? undefined : true), "end of the workers", 5000);
  });
});
