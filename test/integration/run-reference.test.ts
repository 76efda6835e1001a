import {
  expectAsReference,
  type ReferenceRun,
  runReference,
  runTitle,
} from "../support/reference-run.ts";

const SWAPPED = { w1: "rowwise", w3: "rowwise", w2: "colwise" };

/** Reference runs of PyTorch on one device: every mesh and plan must give the same. */
const CASES: readonly ReferenceRun[] = [
  { reference: "feedforward-sum", mesh: [1, 1], job: {} },
  { reference: "feedforward-sum", mesh: [1, 2], job: {} },
  { reference: "feedforward-mse", mesh: [1, 4], job: {} },
  { reference: "feedforward-sum", mesh: [2, 2], job: { dataParallelSharding: "full" } },
  { reference: "feedforward-mse", mesh: [3, 1], job: { dataParallelSharding: "optimizer" } },
  { reference: "feedforward-mse", mesh: [1, 2], job: { plan: SWAPPED } },
  { reference: "feedforward-sum", mesh: [1, 2], job: { gradientAccumulation: 3 } },
  { reference: "llama-tiny", mesh: [1, 1], job: { recompute: "block", gradientAccumulation: 2 } },
  { reference: "llama-tiny", mesh: [1, 2], job: { sequenceParallel: false } },
  { reference: "llama-tiny", mesh: [1, 4], job: { sequenceParallel: true, recompute: "block" } },
  { reference: "llama-tiny", mesh: [2, 1], job: { dataParallelSharding: "optimizer" } },
  {
    reference: "llama-tiny",
    mesh: [2, 2],
    job: { dataParallelSharding: "full", sequenceParallel: true, gradientAccumulation: 2 },
  },
  { reference: "llama-clip", mesh: [1, 2], job: { sequenceParallel: true } },
  { reference: "llama-clip", mesh: [2, 2], job: { dataParallelSharding: "none" } },
];

describe("rankmesh run against the reference", () => {
  for (const run of CASES) {
    it(`gives the losses, norms and weights of ${runTitle(run)}`, async () => {
      expectAsReference(await runReference(run));
    });
  }
});
