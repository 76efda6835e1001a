import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import type { JobResult } from "../../cli/job-result.ts";
import { runCli } from "../support/cli.ts";

/** Reordering float32 sums over ranks moves a loss by about 1e-6 of itself. */
const LOSS_TOL = 1e-5;

const JOBS = [
  {
    name: "a gpt2 with dropout and tied weights",
    job: {
      model: {
        gpt2: { dim: 32, layers: 2, heads: 4, vocab: 50, contextLength: 20, dropout: 0.1 },
      },
      data: { batchSize: 4, shuffle: true, random: { length: 10, seqLen: 16 } },
    },
    others: [
      { mesh: { tensorParallel: 2 }, sequenceParallel: true, recompute: "block" },
      {
        mesh: { dataParallel: 2, tensorParallel: 2 },
        dataParallelSharding: "full",
        gradientAccumulation: 2,
      },
    ],
  },
  {
    name: "a classifier",
    job: {
      model: { mlp: { dims: [12, 32, 10] } },
      loss: "cross_entropy",
      data: { batchSize: 6, random: { length: 60 } },
    },
    others: [{ mesh: { dataParallel: 1, tensorParallel: 2 } }],
  },
] as const;

describe("rankmesh run on built-in models", function () {
  this.timeout(180_000);
  let folder = "";
  before(async () => {
    folder = await mkdtemp(join(tmpdir(), "rankmesh-built-in-"));
  });
  after(() => rm(folder, { recursive: true, force: true }));

  async function losses(name: string, spec: object): Promise<number[]> {
    const file = join(folder, `${name}.yaml`);
    await writeFile(file, JSON.stringify({ steps: 5, ...spec })); // JSON is YAML
    const json = join(folder, `${name}.json`);
    const { code, stderr } = await runCli(["run", file, "--json", json], { timeoutMs: 90_000 });
    expect(code, stderr).to.equal(0);
    return (JSON.parse(await readFile(json, "utf8")) as JobResult).loss.map(Number);
  }

  for (const { name, job, others } of JOBS) {
    it(`gives ${name} the losses of one rank on every mesh`, async () => {
      const alone = await losses("alone", job);
      expect(new Set(alone).size).to.equal(5);
      for (const other of others) {
        const split = await losses("split", { ...job, ...other });
        alone.forEach((want, step) => {
          const distance = Math.abs((split[step] ?? Number.NaN) - want) / want;
          expect(distance, `step ${step} with ${JSON.stringify(other)}`).to.be.at.most(LOSS_TOL);
        });
      }
    });
  }
});
