import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import type { JobResult } from "../cli/job-result.ts";
import type { QuickstartResult } from "../cli/memory-table.ts";
import type { JobSpecInput } from "../shared/job/job-spec.ts";
import { type RunContext, VerificationError } from "./benchmark.ts";
import { runProcess } from "./run-process.ts";

/** The built command line: what a user runs. */
const MAIN = fileURLToPath(new URL("../cli/main.js", import.meta.url));
const TIMEOUT_MS = 300_000;

let files = 0;

/** `rankmesh run` of a job: one process a rank. @throws Error when the job fails */
export async function runJob(context: RunContext, spec: JobSpecInput): Promise<JobResult> {
  const job = join(context.folder, `job-${files++}.yaml`);
  await writeFile(job, JSON.stringify(spec)); // JSON is YAML.
  return (await command(context, ["run", job])) as JobResult;
}

/** `rankmesh quickstart`. @throws Error when a run fails */
export async function quickstart(
  context: RunContext,
  flags: { readonly dim: number; readonly steps: number; readonly tp: readonly number[] },
): Promise<QuickstartResult> {
  const { dim, steps, tp } = flags;
  const sizes = ["--dim", dim, "--hidden", dim, "--steps", steps, "--tp", tp.join(",")].map(String);
  const args = ["quickstart", ...sizes];
  return (await command(context, args)) as QuickstartResult;
}

/** @throws VerificationError where a rank took more or less memory than its plan said */
export function checkPeaks(
  ranks: readonly Pick<
    JobResult["ranks"][number],
    "rank" | "peakMemoryBytes" | "predictedPeakMemoryBytes"
  >[],
): void {
  const unlike = ranks.find((rank) => rank.peakMemoryBytes !== rank.predictedPeakMemoryBytes);
  if (unlike === undefined) return;
  const { rank, peakMemoryBytes, predictedPeakMemoryBytes } = unlike;
  throw new VerificationError(
    `rank ${rank} of ${ranks.length} used ${peakMemoryBytes} bytes, predicted were ${predictedPeakMemoryBytes}`,
  );
}

async function command(context: RunContext, args: readonly string[]): Promise<unknown> {
  const json = join(context.folder, `result-${files++}.json`);
  const { backend, device } = context;
  const where = ["--backend", backend, ...(device === "" ? [] : ["--device", device])];
  await runProcess(process.execPath, [MAIN, ...args, ...where, "--json", json], {
    timeoutMs: TIMEOUT_MS,
    signal: context.signal,
  });
  return JSON.parse(await readFile(json, "utf8")) as unknown;
}
