// Times every op of a job's step on a rank of the cpu backend, in a bare loop over its program:
//   node dist/bench/ops.js [JOB.yaml|-] [THREADS] [STEPS]
// Without a job file, the Llama of `npm run bench -- --only llama`. On a mesh, what rank 0 computes; nothing is sent, so
// that values are wrong and times right. Instructions of one op and one shape are one line.
// "wall" is the least over the steps, "cpu" the median of the processor time of all threads divided by their number:
// where others use the cores too, the truth lies near the smaller of the two.

import { loadJobFile } from "../cli/job-file.ts";
import { numCores } from "../cli/machine.ts";
import { opDefinition } from "../compiler/ops/index.ts";
import { planJob } from "../coordinator/planning/plan-job.ts";
import type { AxisSize } from "../shared/job/job-spec.ts";
import { requireJobSpec } from "../shared/job/resolve.ts";
import { stepScalars } from "../shared/optimizer/step-scalars.ts";
import type { ComputeInstruction, Program, Slot } from "../shared/program/program.ts";
import { fillStandardNormals } from "../shared/random/normal.ts";
import { PhiloxStream } from "../shared/random/philox.ts";
import { CpuBackend } from "../worker/backend/cpu/cpu-backend.ts";
import { llamaJob } from "./llama-job.ts";
import { percent } from "./numbers.ts";
import { median } from "./statistics.ts";

/** Steps that load pages and caches, and are not counted. */
const WARMUP_STEPS = 2;

/** Seconds of one instruction, step by step. */
interface Times {
  readonly wall: number[];
  readonly cpu: number[];
}

interface Line {
  readonly title: string;
  readonly times: number;
  readonly wall: number;
  readonly cpu: number;
  readonly flops: number;
  readonly bytes: number;
}

async function main(file = "-", threadsText = `${numCores()}`, stepsText = "8"): Promise<void> {
  const raw = file === "-" ? llamaJob({}) : (await loadJobFile(file)).spec;
  const spec = requireJobSpec(raw);
  const { program, idLimits } = planJob(spec, {
    dataParallel: sizeOf(spec.mesh.dataParallel),
    tensorParallel: sizeOf(spec.mesh.tensorParallel),
  });
  const threads = Number(threadsText);
  const backend = new CpuBackend({ threads });
  const loaded = backend.load(program, 0);
  for (const tensor of program.stored) loaded.initialize(tensor, spec.init.seed);
  for (const input of program.inputs) loaded.write(input.slot, batchOf(program, input, idLimits));
  const instructions = [program.body, program.epilogue].map((section) =>
    section.filter((instruction) => instruction.kind === "compute"),
  );
  const all = new Map<ComputeInstruction, Times>();
  for (const instruction of instructions.flat()) all.set(instruction, { wall: [], cpu: [] });
  const steps = WARMUP_STEPS + Number(stepsText);
  const whole: number[] = [];
  for (let step = 0; step < steps; step++) {
    const began = performance.now();
    for (let microbatch = 0; microbatch <= program.microbatches; microbatch++) {
      const scalars = stepScalars(program.optimizer, program.schedule, step, microbatch);
      for (const instruction of instructions[microbatch < program.microbatches ? 0 : 1] ?? []) {
        const start = performance.now();
        const used = process.cpuUsage();
        loaded.run([instruction], scalars);
        const { user, system } = process.cpuUsage(used);
        const elapsed = (performance.now() - start) / 1e3;
        if (step < WARMUP_STEPS) continue;
        all.get(instruction)?.wall.push(elapsed);
        all.get(instruction)?.cpu.push((user + system) / 1e6 / threads);
      }
    }
    if (step >= WARMUP_STEPS) whole.push((performance.now() - began) / 1e3);
  }
  loaded.dispose();
  report(backend.device, linesOf(program, all), whole);
}

function sizeOf(axis: AxisSize): number {
  return axis === "auto" ? 1 : axis;
}

/** The rank's part of the batch has the shape of its slot. */
function batchOf(
  program: Program,
  { name, dtype, slot }: Program["inputs"][number],
  idLimits: Readonly<Record<string, number>>,
): Uint8Array {
  const shape = program.slots[slot]?.shape ?? [];
  const values = new Float32Array(shape.reduce((product, size) => product * size, 1));
  if (dtype !== "int32") {
    fillStandardNormals(values, { seed: 0, name });
    return new Uint8Array(values.buffer);
  }
  const stream = new PhiloxStream(0, name);
  const ids = Int32Array.from(values, (_, i) => stream.word(i) % (idLimits[name] ?? 1));
  return new Uint8Array(ids.buffer);
}

function linesOf(program: Program, all: ReadonlyMap<ComputeInstruction, Times>): Line[] {
  const groups = new Map<string, Line>();
  for (const [instruction, { wall, cpu }] of all) {
    const slots = (indices: readonly number[]): Slot[] =>
      indices.flatMap((index) => program.slots[index] ?? []);
    const [inputs, outputs] = [slots(instruction.inputs), slots(instruction.outputs)];
    const [first] = outputs;
    const shapes = inputs.slice(0, 2).map(({ shape }) => shape.join("x"));
    const title = `${instruction.op} ${shapes.join(" , ")}`;
    const known = groups.get(title) ?? { title, times: 0, wall: 0, cpu: 0, flops: 0, bytes: 0 };
    groups.set(title, {
      title,
      times: known.times + 1,
      wall: known.wall + Math.min(...wall),
      cpu: known.cpu + median(cpu),
      flops: known.flops + (first ? opDefinition(instruction.op).flops(inputs, first) : 0),
      bytes: known.bytes + [...inputs, ...outputs].reduce((sum, slot) => sum + slot.sizeBytes, 0),
    });
  }
  return [...groups.values()].sort((a, b) => b.wall - a.wall);
}

function report(device: string, lines: readonly Line[], whole: readonly number[]): void {
  const say = (cells: readonly string[]): unknown => {
    const [title = "", ...numbers] = cells;
    return process.stdout.write(
      `${title.padEnd(52)}${numbers.map((n) => n.padStart(10)).join("")}\n`,
    );
  };
  const total = lines.reduce((sum, line) => sum + line.wall, 0);
  const totalCpu = lines.reduce((sum, line) => sum + line.cpu, 0);
  const ms = (seconds: number): string => (seconds * 1e3).toFixed(2);
  process.stdout.write(`${device}\n`);
  say(["op and its first operands", "times", "wall ms", "share", "cpu ms", "GFLOP/s", "GB/s"]);
  for (const { title, times, wall, cpu, flops, bytes } of lines) {
    const rates = [flops, bytes].map((n) => (n / wall / 1e9).toFixed(1));
    say([title, `${times}`, ms(wall), percent(wall / total), ms(cpu), ...rates]);
  }
  const flops = lines.reduce((sum, line) => sum + line.flops, 0);
  say(["all ops", "", ms(total), "", ms(totalCpu), (flops / total / 1e9).toFixed(1)]);
  say(["step, least and median", "", ms(Math.min(...whole)), "", ms(median(whole))]);
}

await main(...process.argv.slice(2));
