import {
  expectAsReference,
  expectClose,
  type ReferenceRun,
  runReference,
  runTitle,
} from "../support/reference-run.ts";
import { RUN_ON_GPU } from "./cuda.ts";

/** bfloat16 keeps 8 bits: a value is off by up to 1/256 of itself, a mean over many by far less. */
const HALF_LOSS_TOL = 2e-2;
const HALF_NORM_TOL = 5e-2;

/** All ranks on one GPU, a process each. */
const RUNS: readonly ReferenceRun[] = [
  { reference: "feedforward-sum", mesh: [1, 1], job: {} },
  { reference: "feedforward-sum", mesh: [1, 2], job: {} },
  { reference: "feedforward-sum", mesh: [1, 4], job: {} },
  { reference: "feedforward-sum", mesh: [1, 8], job: {} },
  { reference: "feedforward-mse", mesh: [1, 1], job: {} },
  { reference: "feedforward-mse", mesh: [1, 2], job: { gradientAccumulation: 3 } },
  { reference: "feedforward-mse", mesh: [1, 4], job: {} },
  { reference: "feedforward-sum", mesh: [2, 2], job: { dataParallelSharding: "full" } },
  { reference: "llama-tiny", mesh: [1, 1], job: {} },
  { reference: "llama-tiny", mesh: [1, 2], job: { sequenceParallel: true } },
  { reference: "llama-tiny", mesh: [1, 4], job: { sequenceParallel: true, recompute: "block" } },
  { reference: "llama-tiny", mesh: [2, 4], job: { dataParallelSharding: "optimizer" } },
  { reference: "llama-clip", mesh: [1, 2], job: {} },
];

const HALF_RUNS: readonly ReferenceRun[] = [
  { reference: "llama-tiny", mesh: [1, 1], job: { precision: "bf16" } },
  { reference: "llama-tiny", mesh: [1, 2], job: { precision: "bf16", sequenceParallel: true } },
  { reference: "llama-tiny", mesh: [1, 4], job: { precision: "bf16" } },
];

describe("rankmesh run --backend cuda against the reference", () => {
  for (const run of RUNS) {
    it(`gives the losses, norms and weights of ${runTitle(run)}`, async () => {
      expectAsReference(await runReference(run, RUN_ON_GPU));
    });
  }

  for (const run of HALF_RUNS) {
    it(`stays near the float32 losses and norms of ${runTitle(run)}`, async () => {
      const { result, want } = await runReference(run, RUN_ON_GPU);
      expectClose(result.loss, want.loss, "loss", HALF_LOSS_TOL);
      expectClose(result.gradNorm, want.grad_norm, "gradient norm", HALF_NORM_TOL);
    });
  }
});
