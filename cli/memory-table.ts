import type { Job } from "../client/job-types.ts";
import { formatLoss, formatStepTime, formatTable } from "./format.ts";
import { type StepSeconds, summarizeStepSeconds } from "./job-result.ts";

/**
 * Peak memory per GPU that the reference system's documentation prints for its example program,
 * `FeedForward(8192, 8192)` with a batch of 8 and AdamW, by number of GPUs. In GB of 1e9 bytes.
 */
const REFERENCE_GIGABYTES: ReadonlyMap<number, string> = new Map([
  [1, "4.04"],
  [2, "2.03"],
  [4, "1.02"],
  [8, "0.60"],
]);

export interface QuickstartModel {
  readonly dim: number;
  readonly hidden: number;
  readonly batch: number;
}

/** One run of the quickstart. */
export interface QuickstartRun {
  readonly tensorParallel: number;
  readonly job: Job;
}

/** What `quickstart --json` writes. */
export interface QuickstartResult {
  readonly model: "feedForward";
  readonly dim: number;
  readonly hidden: number;
  readonly batch: number;
  readonly steps: number;
  readonly backend: string;
  readonly runs: readonly {
    readonly tensorParallel: number;
    readonly stepSeconds: StepSeconds;
    readonly loss: readonly (number | null)[];
    readonly ranks: readonly {
      readonly rank: number;
      readonly peakMemoryBytes: number;
      readonly predictedPeakMemoryBytes: number;
      readonly rssBytes: number;
      /** Part of the prediction that the backend takes beside the program's arena. */
      readonly workspaceBytes: number;
    }[];
  }[];
}

export function quickstartResult(
  model: QuickstartModel,
  steps: number,
  backend: string,
  runs: readonly QuickstartRun[],
): QuickstartResult {
  return {
    model: "feedForward",
    ...model,
    steps,
    // What ran, where `auto` was asked for.
    backend: runs[0]?.job.ranks[0]?.backend ?? backend,
    runs: runs.map(({ tensorParallel, job }) => ({
      tensorParallel,
      stepSeconds: summarizeStepSeconds(job.stepSeconds),
      loss: job.loss.map((loss) => (Number.isFinite(loss) ? loss : null)),
      ranks: job.ranks.map((rank) => ({
        rank: rank.rank,
        peakMemoryBytes: rank.peakMemoryBytes,
        predictedPeakMemoryBytes: rank.predictedPeakMemoryBytes,
        rssBytes: rank.rssBytes,
        workspaceBytes: rank.workspaceBytes,
      })),
    })),
  };
}

/** Peak memory per rank beside the reference's, where the model is the reference's. Largest rank of each run. */
export function memoryTable(model: QuickstartModel, runs: readonly QuickstartRun[]): string[] {
  const { dim, hidden, batch } = model;
  const comparable = dim === 8192 && hidden === 8192 && batch === 8;
  const unit = tableUnit(runs);
  const inUnit = (bytes: number) => (bytes / unit.bytes).toFixed(2);
  const withWorkspace = runs.some(({ job }) => job.ranks.some((rank) => rank.workspaceBytes > 0));
  const header = [
    "ranks",
    ...(comparable ? ["reference"] : []),
    "predicted",
    "measured",
    ...(withWorkspace ? ["workspace"] : []),
    "resident",
    "step time",
    "loss",
  ];
  const rows = runs.map(({ tensorParallel, job }) => {
    const { median } = summarizeStepSeconds(job.stepSeconds);
    const largest = (bytes: (rank: Job["ranks"][number]) => number) =>
      Math.max(0, ...job.ranks.map(bytes));
    return [
      String(tensorParallel),
      ...(comparable ? [REFERENCE_GIGABYTES.get(tensorParallel) ?? "-"] : []),
      inUnit(largest((rank) => rank.predictedPeakMemoryBytes)),
      inUnit(largest((rank) => rank.peakMemoryBytes)),
      ...(withWorkspace ? [inUnit(largest((rank) => rank.workspaceBytes))] : []),
      inUnit(largest((rank) => rank.rssBytes)),
      median === null ? "-" : formatStepTime(median),
      lossText(job.loss),
    ];
  });
  return [
    `FeedForward(${dim}, ${hidden}), batch ${batch}, AdamW, float32: peak memory per rank in ${unit.name} (${unit.bytes.toExponential().replace("+", "")} bytes)`,
    ...formatTable(header, rows),
    ...(withWorkspace
      ? [
          "workspace: what the backend takes beside the program; it is part of predicted and measured",
        ]
      : []),
    ...(comparable
      ? ["reference: PyTorch + Lightning Fabric, one GPU a rank, as its documentation prints it"]
      : []),
  ];
}

/** Whether every rank of every run used exactly what was predicted. */
export function allAsPredicted(runs: readonly QuickstartRun[]): boolean {
  return runs.every(({ job }) =>
    job.ranks.every((rank) => rank.peakMemoryBytes === rank.predictedPeakMemoryBytes),
  );
}

/** Gigabytes, as the reference prints them, unless the model is a small one. */
function tableUnit(runs: readonly QuickstartRun[]): {
  readonly name: string;
  readonly bytes: number;
} {
  const most = Math.max(
    0,
    ...runs.flatMap(({ job }) => job.ranks.map((rank) => rank.peakMemoryBytes)),
  );
  return most >= 1e8 ? { name: "GB", bytes: 1e9 } : { name: "MB", bytes: 1e6 };
}

function lossText(loss: readonly number[]): string {
  const [first] = loss;
  const last = loss.at(-1);
  return first === undefined || last === undefined
    ? "-"
    : `${formatLoss(first)} -> ${formatLoss(last)}`;
}
