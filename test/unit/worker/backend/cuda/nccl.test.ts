import { type ChildProcess, fork } from "node:child_process";
import { fileURLToPath } from "node:url";
import { expect } from "chai";
import { worldSize } from "../../../../../shared/mesh/mesh.ts";
import { buildLookAlike, lookAlike } from "../../../../support/look-alike.ts";
import { MESHES, meshTitle, ncclCases, titleOf, wanted } from "../../../../support/nccl-cases.ts";
import type { RankMessage } from "../../../../support/nccl-rank.ts";

const RANK = fileURLToPath(new URL("../../../../support/nccl-rank.js", import.meta.url));
type Outcome = Extract<RankMessage, { readonly outputs: number[][] }>;

describe("collectives over NCCL, on the look-alike", function () {
  this.timeout(60_000);
  before(buildLookAlike);

  MESHES.forEach((mesh, meshIndex) => {
    describe(meshTitle(mesh), () => {
      const children: ChildProcess[] = [];
      let outcomes: Outcome[] = [];

      before(async () => {
        const env = { ...process.env, ...lookAlike().envWithNccl, RANKMESH_LOOKALIKE_DEVICES: "4" };
        for (let rank = 0; rank < worldSize(mesh); rank++) {
          children.push(fork(RANK, [String(meshIndex), String(rank)], { env }));
        }
        const ready = await Promise.all(children.map(nextMessage));
        const ids = ready.flatMap((message) => ("ids" in message ? message.ids : []));
        const results = children.map(nextMessage);
        for (const child of children) child.send(ids);
        outcomes = (await Promise.all(results)).map((message) => {
          if ("outputs" in message) return message;
          throw new Error(JSON.stringify(message));
        });
      });

      after(() => {
        for (const child of children) child.kill("SIGKILL");
      });

      ncclCases(mesh).forEach((one, index) => {
        it(`gives every rank its exact result: ${titleOf(one)}`, () => {
          for (const [rank, { outputs }] of outcomes.entries()) {
            expect(outputs[index], `rank ${rank}`).to.deep.equal(wanted(mesh, one, rank));
          }
        });
      });

      it("tells of every run, and gives all memory back", () => {
        for (const { ended, heldBytes } of outcomes) {
          expect(ended).to.equal(2 * ncclCases(mesh).length);
          expect(heldBytes).to.equal(0);
        }
      });
    });
  });
});

function nextMessage(child: ChildProcess): Promise<RankMessage> {
  return new Promise((resolve, reject) => {
    child.once("message", (message) => resolve(message as RankMessage));
    child.once("exit", (code) => reject(new Error(`a rank ended with ${code}`)));
  });
}
