import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import { ContextWindows } from "../../cli/context-windows.ts";
import { llamaGraph } from "../../models/llama.ts";
import type { LlamaModel } from "../../shared/job/job-spec.ts";
import { type CliResult, runCli } from "../support/cli.ts";
import { fullLogits } from "../support/full-logits.ts";
import { readRaw, writeRaw } from "../support/hugging-face.ts";
import { readTensors } from "../support/safetensors.ts";
import { tokenizerJson } from "../support/tokenizer.ts";

const model: LlamaModel = {
  dim: 32,
  layers: 2,
  heads: 4,
  kvHeads: 2,
  hidden: 48,
  vocab: 256,
  ropeTheta: 500_000,
  normEps: 1e-5,
  dropout: 0.1,
  tied: false,
};

const TEXT = "In the beginning was the word. ".repeat(20);

interface Generated {
  readonly text: string;
  readonly promptTokens: readonly number[];
  readonly tokens: readonly number[];
  readonly state: string;
}

describe("rankmesh generate", function () {
  // Each test starts up to three processes, several times.
  this.timeout(120_000);
  let folder = "";

  before(async () => {
    folder = await mkdtemp(join(tmpdir(), "rankmesh-generate-"));
    await writeFile(join(folder, "text.txt"), TEXT);
    await writeJob("job.json", {});
    const trained = await command(["run", "job.json"]);
    expect(trained.code, trained.stderr).to.equal(0);
  });

  after(async () => {
    await rm(folder, { recursive: true, force: true });
  });

  const command = (args: readonly string[]): Promise<CliResult> =>
    runCli(args, { cwd: folder, timeoutMs: 60_000 });

  async function writeJob(name: string, change: object): Promise<void> {
    const job = {
      name: "words",
      model: { llama: model },
      loss: "cross_entropy",
      optimizer: { adamw: { lr: 1e-2 } },
      data: { batchSize: 4, text: { path: "text.txt", seqLen: 24 } },
      steps: 12,
      output: { safetensors: "final.safetensors" },
      ...change,
    };
    await writeFile(join(folder, name), JSON.stringify(job));
  }

  async function generate(
    args: readonly string[],
    job = "job.json",
  ): Promise<CliResult & { readonly generated: Generated }> {
    const result = await command(["generate", job, "--json", "out.json", ...args]);
    expect(result.code, result.stderr).to.equal(0);
    const generated = JSON.parse(await readFile(join(folder, "out.json"), "utf8")) as Generated;
    return { ...result, generated };
  }

  it("writes the likeliest text on 1 and 2 ranks, and it is that of the whole model, past its context too", async () => {
    const [prompt, context, count] = ["In the be", 24, 40];
    const args = ["--prompt", prompt, "--temperature", "0", "--tokens", `${count}`];
    const { stdout, stderr, generated } = await generate(args);
    const { tokens } = generated;
    expect(tokens).to.have.lengthOf(count);
    expect(stdout).to.equal(`${prompt}${generated.text}\n`);
    expect(stderr).to.match(/40 tokens on 1 rank, [\d.]+ tokens\/s/);

    const weights = await readTensors(join(folder, "final.safetensors"));
    const text = [...generated.promptTokens, ...tokens];
    const windows = new ContextWindows(prompt.length, context);
    const likeliest: number[] = [];
    for (let start = 0; start < windows.steps(count); start += context) {
      const end = Math.min(start + context, windows.steps(count));
      const steps = Array.from({ length: end - start }, (_, i) => start + i);
      const fed = steps.map((step) => text[windows.fedAt(step)] ?? -1);
      const logits = fullLogits(llamaGraph(model, fed.length, false), weights, fed);
      likeliest.push(
        ...logits
          .filter((_, i) => windows.isDrawn(start + i))
          .map((z) => z.indexOf(Math.max(...z))),
      );
    }
    expect(tokens).to.deep.equal(likeliest);

    const pair = await generate([...args, "--tp", "2"]);
    expect(pair.generated.tokens).to.deep.equal(tokens);
  });

  it("draws the same text on 1 and 2 ranks, and of the likeliest only when asked to", async () => {
    const args = ["--prompt", "the", "--temperature", "2", "--tokens", "30", "--seed", "5"];
    const one = (await generate(args)).generated.tokens;
    const two = (await generate([...args, "--tp", "2"])).generated.tokens;
    expect(two).to.deep.equal(one);
    const likely = (await generate([...args, "--top-k", "2"])).generated.tokens;
    expect(likely).not.to.deep.equal(one);
  });

  it("reads and writes text with the job's tokenizer", async () => {
    const merges = [
      ["t", "h"],
      ["th", "e"],
    ] as const;
    await writeFile(join(folder, "tokenizer.json"), tokenizerJson({ merges }));
    const text = { path: "text.txt", tokenizer: "tokenizer.json", seqLen: 16 };
    const wide = { llama: { ...model, vocab: 300 } };
    const output = { safetensors: "wide.safetensors" };
    await writeJob("wide.json", { model: wide, data: { batchSize: 4, text }, steps: 0, output });
    expect((await command(["run", "wide.json"])).code).to.equal(0);
    const { stdout, generated } = await generate(["--prompt", "the", "--tokens", "5"], "wide.json");
    expect(generated.promptTokens).to.deep.equal([257]);
    expect(generated.tokens).to.have.lengthOf(5);
    expect(stdout).to.equal(`the${generated.text}\n`);

    const wrong = ["generate", "job.json", "--prompt", "the", "--tokenizer", "tokenizer.json"];
    const { code, stderr } = await command(wrong);
    expect(stderr).to.contain(
      "the tokenizer has ids up to 257, and the model knows 0 to 255; give the model's own tokenizer with --tokenizer",
    );
    expect(code).to.equal(2);
  });

  it("says so when the weights are no numbers", async () => {
    const tensors = await readRaw(join(folder, "final.safetensors"));
    const output = tensors.get("output.weight");
    if (output === undefined) throw new Error("no output.weight");
    const bytes = new Uint8Array(Float32Array.of(Number.NaN).buffer);
    tensors.set("output.weight", {
      ...output,
      bytes: output.bytes.map((_, i) => bytes[i % 4] ?? 0),
    });
    await writeRaw(join(folder, "nan.safetensors"), tensors);
    const args = ["generate", "job.json", "--prompt", "the", "--weights", "nan.safetensors"];
    const { code, stderr } = await command(args);
    expect(stderr).to.contain("gives no probabilities after 1 token: its logits are not finite");
    expect(code).to.equal(1);
  });

  for (const [title, change, args, message] of [
    ["a prompt without text", {}, ["--prompt", ""], "--prompt is empty"],
    [
      "data without a tokenizer",
      { data: { batchSize: 1, random: { seqLen: 8 } } },
      ["--prompt", "a"],
      "give --tokenizer bytes or the path of a tokenizer.json",
    ],
    [
      "no weights",
      { output: { safetensors: "missing.safetensors" } },
      ["--prompt", "a"],
      "missing.safetensors, is not there; run the job, or name a file with --weights",
    ],
    [
      "weights of another model",
      { model: { llama: { ...model, layers: 3 } } },
      ["--prompt", "a"],
      'has no tensor "layers.2.attention.wq.weight"',
    ],
    [
      "a model that reads no text",
      { model: { mlp: { dims: [4, 4] } } },
      ["--prompt", "a", "--weights", "final.safetensors"],
      "generates text only where its one input is a row of token ids (int32); this one takes x [4] float32",
    ],
  ] as const) {
    it(`says what is wrong with ${title}`, async () => {
      await writeJob("wrong.json", change);
      const { code, stderr } = await command(["generate", "wrong.json", "--tokens", "2", ...args]);
      expect(stderr).to.contain(message);
      expect(code).to.equal(2);
    });
  }
});
