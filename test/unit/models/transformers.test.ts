import { expect } from "chai";
import { gpt2Graph } from "../../../models/gpt2.ts";
import { llamaGraph } from "../../../models/llama.ts";
import type { ForwardGraph } from "../../../shared/graph/graph.ts";
import type { Gpt2Model, LlamaModel } from "../../../shared/job/job-spec.ts";

const LLAMA: LlamaModel = {
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
};
const GPT2: Gpt2Model = {
  dim: 64,
  layers: 2,
  heads: 4,
  vocab: 96,
  contextLength: 32,
  dropout: 0,
  tied: true,
  normEps: 1e-5,
};

function dimsByName(graph: ForwardGraph): Record<string, readonly number[]> {
  return Object.fromEntries(graph.parameters.map(({ name, dims }) => [name, dims]));
}

/** `layer:op` of every node inside one block, in order. */
function blockOps(graph: ForwardGraph, block: string): string[] {
  return graph.nodes
    .filter(({ layer }) => layer === block || layer.startsWith(`${block}.`))
    .map(({ layer, op }) => `${layer.slice(block.length)}:${op}`);
}

/** Number of nodes of an op. */
function count(graph: ForwardGraph, op: string): number {
  return graph.nodes.filter((node) => node.op === op).length;
}

describe("llama", () => {
  const graph = llamaGraph(LLAMA, 16, "auto");

  it("takes int32 tokens and gives logits", () => {
    expect(graph.inputs).to.deep.equal([{ name: "tokens", dtype: "int32", dims: [16] }]);
    expect(graph.nodes.at(-1)).to.deep.include({ op: "linear", layer: "output" });
    expect(graph.output).to.equal(
      graph.inputs.length + graph.parameters.length + graph.nodes.length - 1,
    );
  });

  it("names and shapes its weights as Meta does", () => {
    const block = (n: number) => ({
      [`layers.${n}.attention.wq.weight`]: [64, 64],
      [`layers.${n}.attention.wk.weight`]: [32, 64],
      [`layers.${n}.attention.wv.weight`]: [32, 64],
      [`layers.${n}.attention.wo.weight`]: [64, 64],
      [`layers.${n}.feed_forward.w1.weight`]: [160, 64],
      [`layers.${n}.feed_forward.w2.weight`]: [64, 160],
      [`layers.${n}.feed_forward.w3.weight`]: [160, 64],
      [`layers.${n}.attention_norm.weight`]: [64],
      [`layers.${n}.ffn_norm.weight`]: [64],
    });
    expect(dimsByName(graph)).to.deep.equal({
      "tok_embeddings.weight": [96, 64],
      ...block(0),
      ...block(1),
      "norm.weight": [64],
      "output.weight": [96, 64],
    });
  });

  it("runs a block's ops in order", () => {
    expect(blockOps(graph, "layers.1")).to.deep.equal([
      ".attention_norm:rmsNorm",
      ".attention.wq:linear",
      ".attention:rope",
      ".attention.wk:linear",
      ".attention:rope",
      ".attention.wv:linear",
      ".attention:attention",
      ".attention.wo:linear",
      ":add",
      ".ffn_norm:rmsNorm",
      ".feed_forward.w1:linear",
      ".feed_forward.w3:linear",
      ".feed_forward:swiglu",
      ".feed_forward.w2:linear",
      ":add",
    ]);
  });

  it("has the plan of the reference, sequence parallel where it divides", () => {
    expect(graph.defaultPlan).to.deep.equal({
      tok_embeddings: "rowwise(output=shard(1), optional)",
      "layers.*.attention_norm": "sequence(optional)",
      "layers.*.attention.wq": "colwise",
      "layers.*.attention.wk": "colwise",
      "layers.*.attention.wv": "colwise",
      "layers.*.attention.wo": "rowwise(output=shard(1), optional)",
      "layers.*.ffn_norm": "sequence(optional)",
      "layers.*.feed_forward.w1": "colwise",
      "layers.*.feed_forward.w3": "colwise",
      "layers.*.feed_forward.w2": "rowwise(output=shard(1), optional)",
      norm: "sequence(optional)",
      output: "colwise(optional)",
    });
  });

  it("insists on sequence parallelism where it is asked for", () => {
    const { defaultPlan } = llamaGraph(LLAMA, 16, true);
    expect(defaultPlan).to.deep.include({
      tok_embeddings: "rowwise(output=shard(1), optional)",
      "layers.*.attention_norm": "sequence",
      "layers.*.attention.wo": "rowwise(output=shard(1))",
      "layers.*.feed_forward.w2": "rowwise(output=shard(1))",
      norm: "sequence",
      output: "colwise(optional)",
    });
  });

  it("leaves sequence parallelism out where it is not wanted", () => {
    const { defaultPlan } = llamaGraph(LLAMA, 16, false);
    expect(defaultPlan).to.deep.equal({
      tok_embeddings: "rowwise(optional)",
      "layers.*.attention.wq": "colwise",
      "layers.*.attention.wk": "colwise",
      "layers.*.attention.wv": "colwise",
      "layers.*.attention.wo": "rowwise",
      "layers.*.feed_forward.w1": "colwise",
      "layers.*.feed_forward.w3": "colwise",
      "layers.*.feed_forward.w2": "rowwise",
      output: "colwise(optional)",
    });
  });

  it("has one weight for embedding and output when they are tied", () => {
    const tied = llamaGraph({ ...LLAMA, tied: true }, 16, "auto");
    const names = Object.keys(dimsByName(tied));
    expect(names).to.include("tok_embeddings.weight");
    expect(names).to.not.include("output.weight");
    const weight = tied.inputs.length + names.indexOf("tok_embeddings.weight");
    expect(tied.nodes[0]?.inputs).to.deep.equal([0, weight]);
    expect(tied.nodes.at(-1)?.inputs[1]).to.equal(weight);
    expect(tied.nodes.at(-1)?.layer).to.equal("output");
  });

  it("drops out what a block adds, each time with other numbers", () => {
    const dropping = llamaGraph({ ...LLAMA, dropout: 0.1 }, 16, "auto");
    const nodes = dropping.nodes.filter(({ op }) => op === "dropout");
    expect(nodes.map(({ layer }) => layer)).to.deep.equal([
      "layers.0.attention_dropout",
      "layers.0.ffn_dropout",
      "layers.1.attention_dropout",
      "layers.1.ffn_dropout",
    ]);
    expect(new Set(nodes.map(({ attrs }) => attrs["nameLow"])).size).to.equal(4);
    expect(count(graph, "dropout")).to.equal(0);
  });

  it("stretches the rotation as its scaling says", () => {
    const ropeScaling = { factor: 8, lowFrequency: 1, highFrequency: 4, originalLength: 8192 };
    const scaled = llamaGraph({ ...LLAMA, ropeScaling }, 16, "auto");
    const attrs = scaled.nodes.find(({ op }) => op === "rope")?.attrs;
    expect(attrs).to.deep.equal({ headDim: 8, theta: 500000, inverse: 0, ...ropeScaling });
  });
});

describe("gpt2", () => {
  const graph = gpt2Graph(GPT2, 16, "auto");

  it("names its weights as Hugging Face does, with q, k and v apart", () => {
    const block = (n: number) => {
      const both = (layer: string, out: number, features: number) => ({
        [`h.${n}.${layer}.weight`]: [out, features],
        [`h.${n}.${layer}.bias`]: [out],
      });
      return {
        [`h.${n}.ln_1.weight`]: [64],
        [`h.${n}.ln_1.bias`]: [64],
        ...both("attn.q", 64, 64),
        ...both("attn.k", 64, 64),
        ...both("attn.v", 64, 64),
        ...both("attn.proj", 64, 64),
        [`h.${n}.ln_2.weight`]: [64],
        [`h.${n}.ln_2.bias`]: [64],
        ...both("mlp.fc", 256, 64),
        ...both("mlp.proj", 64, 256),
      };
    };
    expect(dimsByName(graph)).to.deep.equal({
      "wte.weight": [96, 64],
      "wpe.weight": [32, 64],
      ...block(0),
      ...block(1),
      "ln_f.weight": [64],
      "ln_f.bias": [64],
    });
  });

  it("runs a block's ops in order", () => {
    expect(blockOps(graph, "h.0")).to.deep.equal([
      ".ln_1:layerNorm",
      ".attn.q:linear",
      ".attn.q:bias",
      ".attn.k:linear",
      ".attn.k:bias",
      ".attn.v:linear",
      ".attn.v:bias",
      ".attn:attention",
      ".attn.proj:linear",
      ".attn.proj:bias",
      ":add",
      ".ln_2:layerNorm",
      ".mlp.fc:linear",
      ".mlp.fc:bias",
      ".mlp:geluTanh",
      ".mlp.proj:linear",
      ".mlp.proj:bias",
      ":add",
    ]);
  });

  it("has a head of its own when weights are not tied", () => {
    const { parameters } = gpt2Graph({ ...GPT2, tied: false }, 16, "auto");
    expect(parameters.map(({ name }) => name)).to.include("lm_head.weight");
  });

  it("splits attention and mlp column-wise, then row-wise", () => {
    expect(graph.defaultPlan).to.deep.equal({
      wte: "rowwise(output=shard(1), optional)",
      wpe: "sequence(optional)",
      "h.*.ln_1": "sequence(optional)",
      "h.*.attn.q": "colwise",
      "h.*.attn.k": "colwise",
      "h.*.attn.v": "colwise",
      "h.*.attn.proj": "rowwise(output=shard(1), optional)",
      "h.*.ln_2": "sequence(optional)",
      "h.*.mlp.fc": "colwise",
      "h.*.mlp.proj": "rowwise(output=shard(1), optional)",
      ln_f: "sequence(optional)",
      lm_head: "colwise(optional)",
    });
  });

  it("drops out embeddings and what a block adds", () => {
    const dropping = gpt2Graph({ ...GPT2, dropout: 0.5 }, 16, "auto");
    expect(count(dropping, "dropout")).to.equal(5);
  });
});
