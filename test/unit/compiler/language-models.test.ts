import { expect } from "chai";
import { compile } from "../../../compiler/compile.ts";
import { gpt2Graph } from "../../../models/gpt2.ts";
import { llamaGraph } from "../../../models/llama.ts";
import { InvalidArgumentError } from "../../../shared/errors.ts";
import type { ForwardGraph } from "../../../shared/graph/graph.ts";
import type { Gpt2Model, LlamaModel } from "../../../shared/job/job-spec.ts";
import { printProgram, sentBytes } from "../../../shared/program/print.ts";
import type { Program } from "../../../shared/program/program.ts";
import { type Case, compareWithOneDevice, requestOf } from "../../support/compile-cases.ts";
import { expectGolden } from "../../support/golden.ts";

const small: LlamaModel = {
  dim: 16,
  layers: 2,
  heads: 4,
  kvHeads: 4,
  hidden: 24,
  vocab: 12,
  ropeTheta: 500_000,
  normEps: 1e-5,
  dropout: 0,
  tied: false,
};
const smallGpt2: Gpt2Model = {
  dim: 16,
  layers: 2,
  heads: 4,
  vocab: 12,
  contextLength: 9,
  dropout: 0,
  tied: true,
  normEps: 1e-5,
};
const llama = (changes: Partial<LlamaModel> = {}, seqLen = 8, sp: "auto" | boolean = "auto") =>
  llamaGraph({ ...small, ...changes }, seqLen, sp);

function expectEqual(graph: ForwardGraph, c: Omit<Case, "graph">, updateBound = 1e-7): void {
  const batch = { batch: 12, loss: "cross_entropy" as const, seed: 3, evaluation: true };
  const result = compareWithOneDevice({ graph, ...batch, ...c });
  expect(result.unmoved, "weights that did not move").to.deep.equal([]);
  expect(result.replicasEqual, "copies are equal").to.equal(true);
  // Float64 sums in another order; an update divides small moments by their roots.
  expect(result.lossError).to.be.below(1e-9);
  expect(result.updateError).to.be.below(updateBound);
}

const meshes = [
  { dp: 1, tp: 1 },
  { dp: 1, tp: 2 },
  { dp: 1, tp: 4 },
  { dp: 2, tp: 1 },
  { dp: 2, tp: 2 },
  { dp: 3, tp: 2 },
];

describe("a language model equals one device", () => {
  for (const mesh of meshes) {
    for (const sharding of mesh.dp > 1
      ? (["none", "optimizer", "full"] as const)
      : ["none" as const]) {
      for (const sequenceParallel of mesh.tp > 1 ? [false, true] : [false]) {
        for (const recompute of ["none", "block"] as const) {
          const where = `dataParallel ${mesh.dp} x tensorParallel ${mesh.tp}, sharding ${sharding}, sequence parallel ${sequenceParallel ? "on" : "off"}, recompute ${recompute}`;
          it(`Llama, ${where}`, () => {
            const graph = llama({}, 8, sequenceParallel);
            for (const microbatches of [1, 2])
              expectEqual(graph, { ...mesh, sharding, recompute, microbatches });
          });
        }
      }
    }
  }

  for (const sharding of ["none", "optimizer", "full"] as const) {
    for (const recompute of ["none", "block"] as const) {
      it(`tied Llama with dropout and fewer kv heads, dataParallel 2 x tensorParallel 2, sharding ${sharding}, recompute ${recompute}, clipped`, () => {
        const graph = llama({ tied: true, dropout: 0.3, kvHeads: 2 });
        for (const microbatches of [1, 3]) {
          const clip = { clip: 0.1, norm: true };
          expectEqual(graph, { dp: 2, tp: 2, sharding, recompute, microbatches, ...clip });
        }
      });
      it(`GPT-2, dataParallel 2 x tensorParallel 2, sharding ${sharding}, recompute ${recompute}`, () => {
        for (const changes of [{}, { tied: false, dropout: 0.2 }]) {
          const graph = gpt2Graph({ ...smallGpt2, ...changes }, 8, "auto");
          // A softmax does not see a bias of its keys, whose gradient is rounding alone.
          expectEqual(graph, { dp: 2, tp: 2, sharding, recompute, microbatches: 2 }, 1e-5);
        }
      });
    }
  }

  it("where sequence, vocabulary and data axis do not divide", () => {
    for (const [dp, tp] of [
      [1, 2],
      [3, 2],
      [5, 1],
    ] as const) {
      for (const sharding of ["none", "full"] as const)
        expectEqual(llama({ vocab: 11 }, 7), { dp, tp, sharding, batch: 15 });
    }
  });

  it("with one kv head for all ranks: keys and values whole, their gradients reduced", () => {
    const graph = llama({ kvHeads: 1 });
    const plan = { ...graph.defaultPlan };
    for (const name of ["wk", "wv"]) plan[`layers.*.attention.${name}`] = "replicate";
    for (const tp of [2, 4]) expectEqual(graph, { tp, plan });
  });

  it("with plans of one's own", () => {
    const graph = llama();
    for (const plan of [
      { "layers.*.attention.w?": "replicate" },
      { "layers.*.attention.wo": "colwise", tok_embeddings: "colwise" },
      { output: "rowwise", "layers.*.feed_forward.w1": "rowwise" },
      { output: "colwise(output=replicate)", norm: "sequence" },
      { norm: "sequence(input=replicate)", tok_embeddings: "rowwise(input=replicate)" },
      { "layers.0.feed_forward.*": "colwise", tok_embeddings: "rowwise(output=shard(1))" },
    ])
      expectEqual(graph, { dp: 2, tp: 2, plan });
  });
});

describe("faults of a language model's plan", () => {
  const faultsOf = (graph: ForwardGraph, c: Omit<Case, "graph">): string[] => {
    try {
      compile(requestOf({ graph, loss: "cross_entropy", batch: 12, ...c }));
    } catch (error) {
      if (error instanceof InvalidArgumentError)
        return error.faults.map((f) => `${f.path}: ${f.message}`);
      throw error;
    }
    return [];
  };

  it("name layer, heads and what would work when kv heads are fewer than ranks", () => {
    const faults = faultsOf(llama({ kvHeads: 2 }), { tp: 4 });
    expect(faults).to.have.length(2);
    expect(faults[0]).to.match(
      /colwise "layers.0.attention.wk" and 1 more layer: 2 kvHeads of 4 features are not divisible by 4 ranks; use 1 or 2 ranks/,
    );
  });

  it("name layer and heads when heads do not divide", () => {
    const faults = faultsOf(llama({ dim: 24, heads: 4 }), { tp: 3 });
    expect(faults.filter((f) => f.includes("wq"))[0]).to.match(
      /"layers.0.attention.wq" and 1 more layer: 4 heads of 6 features are not divisible by 3 ranks; use 1, 2 or 4 ranks/,
    );
  });

  it("name the hidden size when it does not divide", () => {
    const faults = faultsOf(llama({ hidden: 25 }), { tp: 2 });
    expect(faults[0]).to.match(
      /"layers.0.feed_forward.w1" and 1 more layer: 25 out-features .* use 1, 5 or 25 ranks/,
    );
  });

  it("are notes where only the default plan splits what does not divide", () => {
    const request = requestOf({ graph: llama({ vocab: 11 }, 7), tp: 2, loss: "cross_entropy" });
    const { notes } = compile(request);
    expect(notes).to.deep.equal([
      '"tok_embeddings" left whole on tensorParallel: 11 rows of the vocabulary are not divisible by 2 ranks; use 1 or 11 ranks, or a multiple of 2',
      '"tok_embeddings" and 9 more layers left whole on tensorParallel: output: dim 1 of [6, 7, 16] is not divisible by 2 ranks',
      '"output" left whole on tensorParallel: 11 out-features are not divisible by 2 ranks; use 1 or 11 ranks, or a multiple of 2',
    ]);
  });

  it("name the sequence length where sequence parallelism was asked for", () => {
    const faults = faultsOf(llama({}, 7, true), { tp: 2 });
    expect(faults.join("\n")).to.match(/dim 1 of \[12, 7, 16\] is not divisible by 2 ranks/);
  });

  it("name both layers that share a weight and want it split apart", () => {
    const graph = llama({ tied: true });
    const plan = { tok_embeddings: "rowwise", output: "rowwise" };
    expect(faultsOf(graph, { tp: 2, plan }).join("\n")).to.match(
      /"output" and "tok_embeddings" share the weight "tok_embeddings.weight"/,
    );
  });

  it("say which styles a norm may have", () => {
    expect(faultsOf(llama(), { tp: 2, plan: { norm: "colwise" } })[0]).to.match(
      /"norm" is a layer of kind norm.*use sequence, replicate/,
    );
  });
});

describe("golden programs of Llama", () => {
  const MiB = 1024 * 1024;
  const wide = { dim: 4096, layers: 2, heads: 32, kvHeads: 32, hidden: 11_008, vocab: 32_000 };
  const programOf = (sp: boolean, c: Omit<Case, "graph">): Program =>
    compile(requestOf({ graph: llama(wide, 128, sp), loss: "cross_entropy", batch: 8, ...c }))
      .program;
  const count = (program: Program, phase: string, op: string, bytes: number): number =>
    program.collectives.filter((c) => c.phase === phase && c.op === op && c.payloadBytes === bytes)
      .length;

  it("tensorParallel 2: five reductions of 16 MiB forward, five backward, one gather of statistics", () => {
    const program = programOf(false, { tp: 2 });
    expect(count(program, "forward", "allReduce", 16 * MiB)).to.equal(5);
    expect(count(program, "backward", "allReduce", 16 * MiB)).to.equal(5);
    expect(program.collectives).to.have.length(11);
    expect(sentBytes(program)).to.equal(167_784_448);
    expectGolden("programs/llama-tp2.txt", printProgram(program));
  });

  it("tensorParallel 2 with sequence parallelism: gathers and scatters in place of reductions, norms reduced together", () => {
    const program = programOf(true, { tp: 2 });
    for (const phase of ["forward", "backward"]) {
      expect(count(program, phase, "reduceScatter", 16 * MiB)).to.equal(5);
      expect(count(program, phase, "allGather", 16 * MiB)).to.equal(5);
    }
    expect(count(program, "backward", "allReduce", 5 * 16 * 1024)).to.equal(1);
    expect(sentBytes(program)).to.equal(167_866_368);
    expectGolden("programs/llama-tp2-sequence.txt", printProgram(program));
  });

  it("recompute repeats no reduction", () => {
    for (const sp of [false, true]) {
      const [kept, repeated] = (["none", "block"] as const).map((recompute) =>
        programOf(sp, { tp: 2, recompute }),
      );
      if (kept === undefined || repeated === undefined) throw new Error("not compiled");
      const reductions = (p: Program): number =>
        p.collectives.filter((c) => c.op !== "allGather").length;
      expect(reductions(repeated)).to.equal(reductions(kept));
      expect(repeated.arenaBytes).to.be.below(kept.arenaBytes);
    }
  });

  for (const [sharding, reduced, exchanged] of [
    ["none", 1_417_762_820, 301_817_860],
    ["optimizer", 1_417_762_820, 900_423_684],
    ["full", 1_953_626_116, 1_436_286_980],
  ] as const) {
    it(`dataParallel 2 x tensorParallel 2, sharding ${sharding}: ${reduced} bytes with gradients reduced, ${exchanged} with factors exchanged`, () => {
      const mesh = { dp: 2, tp: 2, sharding };
      const withReduction = programOf(false, { ...mesh, exchangeFactors: false });
      // Without sharding every rank would form every gradient: only arithmetic that costs nothing is worth that.
      const free = sharding === "none" ? { flopsPerByte: Number.POSITIVE_INFINITY } : {};
      const withFactors = programOf(false, { ...mesh, ...free });
      expect(sentBytes(withReduction)).to.equal(reduced);
      expect(sentBytes(withFactors)).to.equal(exchanged);
      expectGolden(`programs/llama-dp2-tp2-${sharding}.txt`, printProgram(withReduction));
    });
  }
});
