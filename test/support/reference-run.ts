import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { expect } from "chai";
import type { JobResult } from "../../cli/job-result.ts";
import { jobFolder, runCli } from "./cli.ts";
import { readTensors, relativeDistance } from "./safetensors.ts";

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

/** A reference run of PyTorch on one device, on a mesh and with a plan of ours. */
export interface ReferenceRun {
  readonly reference: Parameters<typeof jobFolder>[0];
  readonly mesh: readonly [dataParallel: number, tensorParallel: number];
  /** Fields of the job beside those of the reference. */
  readonly job: Readonly<Record<string, unknown>>;
}

/** `llama-tiny at 1 x 2, sequenceParallel false` */
export function runTitle({ reference, mesh, job }: ReferenceRun): string {
  const options = Object.entries(job).map(([key, value]) => `, ${key} ${JSON.stringify(value)}`);
  return `${reference} at ${mesh.join(" x ")}${options.join("")}`;
}

/** The model and loss that a reference was made with. */
function modelOf(reference: string, { settings: s }: Expected): Record<string, unknown> {
  if (reference.startsWith("feedforward")) {
    const loss = reference === "feedforward-sum" ? "sum" : "mse";
    return { model: { feedForward: { dim: s["dim"], hidden: s["hidden"] } }, loss };
  }
  const { dim, layers, heads, hidden, vocab, kv_heads: kvHeads } = s;
  return { model: { llama: { dim, layers, heads, kvHeads, hidden, vocab } } };
}

/** How `rankmesh run` is called. */
export interface RunOptions {
  /** Flags beside the job file, such as `--backend cuda`. */
  readonly args?: readonly string[];
  readonly env?: NodeJS.ProcessEnv;
  readonly timeoutMs?: number;
}

/** What a run left behind, and what the reference did. */
export interface ReferenceOutcome {
  readonly result: JobResult;
  readonly want: Expected;
  readonly weights: ReadonlyMap<string, Float32Array>;
  readonly wantWeights: ReadonlyMap<string, Float32Array>;
}

/** Trains as the reference did, in real processes; every rank's peak is its prediction. */
export async function runReference(
  run: ReferenceRun,
  { args = [], ...options }: RunOptions = {},
): Promise<ReferenceOutcome> {
  const { reference, mesh, job } = run;
  const [dataParallel, tensorParallel] = mesh;
  const folder = await jobFolder(reference);
  try {
    const want = await expectedOf(folder.path);
    const wantWeights = await readTensors(join(folder.path, "final.safetensors"));
    const spec = { ...jobOf(run, want), reportGradNorm: true, ...job };
    const file = await folder.write("job.yaml", spec);
    const json = join(folder.path, "out.json");
    const { code, stdout, stderr } = await runCli(["run", file, "--json", json, ...args], options);
    expect(code, stderr).to.equal(0);
    expect(stdout).to.match(/^iterations complete: /);
    const result = JSON.parse(await readFile(json, "utf8")) as JobResult;
    const { steps } = want.settings;
    expect(result).to.deep.include({ state: "SUCCEEDED", error: null, steps });
    expect(result.mesh).to.deep.equal({ dataParallel, tensorParallel });
    expect(result.ranks.map((rank) => rank.rank)).to.deep.equal([
      ...Array(dataParallel * tensorParallel).keys(),
    ]);
    for (const rank of result.ranks) {
      expect(rank.peakMemoryBytes).to.equal(rank.predictedPeakMemoryBytes);
    }
    const weights = await readTensors(join(folder.path, "out.safetensors"));
    return { result, want, weights, wantWeights };
  } finally {
    await folder.dispose();
  }
}

/** Losses, gradient norms and final weights are the reference's. */
export function expectAsReference(outcome: ReferenceOutcome): void {
  const { result, want, weights, wantWeights } = outcome;
  expectClose(result.loss, want.loss, "loss");
  expectClose(result.gradNorm, want.grad_norm, "gradient norm");
  expect([...weights.keys()].sort()).to.deep.equal([...wantWeights.keys()].sort());
  for (const [name, wanted] of wantWeights) {
    const got = weights.get(name) ?? new Float32Array();
    expect(relativeDistance(got, wanted), name).to.be.at.most(WEIGHT_TOL);
  }
}

async function expectedOf(folder: string): Promise<Expected> {
  return JSON.parse(await readFile(join(folder, "expected.json"), "utf8")) as Expected;
}

/** The job that trains what the reference trained; files lie in the job's folder. */
function jobOf({ reference, mesh }: ReferenceRun, want: Expected): Record<string, unknown> {
  const [dataParallel, tensorParallel] = mesh;
  const { batch, steps, lr, clip } = want.settings;
  return {
    name: reference,
    ...modelOf(reference, want),
    clipGradNorm: clip,
    init: { safetensors: "init.safetensors" },
    mesh: { dataParallel, tensorParallel },
    optimizer: { adamw: { lr } },
    data: { batchSize: batch, safetensors: { path: "data.safetensors" } },
    steps,
    output: { safetensors: "out.safetensors" },
  };
}

/** @param tolerance relative */
export function expectClose(
  got: readonly (number | null)[],
  want: readonly number[],
  what: string,
  tolerance = LOSS_TOL,
): void {
  expect(got, what).to.have.length(want.length);
  want.forEach((value, step) => {
    const distance = Math.abs((got[step] ?? Number.NaN) - value) / Math.abs(value);
    expect(distance, `${what} of step ${step}: ${got[step]}, expected ${value}`).to.be.at.most(
      tolerance,
    );
  });
}
