import { existsSync } from "node:fs";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import type { JobResult } from "../../cli/job-result.ts";
import { type CliResult, runCli } from "../support/cli.ts";
import { fixturePath } from "../support/fixtures.ts";
import {
  type CheckpointExpectation,
  type CheckpointFixture,
  changeJson,
  copyCheckpoint,
  FIXTURE_MODEL,
  numbersOf,
  type RawTensor,
  readJsonFile,
  readRaw,
  writeRaw,
} from "../support/hugging-face.ts";

/** Reordering float32 sums moves a loss by about 1e-6 of itself; a wrong order of rows by a tenth. */
const LOSS_TOL = 1e-5;

const MESHES = [
  ["llama", { dataParallel: 1, tensorParallel: 2 }, {}],
  ["llama-tied-shards", { dataParallel: 2, tensorParallel: 1 }, { dataParallelSharding: "full" }],
] as const;

describe("rankmesh run from a Hugging Face checkpoint", function () {
  // Up to two jobs and a conversion a test, each of several processes.
  this.timeout(60_000);
  let folder = "";

  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), "rankmesh-hf-"));
  });

  afterEach(async () => {
    await rm(folder, { recursive: true, force: true });
  });

  /** Runs a job on the checkpoint in `folder/checkpoint` with changes to its spec. */
  async function run(
    fixture: CheckpointFixture,
    change: Readonly<Record<string, unknown>>,
    command: readonly string[] = ["run"],
  ): Promise<CliResult> {
    const { batch, steps, lr } = await expectation(fixture);
    const job = join(folder, "job.yaml");
    const spec = {
      name: fixture,
      model: { huggingFace: { path: "checkpoint" } },
      mesh: { tensorParallel: 2 },
      loss: "cross_entropy",
      optimizer: { adamw: { lr } },
      data: { batchSize: batch, safetensors: { path: "checkpoint/data.safetensors" } },
      steps,
      output: { huggingFace: "out" },
    };
    await writeFile(job, JSON.stringify({ ...spec, ...change }));
    const json = command[0] === "run" ? ["--json", join(folder, "result.json")] : [];
    return runCli([...command, job, ...json], { cwd: folder });
  }

  async function losses(result: CliResult): Promise<readonly (number | null)[]> {
    expect(result.code, result.stderr).to.equal(0);
    return (await readJsonFile<JobResult>(join(folder, "result.json"))).loss;
  }

  function expectation(fixture: CheckpointFixture): Promise<CheckpointExpectation> {
    return readJsonFile(fixturePath(`hugging-face/${fixture}/expected.json`));
  }

  for (const [fixture, mesh, options] of MESHES) {
    const { dataParallel, tensorParallel } = mesh;
    it(`trains ${fixture} as PyTorch does, and exports what trains on, at ${dataParallel} x ${tensorParallel} ${JSON.stringify(options)}`, async () => {
      await copyCheckpoint(fixture, join(folder, "checkpoint"));
      const { loss, loss_after } = await expectation(fixture);
      expectClose(await losses(await run(fixture, { mesh, ...options })), loss);
      const again = await run(fixture, {
        model: { huggingFace: { path: "out" } },
        mesh,
        ...options,
        steps: 1,
        output: {},
      });
      expectClose(await losses(again), [loss_after]);
    });
  }

  for (const fixture of ["llama", "llama-tied-shards"] as const) {
    it(`exports ${fixture} untrained from 2 ranks as it came, tensor by tensor`, async () => {
      await copyCheckpoint(fixture, join(folder, "checkpoint"));
      const output = { huggingFace: "out", safetensors: "final.safetensors" };
      expect(await losses(await run(fixture, { steps: 0, output }))).to.deep.equal([]);
      const wanted = new Map<string, RawTensor>();
      for (const file of filesOf(fixture)) {
        for (const [name, tensor] of await readRaw(join(folder, "checkpoint", file)))
          wanted.set(name, tensor);
      }
      const got = await readRaw(join(folder, "out/model.safetensors"));
      expect([...got.keys()].sort()).to.deep.equal([...wanted.keys()].sort());
      for (const [name, tensor] of wanted) {
        const { dtype, shape } = got.get(name) ?? {};
        expect({ dtype, shape }, name).to.deep.equal({ dtype: "F32", shape: tensor.shape });
        expect(numbersOf(got.get(name) ?? tensor), name).to.deep.equal(numbersOf(tensor));
      }
      // From the other output, offline.
      const exported = await runCli(
        ["export", "--model", "job.yaml", "--weights", "final.safetensors", "--out", "again"],
        { cwd: folder },
      );
      expect(exported.code, exported.stderr).to.equal(0);
      for (const file of ["config.json", "model.safetensors"]) {
        const [a, b] = [join(folder, "out", file), join(folder, "again", file)];
        expect((await readFile(a)).equals(await readFile(b)), file).to.equal(true);
      }
    });
  }

  describe("starts nothing", () => {
    /** The lines that say why, and that nothing came of it. */
    async function refusal(fixture: CheckpointFixture, change = {}): Promise<string> {
      const result = await run(fixture, change);
      expect(result.code, result.stderr).to.equal(2);
      expect(existsSync(join(folder, "out"))).to.equal(false);
      const { state, error } = await readJsonFile<JobResult>(join(folder, "result.json"));
      expect(state).to.equal("FAILED");
      expect(error?.code).to.equal("INVALID_ARGUMENT");
      return result.stderr;
    }

    it("when the configuration disagrees with the tensors", async () => {
      await copyCheckpoint("llama", join(folder, "checkpoint"));
      await changeJson(join(folder, "checkpoint/config.json"), { num_key_value_heads: 4 });
      expect(await refusal("llama")).to.contain(
        'model.huggingFace.path: checkpoint/model.safetensors: tensor "model.layers.0.self_attn.k_proj.weight" is [16, 32]; config.json asks for [32, 32]',
      );
    });

    it("when the configuration is of another model, with the faults of other keys", async () => {
      await copyCheckpoint("llama", join(folder, "checkpoint"));
      await changeJson(join(folder, "checkpoint/config.json"), {
        model_type: "bert",
        vocab_size: 0,
      });
      const said = await refusal("llama", {
        clipGradNorm: -1,
        output: { huggingFace: "none/out" },
      });
      for (const part of [
        'checkpoint/config.json: model_type is "bert"; only llama, and mistral without a window, can be loaded',
        "checkpoint/config.json: vocab_size is 0; it must be an integer from 1 to 16777216",
        "clipGradNorm: ",
        'output.huggingFace: "none/out": its folder does not exist',
      ]) {
        expect(said).to.contain(part);
        expect(said.split(part), part).to.have.length(2);
      }
    });

    it("when weights are missing, also where the plan is at fault", async () => {
      await copyCheckpoint("llama-tied-shards", join(folder, "checkpoint"));
      await rm(join(folder, "checkpoint/model-00002-of-00002.safetensors"));
      const said = await refusal("llama-tied-shards", { mesh: { tensorParallel: 3 } });
      expect(said).to.contain(
        'model.huggingFace.path: "checkpoint/model-00002-of-00002.safetensors": no such file (named in model.safetensors.index.json)',
      );
      expect(said).to.match(/3/);
    });

    it("when a tied model's checkpoint holds two different weights", async () => {
      await copyCheckpoint("llama", join(folder, "checkpoint"));
      await changeJson(join(folder, "checkpoint/config.json"), { tie_word_embeddings: true });
      expect(await refusal("llama")).to.contain(
        'model.huggingFace.path: checkpoint: tensors "lm_head.weight" and "model.embed_tokens.weight" differ',
      );
      const { code, stdout } = await run("llama", {}, ["plan"]);
      expect(code, "plan reads headers only").to.equal(0);
      expect(stdout).to.contain("on 2 ranks");
    });

    it("when a file of initial weights holds two different weights for a tied model", async () => {
      await copyCheckpoint("llama", join(folder, "checkpoint"));
      const model = { llama: { ...FIXTURE_MODEL, tied: true } };
      const output = { safetensors: "init.safetensors" };
      await losses(await run("llama", { model, steps: 0, output }));
      const path = join(folder, "init.safetensors");
      const tensors = await readRaw(path);
      const embedding = tensors.get("tok_embeddings.weight");
      if (embedding === undefined) throw new Error("no embedding was written");
      const bytes = embedding.bytes.slice();
      bytes.fill(0, 0, 4);
      await writeRaw(path, tensors.set("output.weight", { ...embedding, bytes }));
      const init = output;
      expect(await refusal("llama", { model, init })).to.contain(
        'init.safetensors: init.safetensors: tensors "output.weight" and "tok_embeddings.weight" differ',
      );
      await writeRaw(path, tensors.set("output.weight", embedding));
      await losses(await run("llama", { model, init, steps: 0 }));
    });

    it("when the export would go over the checkpoint", async () => {
      await copyCheckpoint("llama", join(folder, "checkpoint"));
      expect(await refusal("llama", { output: { huggingFace: "checkpoint" } })).to.contain(
        'output.huggingFace: "checkpoint" is the folder that the model comes from; write to another one',
      );
    });
  });
});

function filesOf(fixture: CheckpointFixture): readonly string[] {
  return fixture === "llama"
    ? ["model.safetensors"]
    : ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
}

function expectClose(got: readonly (number | null)[], want: readonly number[]): void {
  expect(got).to.have.length(want.length);
  want.forEach((value, step) => {
    const distance = Math.abs((got[step] ?? Number.NaN) - value) / Math.abs(value);
    expect(distance, `loss of step ${step}: ${got[step]}, expected ${value}`).to.be.at.most(
      LOSS_TOL,
    );
  });
}
