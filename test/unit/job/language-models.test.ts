import { expect } from "chai";
import type { JobSpec } from "../../../shared/job/job-spec.ts";
import { requireJobSpec, resolveJobSpec } from "../../../shared/job/resolve.ts";

const RANDOM = { random: { seqLen: 16 } };
const TEXT = { text: { path: "t.txt", seqLen: 16 } };
const TINY = { llama: {} };
const GRAPH = {
  inputs: [{ name: "tokens", dtype: "int32", dims: [16] }],
  parameters: [{ name: "emb.weight", dims: [96, 8], bound: 0.1 }],
  nodes: [{ op: "embedding", inputs: [0, 1], layer: "emb" }],
  output: 2,
};

/** Faults of a llama on random tokens with `extra`, as printed lines. */
function faultsWith(extra: Record<string, unknown>): string[] {
  const result = resolveJobSpec({ model: TINY, data: RANDOM, ...extra });
  return result.ok ? [] : result.faults.map((fault) => `${fault.path}: ${fault.message}`);
}

function partialOf(value: unknown): JobSpec | undefined {
  const result = resolveJobSpec(value);
  if (result.ok) throw new Error("no faults");
  return result.partial;
}

describe("a language model's spec", () => {
  it("fills in the sizes of a tiny llama, and its loss", () => {
    const spec = requireJobSpec({ model: TINY, data: TEXT });
    expect(spec.model).to.deep.equal({
      llama: {
        dim: 64,
        layers: 2,
        heads: 8,
        kvHeads: 4,
        hidden: 160,
        vocab: 96,
        ropeTheta: 500000,
        normEps: 1e-5,
        dropout: 0,
        tied: false,
      },
    });
    expect(spec.loss).to.equal("cross_entropy");
    expect(spec.data).to.deep.equal({
      batchSize: 4,
      shuffle: false,
      text: { path: "t.txt", tokenizer: "bytes", seqLen: 16 },
    });
  });

  it("fills in the sizes of the smallest gpt2", () => {
    expect(requireJobSpec({ model: { gpt2: {} }, data: TEXT }).model).to.deep.equal({
      gpt2: {
        dim: 768,
        layers: 12,
        heads: 12,
        vocab: 50257,
        contextLength: 1024,
        dropout: 0,
        tied: true,
        normEps: 1e-5,
      },
    });
  });

  it("has no more kv-heads than heads where none are given", () => {
    const spec = requireJobSpec({ model: { llama: { heads: 2 } }, data: TEXT });
    expect(spec.model).to.have.nested.property("llama.kvHeads", 2);
  });

  it("stretches the rotary embedding as Llama 3.1 does where nothing else is said", () => {
    const spec = requireJobSpec({ model: { llama: { ropeScaling: { factor: 32 } } }, data: TEXT });
    expect(spec.model).to.have.nested.property("llama.ropeScaling").that.deep.equals({
      factor: 32,
      lowFrequency: 1,
      highFrequency: 4,
      originalLength: 8192,
    });
  });

  for (const [model, loss] of [
    [{ llama: {} }, "cross_entropy"],
    [{ gpt2: {} }, "cross_entropy"],
    [{ huggingFace: { path: "m" } }, "cross_entropy"],
    [{ graph: GRAPH }, "sum"],
  ] as const) {
    it(`takes the loss of ${Object.keys(model)[0]} where none is given: ${loss}`, () => {
      expect(requireJobSpec({ model, data: TEXT }).loss).to.equal(loss);
    });
  }

  it("keeps a loss that is given", () => {
    expect(requireJobSpec({ model: TINY, data: RANDOM, loss: "mean" }).loss).to.equal("mean");
  });

  it("takes a classifier: cross-entropy over an mlp's outputs", () => {
    const model = { mlp: { dims: [4, 8, 3] } };
    const data = { safetensors: { path: "d" } };
    expect(requireJobSpec({ model, data, loss: "cross_entropy" }).loss).to.equal("cross_entropy");
  });

  const good: readonly [string, Record<string, unknown>][] = [
    ["sequence parallelism", { sequenceParallel: true }],
    ["recompute of blocks", { recompute: "block" }],
    ["recompute where it is needed", { recompute: "auto" }],
    ["tokens of 4 bytes", { data: { tokens: { path: "t.bin", dtype: "uint32", seqLen: 8 } } }],
    ["streamed sequences", { data: { stream: { seqLen: 8 } } }],
    ["a file that tells the length itself", { data: { safetensors: { path: "d" } } }],
    ["held-out text", { eval: { every: 10, batches: 2, data: TEXT } }],
    ["held-out data that is not used", { eval: { every: 0, data: TEXT } }],
    ["an export", { output: { huggingFace: "out", safetensors: "out.safetensors" } }],
    [
      "a checkpoint, exported",
      { model: { huggingFace: { path: "m" } }, output: { huggingFace: "o" } },
    ],
    ["a graph on text of its length", { model: { graph: GRAPH }, data: TEXT }],
  ];
  for (const [what, extra] of good) {
    it(`takes ${what}`, () => {
      expect(faultsWith(extra)).to.deep.equal([]);
    });
  }

  const bad: readonly [string, Record<string, unknown>, string][] = [
    [
      "heads that do not divide dim",
      { model: { llama: { dim: 72, heads: 8 } } },
      "model.llama.heads: 8 heads of dim 72 have 9 features each; rotary embedding needs an even number; use 6 or 9",
    ],
    [
      "heads that leave a rest",
      { model: { llama: { dim: 60, heads: 8 } } },
      "model.llama.heads: 8 heads do not divide dim 60; use 6 or 10",
    ],
    [
      "kv-heads that do not divide heads",
      { model: { llama: { kvHeads: 3 } } },
      "model.llama.kvHeads: 3 kvHeads do not divide heads 8; use 2 or 4",
    ],
    [
      "more kv-heads than heads",
      { model: { llama: { kvHeads: 16 } } },
      "model.llama.kvHeads: 16 kvHeads do not divide heads 8; use 8",
    ],
    [
      "a dropout of 1",
      { model: { llama: { dropout: 1 } } },
      "model.llama.dropout: is 1; must be a finite number at least 0 and below 1",
    ],
    [
      "a negative dropout",
      { model: { gpt2: { dropout: -0.1 } } },
      "model.gpt2.dropout: is -0.1; must be a finite number at least 0 and below 1",
    ],
    [
      "a rotary base below 1",
      { model: { llama: { ropeTheta: 0.5 } } },
      "model.llama.ropeTheta: is 0.5; must be a finite number at least 1",
    ],
    [
      "no blocks",
      { model: { llama: { layers: 0 } } },
      "model.llama.layers: is 0; must be an integer at least 1 and at most 126",
    ],
    [
      "a misspelt key",
      { model: { llama: { kvheads: 2 } } },
      'model.llama.kvheads: unknown key; did you mean "kvHeads"?',
    ],
    ["a misspelt model", { model: { lama: {} } }, 'model.lama: unknown key; did you mean "llama"?'],
    [
      "a rotary stretch upside down",
      { model: { llama: { ropeScaling: { lowFrequency: 4, highFrequency: 1 } } } },
      "model.llama.ropeScaling.highFrequency: is 1; must be above lowFrequency 4",
    ],
    [
      "heads of a gpt2 that do not divide",
      { model: { gpt2: { heads: 7 } } },
      "model.gpt2.heads: 7 heads do not divide dim 768; use 6 or 8",
    ],
    [
      "a vocabulary past every memory",
      { model: { llama: { dim: 2 ** 17, vocab: 2 ** 24 } } },
      "model.llama.vocab: 131072 x 16777216 weights are more than the 1099511627776 that one parameter may have",
    ],
    [
      "no length of sequences",
      { data: { random: {} } },
      "data.random.seqLen: is missing; model.llama takes sequences of tokens, and it says how many a row has",
    ],
    [
      "a stream without length",
      { data: { stream: {} }, model: { gpt2: {} } },
      "data.stream.seqLen: is missing; model.gpt2 takes sequences of tokens, and it says how many a row has",
    ],
    [
      "sequences of nothing",
      { data: { text: { path: "t", seqLen: 0 } } },
      "data.text.seqLen: is 0; must be an integer at least 1 and at most 1048576",
    ],
    [
      "a text without length",
      { data: { text: { path: "t" } } },
      "data.text.seqLen: is missing; must be an integer at least 1 and at most 1048576",
    ],
    [
      "tokens of 8 bytes",
      { data: { tokens: { path: "t", dtype: "uint64", seqLen: 4 } } },
      'data.tokens.dtype: "uint64" is unknown; must be one of uint16, uint32; did you mean "uint16"?',
    ],
    [
      "text for a model of features",
      { model: { feedForward: {} }, data: TEXT },
      "data.text: gives tokens, but model.feedForward takes x; use safetensors, random or stream",
    ],
    [
      "a length for a model of features",
      { model: { mlp: { dims: [2, 2] } } },
      "data.random.seqLen: is 16; model.mlp takes no sequences of tokens, leave it out",
    ],
    [
      "sequences past a gpt2's context",
      { model: { gpt2: { contextLength: 8 } } },
      "data.random.seqLen: is 16; model.gpt2 has positions for contextLength 8",
    ],
    [
      "text for a graph of another length",
      { model: { graph: GRAPH }, data: { text: { path: "t", seqLen: 8 } } },
      "data.text.seqLen: is 8; the model was traced for 16 tokens",
    ],
    [
      "text for a graph of features",
      { model: { graph: { ...GRAPH, inputs: [{ name: "x", dims: [16] }] } }, data: TEXT },
      'data.text: gives "tokens" [rows, seqLen] int32 and nothing else for the model, but it takes "x" [rows, 16] float32',
    ],
    [
      "a graph whose input has the name of the targets",
      {
        model: { graph: { ...GRAPH, inputs: [{ name: "targets", dtype: "int32", dims: [16] }] } },
        loss: "cross_entropy",
        data: { stream: {} },
      },
      'model.graph.inputs[0].name: "targets" is the name of the target that loss cross_entropy adds; give the input another name',
    ],
    [
      "a squared error against text",
      { loss: "mse", data: TEXT },
      'loss: "mse" needs a target y, which data.text does not give; use cross_entropy',
    ],
    [
      "sequences of more numbers than a double counts",
      { data: { batchSize: 2 ** 24, random: { seqLen: 2 ** 20 } } },
      "data.random.seqLen: 16777216 rows of 1048576 tokens make an activation of ",
    ],
    [
      "an evaluation of nothing",
      { eval: { every: 5 } },
      "eval.data: is missing; an evaluation every 5 steps needs held-out data, as text, tokens, safetensors or random",
    ],
    [
      "an evaluation of another length",
      { eval: { every: 5, data: { text: { path: "t", seqLen: 8 } } } },
      "eval.data.text.seqLen: is 8; it must be that of the training data, 16",
    ],
    [
      "an evaluation of random rows without length",
      { eval: { every: 5, data: { random: {} } } },
      "eval.data.random.seqLen: is missing; ",
    ],
    [
      "an evaluation with a batch size of its own",
      { eval: { every: 5, data: { ...TEXT, batchSize: 2 } } },
      "eval.data.batchSize: unknown key; ",
    ],
    [
      "a negative number of batches",
      { eval: { every: 5, batches: -1, data: TEXT } },
      "eval.batches: is -1; must be an integer at least 0",
    ],
    [
      "sequence parallelism of a model without sequences",
      { model: { feedForward: {} }, data: { random: {} }, sequenceParallel: true },
      "sequenceParallel: true is for the default plans of llama, gpt2 and huggingFace; ",
    ],
    [
      "sequence parallelism beside a plan of one's own",
      { sequenceParallel: true, plan: { output: "colwise" } },
      "sequenceParallel: true is for the default plan, but the job has a plan of its own: ",
    ],
    [
      "a checkpoint with other weights",
      { model: { huggingFace: { path: "m" } }, init: { safetensors: "w" } },
      "init.safetensors: model.huggingFace brings its own weights; leave it out",
    ],
    [
      "a checkpoint without path",
      { model: { huggingFace: {} } },
      "model.huggingFace.path: is missing; must be a string of 1 to 4096 bytes",
    ],
    [
      "an export of what is no llama",
      { model: { gpt2: {} }, output: { huggingFace: "out" } },
      "output.huggingFace: only llama and huggingFace models can be exported; use output.safetensors",
    ],
    [
      "a recompute of something else",
      { recompute: "blocks" },
      'recompute: "blocks" is unknown; must be one of none, block, auto; did you mean "block"?',
    ],
  ];
  for (const [what, extra, fault] of bad) {
    it(`refuses ${what}`, () => {
      const [first, ...others] = faultsWith(extra);
      expect(first?.slice(0, fault.length)).to.equal(fault);
      expect(others).to.deep.equal([]);
    });
  }

  it("finds faults of model, data and evaluation at once", () => {
    const faults = faultsWith({
      model: { llama: { heads: 7, kvHeads: 2, dropout: 2 } },
      data: { random: {}, batchSize: 0 },
      eval: { every: 5 },
      sequenceParallel: "yes",
    });
    expect(faults.map((fault) => fault.split(": ")[0])).to.have.members([
      "model.llama.heads",
      "model.llama.kvHeads",
      "model.llama.dropout",
      "data.random.seqLen",
      "data.batchSize",
      "eval.data",
      "sequenceParallel",
    ]);
  });

  it("blames no number that stands in for a faulty one", () => {
    const faults = faultsWith({ model: { llama: { dim: "x", heads: 7, kvHeads: 7 } } });
    expect(faults).to.have.length(1);
  });
});

describe("the partial spec of a language model beside faults", () => {
  it("keeps layers, and has sizes that divide where the model's do not", () => {
    const partial = partialOf({
      model: { llama: { layers: 3, heads: 7, tied: true } },
      data: TEXT,
      mesh: { tensorParallel: 3 },
    });
    expect(partial?.model).to.deep.include.keys("llama");
    if (partial === undefined || !("llama" in partial.model)) throw new Error("no llama");
    const { dim, heads, kvHeads, hidden, vocab, layers, tied } = partial.model.llama;
    expect([layers, tied]).to.deep.equal([3, true]);
    expect([dim % (2 * heads), heads % kvHeads, kvHeads % 3, hidden % 3, vocab % 3]).to.deep.equal([
      0, 0, 0, 0, 0,
    ]);
    expect(resolveJobSpec(partial).ok).to.equal(true);
  });

  for (const data of [
    {},
    { text: {} },
    { random: {} },
    { stream: {} },
    { random: { seqLen: 0 } },
    { safetensors: {} },
    "x",
    undefined,
  ]) {
    it(`has sequences where the data gives none: ${JSON.stringify(data)}`, () => {
      const partial = partialOf({ model: TINY, data, mesh: { tensorParallel: 3 } });
      expect(partial?.data).to.deep.equal({
        batchSize: 4,
        shuffle: false,
        stream: { seqLen: 24 },
      });
      expect(resolveJobSpec(partial).ok).to.equal(true);
    });
  }

  it("keeps sequences within a gpt2's context", () => {
    const partial = partialOf({ model: { gpt2: { contextLength: 4 } }, data: RANDOM });
    expect(partial?.data).to.deep.include({ stream: { seqLen: 4 } });
  });

  it("gives a model of features what it takes in place of text", () => {
    const model = { feedForward: { dim: 4, hidden: 4 } };
    expect(partialOf({ model, data: TEXT })?.data).to.deep.include({ stream: {} });
    expect(partialOf({ model, data: RANDOM })?.data).to.deep.include({ stream: {} });
  });

  it("keeps data that is right beside an evaluation that is not", () => {
    const partial = partialOf({ model: TINY, data: TEXT, eval: { every: 2 } });
    expect(partial?.data).to.deep.include({
      text: { path: "t.txt", tokenizer: "bytes", seqLen: 16 },
    });
    expect(partial?.eval).to.deep.equal({ every: 0, batches: 0 });
  });

  it("leaves out what was asked of the wrong model", () => {
    const model = { feedForward: { dim: 4, hidden: 4 } };
    const partial = partialOf({ model, data: { random: {} }, sequenceParallel: true });
    expect(partial?.sequenceParallel).to.equal("auto");
  });
});
