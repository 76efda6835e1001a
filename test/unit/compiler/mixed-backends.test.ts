import { expect } from "chai";
import { compile } from "../../../compiler/compile.ts";
import { llamaGraph } from "../../../models/llama.ts";
import type { LlamaModel } from "../../../shared/job/job-spec.ts";
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
  kvHeads: 4,
  hidden: 24,
  vocab: 12,
  ropeTheta: 500_000,
  normEps: 1e-5,
  dropout: 0,
  tied: true,
};
const MESHES = [
  { dp: 1, tp: 2 },
  { dp: 2, tp: 1 },
  { dp: 2, tp: 2 },
] as const;

/** Names of weights whose copies a collective ends the update of. */
function equalised({ collectives, stored }: Program): Set<string> {
  const names = new Set(stored.map(({ name }) => name));
  return new Set(
    collectives
      .filter(({ phase, label, to }) => phase === "optimizer" && to === "R" && names.has(label))
      .map(({ label }) => label),
  );
}

describe("ranks that may round differently", () => {
  for (const mesh of MESHES) {
    for (const sharding of ["none", "optimizer", "full"] as const) {
      if (mesh.dp === 1 && sharding !== "none") continue;
      it(`get equal bits of every weight of which they hold copies, dataParallel ${mesh.dp} x tensorParallel ${mesh.tp}, sharding ${sharding}`, () => {
        const graph = llamaGraph(model, 8, "auto");
        const c: Case = { graph, ...mesh, sharding, batch: 8, loss: "cross_entropy", seed: 1 };
        const { program } = compile(requestOf({ ...c, mixedBackends: true }));
        const axes = program.mesh.axes;
        const copied = program.stored.filter(
          ({ role, layout }) =>
            role === "parameter" &&
            layout.some((p, axis) => p === "R" && (axes[axis]?.size ?? 1) > 1),
        );
        if (sharding === "none") expect(copied).to.not.have.length(0);
        const missing = copied.map(({ name }) => name).filter((n) => !equalised(program).has(n));
        expect(missing).to.deep.equal([]);
        const result = compareWithOneDevice({ ...c, mixedBackends: true });
        expect(result.unmoved).to.deep.equal([]);
        expect(result.replicasEqual).to.equal(true);
        expect(result.lossError).to.be.below(1e-9);
        expect(result.updateError).to.be.below(1e-7);
      });
    }
  }

  it("say in a note what that sends", () => {
    const notesOf = (c: Case) => compile(requestOf({ ...c, mixedBackends: true })).notes;
    const front: Case = { graph: feedForwardGraph(64, 64, true), tp: 2, batch: 8 };
    expect(notesOf(front)).to.deep.equal([
      "mixed backends: copies of 1 weight are kept equal by a broadcast after each update, 16384 bytes sent a step and rank",
    ]);
    expect(notesOf({ ...front, graph: feedForwardGraph(64, 64) })).to.deep.equal([
      "mixed backends: no rank updates a copy of another rank's weight, so copies are equal without a broadcast",
    ]);
    const { program } = compile(requestOf({ ...front, mixedBackends: true }));
    expectGolden("programs/feedforward-front-tp2-mixed.txt", printProgram(program));
  });
});
