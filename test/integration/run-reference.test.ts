import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { expect } from "chai";
import type { JobResult } from "../../cli/job-result.ts";
import { jobFolder, runCli } from "../support/cli.ts";
import { readTensors, relativeDistance } from "../support/safetensors.ts";

/** Reordering float32 sums over ranks moves a loss by about 1e-6 of itself; a wrong step moves it by far more. */
const LOSS_TOL = 1e-5;
/** AdamW divides by the root of tiny second moments, which enlarges the rounding of a sum. */
const WEIGHT_TOL = 5e-4;

interface Expected {
  readonly loss: readonly number[];
  readonly grad_norm: readonly number[];
  readonly settings: {
    readonly batch: number;
    readonly steps: number;
    readonly lr: number;
    readonly clip: number;
    readonly [size: string]: unknown;
  };
}

const SWAPPED = { w1: "rowwise", w3: "rowwise", w2: "colwise" };

/** Reference runs of PyTorch on one device: every mesh and plan must give the same. */
const CASES = [
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
] as const;

/** The model and loss that a reference was made with. */
function modelOf(reference: string, { settings: s }: Expected): Record<string, unknown> {
  if (reference.startsWith("feedforward")) {
    const loss = reference === "feedforward-sum" ? "sum" : "mse";
    return { model: { feedForward: { dim: s["dim"], hidden: s["hidden"] } }, loss };
  }
  const { dim, layers, heads, hidden, vocab, kv_heads: kvHeads } = s;
  return { model: { llama: { dim, layers, heads, kvHeads, hidden, vocab } } };
}

describe("rankmesh run against the reference", () => {
  for (const { reference, mesh, job } of CASES) {
    const [dataParallel, tensorParallel] = mesh;
    const options = Object.entries(job).map(([key, value]) => `, ${key} ${JSON.stringify(value)}`);
    it(`gives the losses, norms and weights of ${reference} at ${dataParallel} x ${tensorParallel}${options.join("")}`, async () => {
      const folder = await jobFolder(reference);
      try {
        const want = JSON.parse(
          await readFile(join(folder.path, "expected.json"), "utf8"),
        ) as Expected;
        const wantWeights = await readTensors(join(folder.path, "final.safetensors"));
        const { batch, steps, lr, clip } = want.settings;
        const file = await folder.write("job.yaml", {
          name: reference,
          ...modelOf(reference, want),
          clipGradNorm: clip,
          init: { safetensors: "init.safetensors" },
          mesh: { dataParallel, tensorParallel },
          optimizer: { adamw: { lr } },
          reportGradNorm: true,
          data: { batchSize: batch, safetensors: { path: "data.safetensors" } },
          steps,
          output: { safetensors: "out.safetensors" },
          ...job,
        });
        const json = join(folder.path, "out.json");
        const { code, stdout, stderr } = await runCli(["run", file, "--json", json]);
        expect(code, stderr).to.equal(0);
        expect(stdout).to.match(/^iterations complete: /);
        const result = JSON.parse(await readFile(json, "utf8")) as JobResult;
        expect(result).to.deep.include({ state: "SUCCEEDED", error: null, steps });
        expect(result.mesh).to.deep.equal({ dataParallel, tensorParallel });
        expectClose(result.loss, want.loss, "loss");
        expectClose(result.gradNorm, want.grad_norm, "gradient norm");
        expect(result.ranks.map((rank) => rank.rank)).to.deep.equal([
          ...Array(dataParallel * tensorParallel).keys(),
        ]);
        for (const rank of result.ranks) {
          expect(rank.peakMemoryBytes).to.equal(rank.predictedPeakMemoryBytes);
        }
        const weights = await readTensors(join(folder.path, "out.safetensors"));
        expect([...weights.keys()].sort()).to.deep.equal([...wantWeights.keys()].sort());
        for (const [name, wanted] of wantWeights) {
          const got = weights.get(name) ?? new Float32Array();
          expect(relativeDistance(got, wanted), name).to.be.at.most(WEIGHT_TOL);
        }
      } finally {
        await folder.dispose();
      }
    });
  }
});

function expectClose(got: readonly (number | null)[], want: readonly number[], what: string): void {
  expect(got, what).to.have.length(want.length);
  want.forEach((value, step) => {
    const distance = Math.abs((got[step] ?? Number.NaN) - value) / Math.abs(value);
    expect(distance, `${what} of step ${step}: ${got[step]}, expected ${value}`).to.be.at.most(
      LOSS_TOL,
    );
  });
}
