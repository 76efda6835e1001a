import { planJob } from "../../coordinator/planning/plan-job.ts";
import type { JobSpecInput } from "../../shared/job/job-spec.ts";
import { requireJobSpec } from "../../shared/job/resolve.ts";
import { stepScalars } from "../../shared/optimizer/step-scalars.ts";
import type { ComputeInstruction, Instruction, Program } from "../../shared/program/program.ts";
import { fillStandardNormals } from "../../shared/random/normal.ts";
import { PhiloxStream } from "../../shared/random/philox.ts";
import type { LoadedProgram } from "../../worker/backend/backend.ts";
import { BoundProgram } from "../../worker/backend/bound-program.ts";
import { CudaArena } from "../../worker/backend/cuda/cuda-arena.ts";
import type { OpenGpu } from "./gpu.ts";

const ALONE = { dataParallel: 1, tensorParallel: 1 };

/** A job's program of one rank in this process, as the worker runs it but for batches and reports. */
export class GpuProgram {
  readonly program: Program;
  readonly loaded: LoadedProgram;
  readonly #body: readonly ComputeInstruction[];
  readonly #epilogue: readonly ComputeInstruction[];

  constructor(gpu: OpenGpu, job: JobSpecInput) {
    const spec = requireJobSpec(job);
    const { program, idLimits } = planJob(spec, ALONE);
    this.program = program;
    this.#body = computeOnly(program.body);
    this.#epilogue = computeOnly(program.epilogue);
    this.loaded = new BoundProgram({
      program,
      rank: 0,
      account: gpu.account,
      open: () =>
        new CudaArena(gpu.context, {
          program,
          rank: 0,
          account: gpu.account,
          exchange: undefined,
        }),
      onDispose: () => undefined,
    });
    for (const tensor of program.stored) this.loaded.initialize(tensor, spec.init.seed);
    for (const input of program.inputs) this.#writeInput(input, idLimits[input.name] ?? 1);
  }

  /** Hands all of a step to the device, in the stretches that are recorded. Does not wait. */
  step(index: number): void {
    this.inOrder(index, (section, scalars) => this.loaded.run(section, scalars));
  }

  /** Visits what a step runs: the body once for each microbatch, then the epilogue. */
  inOrder(
    index: number,
    visit: (
      section: readonly ComputeInstruction[],
      scalars: ReturnType<typeof stepScalars>,
    ) => void,
  ): void {
    const { optimizer, schedule, microbatches } = this.program;
    for (let microbatch = 0; microbatch <= microbatches; microbatch++) {
      const section = microbatch < microbatches ? this.#body : this.#epilogue;
      if (section.length === 0) continue;
      visit(section, stepScalars(optimizer, schedule, index, microbatch));
    }
  }

  loss(): number {
    this.loaded.synchronize();
    const loss = new Float32Array(1);
    this.loaded.read(this.program.lossSlot, new Uint8Array(loss.buffer));
    return loss[0] ?? Number.NaN;
  }

  /** Ids below `limit`, or standard normals. */
  #writeInput({ name, dtype, slot }: Program["inputs"][number], limit: number): void {
    const shape = this.program.slots[slot]?.shape ?? [];
    const values = new Float32Array(shape.reduce((product, size) => product * size, 1));
    if (dtype === "int32") {
      const stream = new PhiloxStream(0, name);
      const ids = Int32Array.from(values, (_, i) => stream.word(i) % limit);
      this.loaded.write(slot, new Uint8Array(ids.buffer));
    } else {
      fillStandardNormals(values, { seed: 0, name });
      this.loaded.write(slot, new Uint8Array(values.buffer));
    }
  }
}

function computeOnly(section: readonly Instruction[]): ComputeInstruction[] {
  return section.filter((instruction) => instruction.kind === "compute");
}
