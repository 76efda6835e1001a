import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { expect } from "chai";
import { parse } from "yaml";
import type { JobResult } from "../../cli/job-result.ts";
import { runCli } from "../support/cli.ts";
import { fixturePath } from "../support/fixtures.ts";

const ROOT = dirname(dirname(dirname(fixturePath("x"))));
const EXAMPLE = join(ROOT, "examples/byte-llama");
/** A process of a busy machine's. */
const TIMEOUT_MS = 120_000;
/** Reordering float32 sums over ranks moves a loss by about 1e-6 of itself; steps pass that on and add their own. */
const LOSS_TOL = 1e-4;

/** The example's job, model and text, for its first steps. */
describe("the byte-level llama", function () {
  this.timeout(4 * TIMEOUT_MS);
  let folder = "";
  const results = new Map<string, JobResult>();

  before(async () => {
    folder = await mkdtemp(join(tmpdir(), "rankmesh-bytes-"));
  });
  after(() => rm(folder, { recursive: true, force: true }));

  /** The job's file for 20 steps on `mesh`, in the test's folder. */
  async function shortJob(name: string, mesh: object): Promise<string> {
    const job = parse(await readFile(join(EXAMPLE, "job.yaml"), "utf8")) as ExampleJob;
    const file = join(folder, `${name}.yaml`);
    const spec = {
      ...job,
      mesh,
      data: inExample(job.data),
      eval: { every: 10, batches: 4, data: inExample(job.eval.data) },
      steps: 20,
      output: { safetensors: `${name}.safetensors` },
    };
    await writeFile(file, JSON.stringify(spec)); // JSON is YAML
    return file;
  }

  async function train(name: string, mesh: object): Promise<JobResult> {
    const known = results.get(name);
    if (known !== undefined) return known;
    const json = join(folder, `${name}.json`);
    const { code, stderr } = await runCli(["run", await shortJob(name, mesh), "--json", json], {
      timeoutMs: TIMEOUT_MS,
    });
    expect(code, stderr).to.equal(0);
    const result = JSON.parse(await readFile(json, "utf8")) as JobResult;
    results.set(name, result);
    return result;
  }

  for (const [name, mesh] of [
    ["tensor", { tensorParallel: 2 }],
    ["data", { dataParallel: 2 }],
  ] as const) {
    it(`learns on two ranks, ${name}-parallel, and evaluates on text held out`, async () => {
      const { loss, evalLoss, ranks } = await train(name, mesh);
      expect(ranks).to.have.length(2);
      expect(loss).to.have.length(20);
      expect(loss[0]).to.be.closeTo(Math.log(256), 0.3);
      expect(loss.at(-1)).to.be.below((loss[0] ?? 0) - 1);
      expect(evalLoss.map(({ step }) => step)).to.deep.equal([10, 20]);
      const [early, late] = evalLoss.map((evaluation) => evaluation.loss ?? Number.NaN);
      expect(late).to.be.below(early ?? 0);
    });
  }

  it("has the same losses however two ranks divide the work", async () => {
    const layers = await train("tensor", { tensorParallel: 2 });
    const rows = await train("data", { dataParallel: 2 });
    const values = ({ loss, evalLoss }: JobResult) => [...loss, ...evalLoss.map((e) => e.loss)];
    const want = values(layers);
    values(rows).forEach((got, index) => {
      const expected = want[index] ?? Number.NaN;
      expect(got, `loss ${index}`).to.be.closeTo(expected, LOSS_TOL * expected);
    });
  });

  it("goes on with a text from the weights that its job wrote", async () => {
    await train("tensor", { tensorParallel: 2 });
    const file = join(folder, "tensor.yaml");
    const { code, stdout, stderr } = await runCli(
      ["generate", file, "--prompt", "And it came to pass", "--tokens", "12"],
      { timeoutMs: TIMEOUT_MS },
    );
    expect(code, stderr).to.equal(0);
    expect(stdout).to.match(/^And it came to pass.{1,12}/s);
    expect(stderr).to.include("12 tokens on 1 rank");
  });
});

interface TextSource {
  readonly text: { readonly path: string };
}

interface ExampleJob {
  readonly data: TextSource;
  readonly eval: { readonly data: TextSource };
}

/** The source, its text found from elsewhere. */
function inExample<S extends TextSource>(source: S): S {
  return { ...source, text: { ...source.text, path: join(EXAMPLE, source.text.path) } };
}
