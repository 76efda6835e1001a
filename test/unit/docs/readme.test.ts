import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { expect } from "chai";
import { parse } from "yaml";
import { checkLoadedJob } from "../../../cli/check-job.ts";
import { EXIT } from "../../../cli/exit-codes.ts";
import { loadJobFile } from "../../../cli/job-file.ts";
import { traceModelFile } from "../../../cli/model-file.ts";
import * as api from "../../../models/module.ts";
import { resolveJobSpec } from "../../../shared/job/resolve.ts";
import { fixturePath } from "../../support/fixtures.ts";

const ROOT = dirname(dirname(dirname(fixturePath("x"))));

describe("the README", () => {
  let text = "";
  before(async () => {
    text = await readFile(join(ROOT, "README.md"), "utf8");
  });

  function block(language: string): string {
    const found = new RegExp(`\`\`\`${language}\\n([^]*?)\`\`\``).exec(text)?.[1];
    if (found === undefined) throw new Error(`no ${language} block`);
    return found;
  }

  it("shows the example job as it is in examples/", async () => {
    const example = await readFile(join(ROOT, "examples/feed-forward.yaml"), "utf8");
    expect(parse(block("yaml"))).to.deep.equal(parse(example));
  });

  it("lists every key of a job, with its default", () => {
    const resolved = resolveJobSpec({ model: { feedForward: {} }, data: { random: {} } });
    if (!resolved.ok) throw new Error("the least job is not valid");
    for (const key of Object.keys(resolved.spec)) {
      expect(text, key).to.include(`\n| \`${key}\` |`);
    }
  });

  it("has a model file that traces", async () => {
    const folder = await mkdtemp(join(tmpdir(), "rankmesh-readme-"));
    try {
      const path = join(folder, "model.mjs");
      await writeFile(path, block("js"));
      const graph = await traceModelFile(path, {}, folder);
      expect(graph.parameters.map(({ name }) => name)).to.deep.equal([
        "up.weight",
        "up.bias",
        "down.weight",
      ]);
    } finally {
      await rm(folder, { recursive: true });
    }
  });

  it("lists all of the modelling API", () => {
    // What a forward gets: named in types and errors, never written by a user.
    const inner = ["SymbolicTensor"];
    for (const name of Object.keys(api).filter((name) => !inner.includes(name))) {
      expect(text, name).to.match(new RegExp(`^\\|.*\`${name}[\`(]`, "m"));
    }
  });

  it("lists the exit codes", () => {
    for (const code of Object.values(EXIT)) expect(text).to.include(`\n| ${code} |`);
  });
});

describe("the examples", () => {
  const folder = join(ROOT, "examples");

  it("are jobs that would run", async () => {
    const jobs = (await readdir(folder)).filter((name) => name.endsWith(".yaml"));
    expect(jobs).to.not.deep.equal([]);
    for (const name of jobs) {
      const sizes = { dataParallel: 1, tensorParallel: 1 };
      const { plan } = await checkLoadedJob(await loadJobFile(join(folder, name)), {
        sizes: ({ mesh }) => ({
          dataParallel: mesh.dataParallel === "auto" ? sizes.dataParallel : mesh.dataParallel,
          tensorParallel:
            mesh.tensorParallel === "auto" ? sizes.tensorParallel : mesh.tensorParallel,
        }),
      });
      expect(plan.program.arenaBytes, name).to.be.above(0);
    }
  });
});
