import type { JobSpecInput } from "../../shared/job/job-spec.ts";
import type { Benchmark, BenchResult } from "../benchmark.ts";
import { milliseconds, percent } from "../numbers.ts";
import type { GpuContext } from "./context.ts";
import { feedForwardJob, llamaJob } from "./jobs.ts";
import { measureProgram } from "./measure-program.ts";
import { runOnce } from "./run-once.ts";

/** Of a step's time, for what is not kernels; budgets speak of steps of 50 ms. */
const BUDGET = 0.03;
/** Steps this short have no budget: a fixed time weighs more in them. */
const BUDGET_FROM_SECONDS = 0.02;

export const overhead: Benchmark<GpuContext> = { name: "overhead", run };

async function run(context: GpuContext): Promise<BenchResult> {
  const { sizes } = context;
  const jobs: readonly (readonly [title: string, job: JobSpecInput])[] = [
    ["FeedForward, float32", feedForwardJob(sizes, 1)],
    ["Llama, float32", llamaJob(sizes, "fp32")],
    ["Llama, bf16", llamaJob(sizes, "bf16")],
  ];
  const rows = [];
  for (const [title, job] of jobs) {
    const { stepSeconds } = (await runOnce(context, job, 1)).result;
    const { stepSeconds: device, kernelSeconds } = await measureProgram(context, job);
    const whole = stepSeconds.median ?? Number.NaN;
    rows.push({ title, whole, device, kernelSeconds, outside: (whole - device) / whole });
  }
  return {
    title: "A step's time beside its kernels, 1 rank",
    verified: [],
    tables: [
      {
        header: ["step", "end to end ms", "on the device ms", "kernels alone ms", "outside"],
        rows: rows.map(({ title, whole, device, kernelSeconds, outside }) => [
          title,
          milliseconds(whole),
          milliseconds(device),
          milliseconds(kernelSeconds),
          percent(outside),
        ]),
      },
    ],
    budgets: rows
      .filter(({ whole }) => whole >= BUDGET_FROM_SECONDS)
      .map(({ title, outside }) => ({
        what: `step outside of the device, ${title}`,
        measured: outside,
        limit: BUDGET,
      })),
    notes: [
      "end to end: median of `rankmesh run`, batches, reports and all; on the device: the same program's recorded launches, steps " +
        "one after another, between two events; kernels alone: every instruction timed by itself and added up",
      "outside: end to end less what is on the device, of end to end",
    ],
    data: { rows },
  };
}
