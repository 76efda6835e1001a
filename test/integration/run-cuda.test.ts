import { expect } from "chai";
import { lookAlike } from "../support/look-alike.ts";
import {
  expectAsReference,
  type ReferenceRun,
  runReference,
  runTitle,
} from "../support/reference-run.ts";

/** Reference runs of PyTorch, on ranks that share the look-alike's one GPU. */
const CASES: readonly ReferenceRun[] = [
  { reference: "feedforward-sum", mesh: [1, 1], job: {} },
  { reference: "feedforward-sum", mesh: [1, 2], job: {} },
  { reference: "feedforward-sum", mesh: [1, 4], job: {} },
  { reference: "feedforward-mse", mesh: [1, 1], job: {} },
  { reference: "feedforward-mse", mesh: [1, 2], job: { gradientAccumulation: 3 } },
  { reference: "feedforward-mse", mesh: [2, 2], job: { dataParallelSharding: "full" } },
  { reference: "llama-tiny", mesh: [1, 2], job: {} },
  { reference: "llama-clip", mesh: [2, 2], job: { dataParallelSharding: "optimizer" } },
];

describe("rankmesh run --backend cuda, on the look-alike driver, against the reference", function () {
  this.timeout(180_000);

  for (const run of CASES) {
    it(`gives the losses, norms and weights of ${runTitle(run)}`, async () => {
      const { env } = lookAlike();
      const outcome = await runReference(run, {
        args: ["--backend", "cuda"],
        env,
        timeoutMs: 150_000,
      });
      expectAsReference(outcome);
      for (const { backend, workspaceBytes } of outcome.result.ranks) {
        expect(backend).to.equal("cuda");
        expect(workspaceBytes).to.be.above(0);
      }
    });
  }
});
