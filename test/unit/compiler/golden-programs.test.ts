import { expect } from "chai";
import { compile } from "../../../compiler/compile.ts";
import { printProgram, sentBytes } from "../../../shared/program/print.ts";
import type { Program } from "../../../shared/program/program.ts";
import {
  type Case,
  feedForwardGraph,
  GraphBuilder,
  requestOf,
} from "../../support/compile-cases.ts";
import { expectGolden } from "../../support/golden.ts";

const KiB = 1024;
const programOf = (c: Case): Program => compile(requestOf(c)).program;
const inPhase = (program: Program, phase: string) =>
  program.collectives.filter((c) => c.phase === phase);
const seed = (c: Partial<Case>): Case => ({ graph: feedForwardGraph(8192, 8192), batch: 8, ...c });

/** Two feed-forward blocks in a row. */
function twoBlocks(dim: number, hidden: number) {
  const builder = new GraphBuilder([dim]);
  let x = 0;
  const plan: Record<string, string> = {};
  for (const block of ["0", "1"]) {
    const a = builder.node("silu", [builder.linear(`${block}.w1`, x, hidden)], "");
    const h = builder.node("mul", [a, builder.linear(`${block}.w3`, x, hidden)], "");
    x = builder.linear(`${block}.w2`, h, dim);
    plan[`${block}.w1`] = plan[`${block}.w3`] = "colwise";
    plan[`${block}.w2`] = "rowwise";
  }
  return builder.build(x, plan);
}

describe("golden programs", () => {
  it("the reference program at tensorParallel 2 reduces 256 KiB once, in the forward pass", () => {
    const program = programOf(seed({ tp: 2 }));
    expect(inPhase(program, "forward").map((c) => [c.op, c.payloadBytes])).to.deep.equal([
      ["allReduce", 256 * KiB],
    ]);
    expect(inPhase(program, "backward")).to.deep.equal([]);
    expect(sentBytes(program)).to.equal(262_144);
    expectGolden("programs/feedforward-tp2.txt", printProgram(program));
  });

  it("a trainable layer in front costs one reduction of its output's gradient, shared by w1 and w3", () => {
    const program = programOf(seed({ graph: feedForwardGraph(8192, 8192, true), tp: 2 }));
    expect(inPhase(program, "forward")).to.have.length(1);
    expect(inPhase(program, "backward").map((c) => [c.op, c.payloadBytes])).to.deep.equal([
      ["allReduce", 256 * KiB],
    ]);
    expectGolden("programs/feedforward-front-tp2.txt", printProgram(program));
  });

  it("two blocks at tensorParallel 2 reduce twice forward and once backward", () => {
    const program = programOf(seed({ graph: twoBlocks(8192, 8192), tp: 2 }));
    expect(inPhase(program, "forward").map((c) => c.payloadBytes)).to.deep.equal([
      256 * KiB,
      256 * KiB,
    ]);
    expect(inPhase(program, "backward").map((c) => c.payloadBytes)).to.deep.equal([256 * KiB]);
    expect(sentBytes(program)).to.equal(786_432);
    expectGolden("programs/two-blocks-tp2.txt", printProgram(program));
  });

  for (const [sharding, reduced, exchanged] of [
    ["none", 402_784_260, 589_828],
    ["optimizer", 402_784_260, 201_785_348],
    ["full", 469_893_124, 268_894_212],
  ] as const) {
    it(`dataParallel 2 x tensorParallel 2, sharding ${sharding}: ${reduced} bytes with gradients reduced, ${exchanged} with factors exchanged`, () => {
      const [withReduction, withFactors] = [false, true].map((exchangeFactors) =>
        programOf(seed({ dp: 2, tp: 2, sharding, exchangeFactors })),
      );
      if (withReduction === undefined || withFactors === undefined) throw new Error("not compiled");
      expect(sentBytes(withReduction)).to.equal(reduced);
      expect(sentBytes(withFactors)).to.equal(exchanged);
      expectGolden(`programs/feedforward-dp2-tp2-${sharding}.txt`, printProgram(withFactors));
    });
  }

  it("compiles to identical text twice", () => {
    const c = seed({ dp: 2, tp: 2, sharding: "full", clip: 1 });
    expect(printProgram(programOf(c))).to.equal(printProgram(programOf(c)));
  });

  for (const [ranks, floor] of [
    [1, 2.416e9],
    [2, 1.208e9],
    [4, 0.604e9],
    [8, 0.302e9],
  ] as const) {
    it(`the arena of the reference program at ${ranks} ranks is within 2% of weights and moments`, () => {
      expect(programOf(seed({ tp: ranks })).arenaBytes).to.be.at.most(
        1.02 * floor + 4 * 1024 * KiB,
      );
    });
  }
});
