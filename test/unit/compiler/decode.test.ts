import { expect } from "chai";
import { compileDecoder, type DecodeRequest } from "../../../compiler/decode.ts";
import { VirtualRanks } from "../../../compiler/interpret/run-program.ts";
import { gpt2Graph } from "../../../models/gpt2.ts";
import { llamaGraph } from "../../../models/llama.ts";
import { InvalidArgumentError } from "../../../shared/errors.ts";
import type { ForwardGraph } from "../../../shared/graph/graph.ts";
import type { Gpt2Model, LlamaModel } from "../../../shared/job/job-spec.ts";
import type { Program } from "../../../shared/program/program.ts";
import { feedForwardGraph, GraphBuilder, numbers, requestOf } from "../../support/compile-cases.ts";
import { fullLogits } from "../../support/full-logits.ts";

const llamaModel: LlamaModel = {
  dim: 16,
  layers: 2,
  heads: 4,
  kvHeads: 2,
  hidden: 24,
  vocab: 12,
  ropeTheta: 500_000,
  normEps: 1e-5,
  dropout: 0.3,
  tied: false,
};
const gpt2Model: Gpt2Model = {
  dim: 16,
  layers: 2,
  heads: 4,
  vocab: 11,
  contextLength: 7,
  dropout: 0.3,
  tied: true,
  normEps: 1e-5,
};
const llama =
  (changes: Partial<LlamaModel> = {}) =>
  (seqLen: number): ForwardGraph =>
    llamaGraph({ ...llamaModel, ...changes }, seqLen, "auto");
const gpt2 = (seqLen: number): ForwardGraph => gpt2Graph(gpt2Model, seqLen, "auto");

/** One block whose values are scaled head by head, so that dims between tokens and features come and go. */
function apart(seqLen: number): ForwardGraph {
  const b = new GraphBuilder([seqLen], "int32");
  const x = b.node("embedding", [0, b.parameter("table", 12, 16)], "table", {}, 16);
  const heads = b.node("reshape", [x], "", { rank: 4, d1: seqLen, d2: 4, d3: 4 }, 4);
  const gated = b.node("mul", [heads, b.node("silu", [heads], "")], "");
  const h = b.node("reshape", [gated], "", { rank: 3, d1: seqLen, d2: 16 }, 16);
  const [q, k, v] = ["q", "k", "v"].map((layer) => b.linear(layer, h, 16));
  const attrs = { heads: 4, kvHeads: 4, headDim: 4, causal: 1 };
  const o = b.node("attention", [q ?? 0, k ?? 0, v ?? 0], "attention", attrs, 16);
  const plan = { q: "colwise", k: "colwise", v: "colwise", o: "rowwise" };
  return b.build(b.linear("head", b.linear("o", o, 16), 12), plan);
}

const MODELS: Readonly<Record<string, (seqLen: number) => ForwardGraph>> = {
  "a llama with two kv-heads": llama(),
  "a llama whose ranks share one kv-head": llama({ kvHeads: 1 }),
  "a tied llama of a vocabulary that does not divide": llama({ vocab: 13, tied: true }),
  "a gpt2": gpt2,
  "a model that looks at its heads apart": apart,
};
const TOKENS = [3, 0, 7, 7, 1, 10, 2];

function decoder(graph: ForwardGraph, tp: number, changes: Partial<DecodeRequest> = {}) {
  const plan = Object.fromEntries(
    Object.entries(graph.defaultPlan).filter(
      ([layer]) => changes.name !== "shared heads" || !/w[kv]$/.test(layer),
    ),
  );
  const { name, mesh, axes } = requestOf({ graph, tp, plan });
  const request = { name, graph, mesh, axes: axes.map((a) => ({ ...a, splitsBatch: false })) };
  const draw = { context: TOKENS.length, temperature: 0, topK: 0, seed: 0 };
  return compileDecoder({ ...request, ...draw, ...changes }).program;
}

function weightsOf(graph: ForwardGraph): Map<string, Float64Array> {
  return new Map(
    graph.parameters.map(({ name, dims, init }, i) => {
      const bound = init.kind === "uniform" ? init.bound : 0.1;
      const centre = init.kind === "constant" ? init.value : 0;
      const count = dims.reduce((a, b) => a * b, 1);
      return [name, numbers(count, i + 1).map((x) => centre + 3 * bound * x)];
    }),
  );
}

/** The program with the logits as its result, element by element: what is sampled from. */
function logitsOf(program: Program, ranks: VirtualRanks): Float64Array {
  const sample = program.body.find((i) => i.kind === "compute" && i.op === "sampleToken");
  if (sample?.kind !== "compute") throw new Error("the program samples nothing");
  return ranks.slotData(0, sample.inputs[0] ?? -1);
}

describe("a decoder's logits", () => {
  for (const [model, build] of Object.entries(MODELS)) {
    for (const tp of [1, 2, 4]) {
      const name = /one kv-head/.test(model) || tp > 2 ? "shared heads" : "decoder";
      it(`of ${model} on ${tp} ranks are those of the whole sequence at every position`, () => {
        const whole = build(TOKENS.length);
        const program = decoder(whole, tp, { name });
        const weights = weightsOf(whole);
        const expected = fullLogits(whole, weights, TOKENS);
        const ranks = new VirtualRanks(program, weights);
        // Twice: when the context is full, a sequence begins anew.
        [...TOKENS, ...TOKENS].forEach((token, step) => {
          const position = step % TOKENS.length;
          const { loss } = ranks.runStep(
            new Map([[program.inputs[0]?.name ?? "", Float64Array.of(token)]]),
          );
          const [got, want] = [logitsOf(program, ranks), expected[position] ?? new Float64Array(0)];
          expect(got.length).to.equal(want.length);
          got.forEach((x, id) => {
            expect(x, `position ${position}, id ${id}`).to.be.closeTo(want[id] ?? Number.NaN, 1e-9);
          });
          expect(loss, `position ${position}`).to.equal(want.indexOf(Math.max(...want)));
        });
      });
    }
  }
});

describe("a decoder's draws", () => {
  const graph = llama({ vocab: 12 })(1);
  const weights = weightsOf(graph);
  /** Tokens of a text that goes on with what is drawn. */
  const text = (tp: number, changes: Partial<DecodeRequest>): number[] => {
    const context = 24;
    const ranks = new VirtualRanks(decoder(graph, tp, { context, ...changes }), weights);
    const tokens = [4];
    while (tokens.length < context)
      tokens.push(ranks.runStep(new Map([["tokens", Float64Array.of(tokens.at(-1) ?? 0)]])).loss);
    return tokens;
  };

  for (const changes of [{ temperature: 0 }, { temperature: 1.5 }, { temperature: 3, topK: 4 }]) {
    it(`are the same on 1 and 2 ranks: ${JSON.stringify(changes)}`, () => {
      expect(text(2, changes)).to.deep.equal(text(1, changes));
    });
  }

  it("follow the seed", () => {
    const draw = (seed: number) => text(1, { temperature: 3, seed });
    expect(draw(1)).to.deep.equal(draw(1));
    expect(draw(2)).not.to.deep.equal(draw(1));
    expect(draw(1 + 2 ** 32)).not.to.deep.equal(draw(1));
  });
});

describe("a decoder", () => {
  const faults = (graph: ForwardGraph, changes: Partial<DecodeRequest> = {}): string => {
    try {
      decoder(graph, 1, changes);
    } catch (error) {
      if (error instanceof InvalidArgumentError) return error.message;
      throw error;
    }
    return "no faults";
  };

  it("keeps caches of whole sequences, in memory of their own, split as keys are", () => {
    for (const [tp, width] of [
      [1, 8],
      [2, 4],
    ] as const) {
      const program = decoder(llama()(1), tp);
      const caches = program.stored.filter(({ role }) => role === "cache");
      expect(caches.map(({ name }) => name)).to.deep.equal([
        "layers.0.attention.keys0",
        "layers.0.attention.values0",
        "layers.1.attention.keys1",
        "layers.1.attention.values1",
      ]);
      for (const { slot } of caches)
        expect(program.slots[slot]?.shape).to.deep.equal([TOKENS.length, width]);
      // Each a whole number of 256 bytes.
      expect(program.memoryByKind.cache).to.equal(4 * 256);
    }
  });

  it("exchanges two sums a block, one for the embedding, and the logits", () => {
    const { collectives } = decoder(llama()(1), 2);
    expect(collectives.map(({ op, label }) => `${op} of ${label}`)).to.deep.equal([
      "allReduce of tok_embeddings",
      "allReduce of layers.0.attention.wo",
      "allReduce of layers.0.feed_forward.w2",
      "allReduce of layers.1.attention.wo",
      "allReduce of layers.1.feed_forward.w2",
      "allGather of output",
    ]);
  });

  it("is refused for a model that takes no tokens", () => {
    const message = "this one takes x [8] float32";
    expect(faults(feedForwardGraph(8, 8))).to.contain(message);
  });

  it("is refused for a context longer than the model's positions", () => {
    expect(faults(gpt2(7), { context: 8 })).to.contain(
      "a context of 8 tokens, and the model was made for 7; look back on no more than those",
    );
  });

  it("is refused for attention that looks ahead, and for none", () => {
    const graph = llama()(1);
    const nodes = graph.nodes.map((node) =>
      node.op === "attention" ? { ...node, attrs: { ...node.attrs, causal: 0 } } : node,
    );
    expect(faults({ ...graph, nodes })).to.contain(
      'layer "layers.0.attention", op attention: tokens see those after them',
    );
    const b = new GraphBuilder([1], "int32");
    const x = b.node("embedding", [0, b.parameter("table", 5, 4)], "table", {}, 4);
    expect(faults(b.build(b.linear("head", x, 5)))).to.contain("has no attention");
  });

  it("is refused for draws that make no sense", () => {
    expect(faults(llama()(1), { temperature: -1 })).to.contain("temperature");
    expect(faults(llama()(1), { topK: 1.5 })).to.contain("topK");
  });
});
