import type { JobSpecInput } from "../../shared/job/job-spec.ts";
import type { Benchmark, BenchResult, Table } from "../benchmark.ts";
import { percent } from "../numbers.ts";
import { type Ceilings, measureCeilings } from "./ceilings.ts";
import type { GpuContext } from "./context.ts";
import { feedForwardJob, llamaJob } from "./jobs.ts";
import { measureProgram, type OpTime, type ProgramTimes } from "./measure-program.ts";
import { floorOf } from "./op-costs.ts";
import type { Sizes } from "./sizes.ts";

/** Of a step's kernel time: ops below are summed up in one line. */
const SMALL_SHARE = 5e-4;

export const kernels: Benchmark<GpuContext> = { name: "kernels", run };

interface Measured {
  readonly title: string;
  readonly times: ProgramTimes;
}

function jobs(sizes: Sizes): readonly (readonly [title: string, job: JobSpecInput])[] {
  const feedForward = feedForwardJob(sizes, 1);
  return [
    ["FeedForward, float32", feedForward],
    [
      "FeedForward, float32, gradients kept over two microbatches",
      { ...feedForward, gradientAccumulation: 2 },
    ],
    ["Llama, float32", llamaJob(sizes, "fp32")],
    ["Llama, bf16", llamaJob(sizes, "bf16")],
  ];
}

async function run(context: GpuContext): Promise<BenchResult> {
  const ceilings = await measureCeilings(context);
  const measured: Measured[] = [];
  for (const [title, job] of jobs(context.sizes)) {
    measured.push({ title, times: await measureProgram(context, job) });
  }
  return {
    title: "Kernels against what this GPU does at most",
    verified: [
      "the loss of each program's first steps is a number; what kernels compute is tested by test:gpu",
    ],
    tables: measured.map((each) => opTable(each, ceilings)),
    budgets: [],
    notes: [
      "an op of a step of one rank, at the shapes it has there; us: of one instruction, repeated in a recording, by the device's clock",
      "GB/s: operands in and out, what is updated in place both ways, working space left out; TFLOP/s: of products only, causal " +
        "attention by half; operands that fit in the cache can show more GB/s than memory has",
      `x floor: time over the larger of bytes / ${(ceilings.bandwidth / 1e9).toFixed(0)} GB/s and operations / ` +
        `${teraflops(ceilings.flops.float32)} (float32) or ${teraflops(ceilings.flops.bfloat16)} (bf16) TFLOP/s, as measured in this run; ` +
        "by: which of the two it is",
    ],
    data: { ceilings, programs: measured },
  };
}

function opTable({ title, times: { ops, kernelSeconds } }: Measured, ceilings: Ceilings): Table {
  const share = ({ times, seconds }: OpTime): number => (times * seconds) / kernelSeconds;
  const large = ops.filter((op) => share(op) >= SMALL_SHARE);
  const rest = ops.filter((op) => share(op) < SMALL_SHARE);
  const rows = large.map((op) => {
    const floor = floorOf(op, ceilings);
    return [
      op.op,
      op.shapes,
      String(op.times),
      (op.seconds * 1e6).toFixed(1),
      percent(share(op)),
      (op.bytes / op.seconds / 1e9).toFixed(0),
      op.flops === 0 ? "-" : teraflops(op.flops / op.seconds),
      floor.seconds === 0 ? "-" : (op.seconds / floor.seconds).toFixed(2),
      floor.seconds === 0 ? "" : floor.by,
    ];
  });
  if (rest.length > 0) {
    const restShare = rest.reduce((sum, op) => sum + share(op), 0);
    const count = rest.reduce((sum, { times }) => sum + times, 0);
    rows.push([`${rest.length} more`, "", `${count}`, "-", percent(restShare), "-", "-", "-", ""]);
  }
  return {
    header: [title, "first operands", "times", "us", "share", "GB/s", "TFLOP/s", "x floor", "by"],
    rows,
  };
}

function teraflops(perSecond: number): string {
  return (perSecond / 1e12).toFixed(1);
}
