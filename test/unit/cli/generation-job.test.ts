import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import { UsageError } from "../../../cli/exit-codes.ts";
import { chooseWeights } from "../../../cli/generation-job.ts";
import type { LoadedJob } from "../../../cli/job-file.ts";
import { caught } from "../../support/caught.ts";

describe("the weights that a job generates with", () => {
  let folder: string;

  before(async () => {
    folder = await mkdtemp(join(tmpdir(), "rankmesh-weights-"));
    await writeFile(join(folder, "final.safetensors"), "");
    for (const checkpoint of ["start", "final"]) {
      await mkdir(join(folder, checkpoint));
      await writeFile(join(folder, checkpoint, "config.json"), "{}");
    }
  });

  after(() => rm(folder, { recursive: true, force: true }));

  const job = (spec: object): LoadedJob => ({ spec, folder, steps: 1, locate: (f) => [...f] });
  const file = { safetensors: "final.safetensors" };
  const model = { huggingFace: { path: "start" } };

  for (const [title, spec, name, kind] of [
    ["the file that it wrote", { output: file }, "final.safetensors", "safetensors"],
    ["the checkpoint that it wrote", { output: { huggingFace: "final" } }, "final", "huggingFace"],
    [
      "the checkpoint that it wrote, not the one that it began with",
      { model, output: { huggingFace: "final" } },
      "final",
      "huggingFace",
    ],
    [
      "the file where it wrote both",
      { model, output: { ...file, huggingFace: "final" } },
      "final.safetensors",
      "safetensors",
    ],
    [
      "the checkpoint that it begins with before it has run",
      { model, output: { huggingFace: "later" } },
      "start",
      "huggingFace",
    ],
  ] as const) {
    it(`are ${title}`, async () => {
      expect(await chooseWeights(job(spec), undefined)).to.deep.equal({
        path: join(folder, name),
        kind,
      });
    });
  }

  for (const [title, output, message] of [
    [
      "it writes none",
      {},
      "or give the job an output.safetensors or output.huggingFace and run it",
    ],
    [
      "it has not written them",
      { safetensors: "a", huggingFace: "b" },
      /the job's output\.safetensors, .*a, and output\.huggingFace, .*b, are not there; run the job/,
    ],
  ] as const) {
    it(`are missed where ${title}`, async () => {
      const error = await caught(chooseWeights(job({ output }), undefined));
      expect(error).to.be.instanceOf(UsageError);
      if (typeof message === "string") expect(String(error)).to.contain(message);
      else expect(String(error)).to.match(message);
    });
  }
});
