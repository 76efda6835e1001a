import type { JobSpecInput } from "../../shared/job/job-spec.ts";
import type { ComputeInstruction, Program } from "../../shared/program/program.ts";
import { VerificationError } from "../benchmark.ts";
import { median } from "../statistics.ts";
import type { GpuContext } from "./context.ts";
import type { OpenGpu } from "./gpu.ts";
import { GpuProgram } from "./gpu-program.ts";
import { type OpCost, opCost } from "./op-costs.ts";
import type { Sizes } from "./sizes.ts";
import { timeOnDevice } from "./timing.ts";

/** Instructions of one op, one precision and the same shapes. */
export interface OpTime extends OpCost {
  readonly op: string;
  /** Of the first two operands, as 8x8192, 8192x8192. */
  readonly shapes: string;
  /** Instructions in a step. */
  readonly times: number;
  /** Of one of them. */
  readonly seconds: number;
}

export interface ProgramTimes {
  /** A step on the device, launches as the worker makes them, steps one after another without a pause. */
  readonly stepSeconds: number;
  /** Slowest in sum first. */
  readonly ops: readonly OpTime[];
  /** All instructions of a step, each alone. */
  readonly kernelSeconds: number;
}

/** Steps that record launches and warm up, and a clock's worth of steps after them. */
const WARMUP_STEPS = 3;
const STEPS_SECONDS = 0.2;
const MAX_STEPS = 40;
const STEP_SAMPLES = 5;

/** Times a job's program on one rank in this process, whole and op by op. Made once for each job in a series. */
export function measureProgram(context: GpuContext, job: JobSpecInput): Promise<ProgramTimes> {
  const { gpu, sizes, measured, progress } = context;
  const name = [job.name, job.gradientAccumulation].join(" ");
  return measured.once(`program ${name}`, async () => {
    progress(`ops of ${name}`);
    return await gpu.open((open) => {
      const loaded = new GpuProgram(open, job);
      try {
        const stepSeconds = timeSteps(open, loaded, sizes);
        const ops = timeOps(open, loaded, sizes.timing);
        const kernelSeconds = ops.reduce((sum, { times, seconds }) => sum + times * seconds, 0);
        return { stepSeconds, ops, kernelSeconds };
      } finally {
        loaded.loaded.dispose();
      }
    });
  });
}

/** @throws VerificationError when the loss is no number */
function timeSteps(gpu: OpenGpu, program: GpuProgram, { timing }: Sizes): number {
  let next = 0;
  for (; next < WARMUP_STEPS; next++) program.step(next);
  const loss = program.loss();
  if (!Number.isFinite(loss)) throw new VerificationError(`loss of step ${next - 1} is ${loss}`);
  const once = gpu.seconds(() => program.step(next++));
  const enough = timing.sampleSeconds > 0 && once > 0 ? Math.round(STEPS_SECONDS / once) : 1;
  const steps = Math.min(MAX_STEPS, Math.max(1, enough));
  const sample = (): number =>
    gpu.seconds(() => {
      for (let i = 0; i < steps; i++) program.step(next++);
    }) / steps;
  return median(Array.from({ length: Math.min(STEP_SAMPLES, timing.samples) }, sample));
}

/** Goes through one step, so that every instruction meets the operands that it is made for. */
function timeOps(gpu: OpenGpu, target: GpuProgram, timing: Sizes["timing"]): OpTime[] {
  const { program, loaded } = target;
  const groups = new Map<string, OpTime>();
  target.inOrder(0, (section, scalars) => {
    for (const instruction of section) {
      const alone = [instruction];
      const run = (): void => loaded.run(alone, scalars);
      const cost = opCost(program, instruction);
      const shapes = shapesOf(program, instruction);
      const key = [instruction.op, shapes, cost.precision, cost.bytes].join(" ");
      const known = groups.get(key);
      if (known === undefined) {
        const seconds = timeOnDevice(gpu, run, timing);
        groups.set(key, { ...cost, op: instruction.op, shapes, times: 1, seconds });
      } else {
        run();
        groups.set(key, { ...known, times: known.times + 1 });
      }
    }
  });
  return [...groups.values()].sort((a, b) => b.times * b.seconds - a.times * a.seconds);
}

function shapesOf({ slots }: Program, { inputs }: ComputeInstruction): string {
  return inputs
    .slice(0, 2)
    .map((slot) => slots[slot]?.shape.join("x") ?? "")
    .join(", ");
}
