import { expect } from "chai";
import fc from "fast-check";
import { compile } from "../../../../../compiler/compile.ts";
import { llamaGraph } from "../../../../../models/llama.ts";
import type { Instruction, Program } from "../../../../../shared/program/program.ts";
import { planStaging } from "../../../../../worker/backend/cuda/staging-plan.ts";
import { feedForwardGraph, requestOf } from "../../../../support/compile-cases.ts";

const llama = llamaGraph(
  {
    dim: 16,
    layers: 2,
    heads: 4,
    kvHeads: 4,
    hidden: 24,
    vocab: 12,
    ropeTheta: 500_000,
    normEps: 1e-5,
    dropout: 0,
    tied: true,
  },
  8,
  "auto",
);

/** Every collective's place on the host as [first, end) of input and output together. */
function extents(program: Program): { from: number; end: number }[] {
  return planStaging(program).collectives.map(({ input, output }) => ({
    from: Math.min(input.at, output.at),
    end: Math.max(input.at + input.bytes, output.at + output.bytes),
  }));
}

describe("host memory of collectives", () => {
  it("is never shared by two that are in flight together, and lies as the slots do", () => {
    fc.assert(
      fc.property(
        fc.record({
          dp: fc.constantFrom(1, 2),
          tp: fc.constantFrom(1, 2, 4),
          sharding: fc.constantFrom("none", "optimizer", "full"),
          microbatches: fc.constantFrom(1, 2),
          model: fc.constantFrom("llama", "feedForward"),
          precision: fc.constantFrom("float32", "bfloat16"),
          evaluation: fc.boolean(),
        }),
        ({ model, ...mesh }) => {
          const [graph, loss] =
            model === "llama"
              ? [llama, "cross_entropy" as const]
              : [feedForwardGraph(32, 32, true), "sum" as const];
          const { program } = compile(requestOf({ ...mesh, graph, loss, batch: 8 }));
          const { collectives, bytes } = planStaging(program);
          const places = extents(program);
          const inFlight = new Set<number>();
          const { body, epilogue, evaluation } = program;
          const sections: Instruction[][] = [
            [...body],
            [...epilogue],
            [...(evaluation?.body ?? [])],
            [...(evaluation?.epilogue ?? [])],
          ];
          for (const instruction of sections.flat()) {
            if (instruction.kind === "wait") inFlight.delete(instruction.collective);
            if (instruction.kind !== "start") continue;
            const own = places[instruction.collective];
            for (const other of inFlight) {
              const place = places[other];
              const apart =
                own === undefined ||
                place === undefined ||
                own.end <= place.from ||
                place.end <= own.from;
              expect(apart, `collectives ${instruction.collective} and ${other}`).to.equal(true);
            }
            inFlight.add(instruction.collective);
          }
          program.collectives.forEach(({ inputSlot, outputSlot }, i) => {
            const [input, output] = [program.slots[inputSlot], program.slots[outputSlot]];
            const staged = collectives[i];
            if (input === undefined || output === undefined || staged === undefined) {
              throw new Error(`collective ${i} has no slots or no place`);
            }
            const overlaps =
              input.offsetBytes < output.offsetBytes + staged.output.bytes &&
              output.offsetBytes < input.offsetBytes + staged.input.bytes;
            if (overlaps) {
              const distance = output.offsetBytes - input.offsetBytes;
              expect(staged.output.at - staged.input.at).to.equal(distance);
            }
            expect(places[i]?.end).to.be.at.most(bytes);
          });
        },
      ),
      { numRuns: 40 },
    );
  });

  it("is needed for none where nothing is exchanged", () => {
    const { program } = compile(requestOf({ graph: feedForwardGraph(8, 8), batch: 8 }));
    expect(planStaging(program)).to.deep.equal({ collectives: [], bytes: 0 });
  });

  it("is used again by collectives that follow each other", () => {
    const c = { graph: llama, tp: 2, batch: 8, loss: "cross_entropy" as const };
    const { program } = compile(requestOf(c));
    const separate = extents(program).reduce((sum, { from, end }) => sum + end - from, 0);
    expect(planStaging(program).bytes).to.be.below(separate / 3);
  });
});
