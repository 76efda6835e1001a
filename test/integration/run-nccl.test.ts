import { expect } from "chai";
import { lookAlike } from "../support/look-alike.ts";
import {
  expectAsReference,
  type ReferenceRun,
  runReference,
  runTitle,
} from "../support/reference-run.ts";

/** Reference runs of PyTorch, on ranks that have a device of the look-alike each and exchange over its NCCL. */
const CASES: readonly ReferenceRun[] = [
  { reference: "feedforward-sum", mesh: [1, 2], job: {} },
  { reference: "feedforward-mse", mesh: [2, 2], job: { dataParallelSharding: "full" } },
  { reference: "llama-tiny", mesh: [1, 2], job: {} },
  { reference: "llama-clip", mesh: [2, 2], job: { dataParallelSharding: "optimizer" } },
];

describe("rankmesh run --backend cuda, over NCCL of the look-alike, against the reference", function () {
  this.timeout(180_000);

  for (const run of CASES) {
    it(`gives the losses, norms and weights of ${runTitle(run)}`, async () => {
      const outcome = await runReference(run, {
        args: ["--backend", "cuda"],
        env: { ...lookAlike().envWithNccl, RANKMESH_LOOKALIKE_DEVICES: "4" },
        timeoutMs: 150_000,
      });
      expectAsReference(outcome);
      for (const { collectiveBytes } of outcome.result.ranks)
        expect(collectiveBytes).to.be.above(0);
    });
  }
});
