import { expect } from "chai";
import { compile } from "../../../compiler/compile.ts";
import { gpt2Graph } from "../../../models/gpt2.ts";
import { llamaGraph } from "../../../models/llama.ts";
import type { ForwardGraph } from "../../../shared/graph/graph.ts";
import type { Gpt2Model, LlamaModel } from "../../../shared/job/job-spec.ts";
import { printProgram } from "../../../shared/program/print.ts";
import type { Program } from "../../../shared/program/program.ts";
import {
  type Case,
  compareWithOneDevice,
  feedForwardGraph,
  requestOf,
} from "../../support/compile-cases.ts";
import { expectGolden } from "../../support/golden.ts";

const model: LlamaModel = {
  dim: 16,
  layers: 2,
  heads: 4,
  kvHeads: 2,
  hidden: 24,
  vocab: 12,
  ropeTheta: 500_000,
  normEps: 1e-5,
  dropout: 0.2,
  tied: false,
};
const gpt2: Gpt2Model = {
  dim: 16,
  layers: 2,
  heads: 4,
  vocab: 12,
  contextLength: 9,
  dropout: 0,
  tied: true,
  normEps: 1e-5,
};
const GRAPHS: readonly (readonly [string, ForwardGraph])[] = [
  ["Llama", llamaGraph(model, 8, "auto")],
  ["tied Llama", llamaGraph({ ...model, tied: true }, 8, "auto")],
  ["GPT-2", gpt2Graph(gpt2, 8, "auto")],
];

const half = (c: Case): Program => compile(requestOf({ ...c, precision: "bfloat16" })).program;

// The interpreter computes in float64 and rounds nowhere, so that casts change nothing: what is left to differ is a value
// that is read in the wrong place, or too late.
describe("a step in bfloat16, but for its roundings, equals one device in float32", () => {
  for (const [name, graph] of GRAPHS) {
    for (const [dp, tp] of [
      [1, 1],
      [1, 2],
      [2, 1],
      [2, 2],
    ] as const) {
      for (const sharding of dp === 1
        ? (["none"] as const)
        : (["none", "optimizer", "full"] as const)) {
        it(`${name}, dataParallel ${dp} x tensorParallel ${tp}, sharding ${sharding}`, () => {
          for (const [recompute, microbatches] of [
            ["none", 1],
            ["block", 2],
          ] as const) {
            const c = { dp, tp, sharding, recompute, microbatches, batch: 8, clip: 0.5 };
            const all = {
              graph,
              loss: "cross_entropy",
              norm: true,
              precision: "bfloat16",
            } as const;
            const result = compareWithOneDevice({ ...c, ...all, seed: 3, evaluation: true });
            expect(result.unmoved).to.deep.equal([]);
            expect(result.replicasEqual).to.equal(true);
            expect(result.lossError).to.be.below(1e-9);
            expect(result.updateError).to.be.below(1e-7);
          }
        });
      }
    }
  }

  it("FeedForward with every loss that is a float32 sum", () => {
    for (const loss of ["sum", "mean", "mse"] as const) {
      const graph = feedForwardGraph(12, 16, true);
      const result = compareWithOneDevice({ graph, tp: 2, batch: 8, loss, precision: "bfloat16" });
      expect(result.lossError).to.be.below(1e-9);
      expect(result.updateError).to.be.below(1e-7);
    }
  });
});

describe("a program in bfloat16", () => {
  it("holds weights, their state and the loss in float32", () => {
    const [, graph] = GRAPHS[0] ?? ["", feedForwardGraph(4, 4)];
    const program = half({ graph, dp: 2, tp: 2, batch: 8, loss: "cross_entropy" });
    const kept = [...program.stored.map(({ slot }) => slot), program.lossSlot];
    expect(new Set(kept.map((slot) => program.slots[slot]?.dtype))).to.deep.equal(
      new Set(["float32"]),
    );
  });

  it("gathers fully sharded weights as bfloat16: half the bytes", () => {
    const graph = feedForwardGraph(64, 64);
    const c: Case = { graph, dp: 2, batch: 8, sharding: "full" };
    const gathered = (program: Program): number[] =>
      program.collectives
        .filter(({ op, label }) => op === "allGather" && label.endsWith(".weight"))
        .map(({ payloadBytes }) => payloadBytes);
    expect(gathered(compile(requestOf(c)).program)).to.deep.equal([16384, 16384, 16384, 16384]);
    expect(gathered(half(c))).to.deep.equal([8192, 8192, 8192, 8192]);
    expectGolden("programs/feedforward-dp2-full-bfloat16.txt", printProgram(half(c)));
  });

  it("keeps no cast of a weight from the forward to the backward pass", () => {
    const graph = feedForwardGraph(64, 64, true);
    const program = half({ graph, batch: 8 });
    // Two casts of the weights that the backward pass reads, one of those that it does not.
    const casts = program.body.filter((i) => i.kind === "compute" && i.op === "cast");
    const sources = casts.map((i) => (i.kind === "compute" ? i.inputs[0] : -1));
    const names = sources.map((slot) => program.slots[slot ?? -1]?.name);
    const count = (name: string): number => names.filter((n) => n === name).length;
    expect(["front", "w1", "w3", "w2"].map((layer) => count(`${layer}.weight`))).to.deep.equal([
      1, 2, 2, 2,
    ]);
  });

  it("needs less memory for activations than the same in float32", () => {
    const graph = llamaGraph({ ...model, dim: 64, hidden: 160 }, 128, "auto");
    const c: Case = { graph, batch: 8, loss: "cross_entropy" };
    const bytes = (program: Program): number => program.memoryByKind.activations ?? 0;
    expect(bytes(half(c)) / bytes(compile(requestOf(c)).program)).to.be.below(0.65);
  });
});
