import { InternalError } from "../../shared/errors.ts";
import { coordinates, groupOf, worldSize } from "../../shared/mesh/mesh.ts";
import { type Interval, shardIntervals } from "../../shared/mesh/placement.ts";
import { stepScalars } from "../../shared/optimizer/step-scalars.ts";
import {
  type Collective,
  dtypeBytes,
  type Instruction,
  type Program,
} from "../../shared/program/program.ts";
import { opDefinition } from "../ops/index.ts";
import type { NumberArray, ReferenceTensor } from "../ops/op.ts";
import { elements } from "../ops/shapes.ts";

/** Global tensors by name, row-major. */
export type GlobalTensors = ReadonlyMap<string, Float64Array>;

export interface StepResult {
  readonly loss: number;
  readonly gradNorm: number | undefined;
}

/**
 * Runs all ranks of a program in one process, in float64 and plain loops: the compiler's proof.
 * A rank's arena is laid out as the program says, one float64 for every 4 bytes (2 where values are bfloat16), so a wrong offset or live range
 * shows as wrong numbers. Arenas start as NaN.
 */
export class VirtualRanks {
  private readonly arenas: Float64Array[];
  private readonly cellBytes: number;
  private step = 0;
  private readonly program: Program;

  constructor(program: Program, parameters: GlobalTensors) {
    this.program = program;
    this.cellBytes = Math.min(4, ...program.slots.map(({ dtype }) => dtypeBytes(dtype)));
    this.arenas = Array.from({ length: worldSize(program.mesh) }, () =>
      new Float64Array(program.arenaBytes / this.cellBytes).fill(Number.NaN),
    );
    for (const tensor of program.stored) {
      this.arenas.forEach((_, rank) => {
        const target = this.slotData(rank, tensor.slot);
        if (tensor.role !== "parameter") {
          target.fill(0);
          return;
        }
        const source = parameters.get(tensor.name);
        if (source === undefined) throw new InternalError(`no initial value of ${tensor.name}`);
        copyBox(
          source,
          tensor.globalShape,
          shardIntervals(tensor.globalShape, tensor.layout, program.mesh, rank),
          target,
          false,
        );
      });
    }
  }

  /** Runs one step on the global batch. */
  runStep(batch: GlobalTensors): StepResult {
    const { program } = this;
    this.runSection(program, batch);
    this.step++;
    const loss = this.slotData(0, program.lossSlot)[0] ?? Number.NaN;
    const gradNorm =
      program.gradNormSlot < 0 ? undefined : this.slotData(0, program.gradNormSlot)[0];
    return { loss, gradNorm };
  }

  /** Loss of a batch without an update. @throws InternalError for a program that evaluates nothing */
  evaluate(batch: GlobalTensors): number {
    const { evaluation } = this.program;
    if (evaluation === undefined) throw new InternalError("the program has no evaluation");
    this.runSection(evaluation, batch);
    return this.slotData(0, evaluation.lossSlot)[0] ?? Number.NaN;
  }

  private runSection(
    { body, epilogue }: Pick<Program, "body" | "epilogue">,
    batch: GlobalTensors,
  ): void {
    const { program } = this;
    for (const input of program.inputs) {
      const source = batch.get(input.name);
      if (source === undefined) throw new InternalError(`no batch tensor ${input.name}`);
      this.arenas.forEach((_, rank) => {
        const box = shardIntervals(input.globalShape, input.layout, program.mesh, rank);
        copyBox(source, input.globalShape, box, this.slotData(rank, input.slot), false);
      });
    }
    for (let m = 0; m < program.microbatches; m++) for (const i of body) this.run(i, m);
    for (const i of epilogue) this.run(i, program.microbatches);
  }

  /** Global value of a stored tensor, put together from the ranks' shards. */
  stored(name: string, role = "parameter"): Float64Array {
    const tensor = this.program.stored.find((t) => t.name === name && t.role === role);
    if (tensor === undefined) throw new InternalError(`no stored tensor ${name} (${role})`);
    const global = new Float64Array(elements(tensor.globalShape)).fill(Number.NaN);
    this.arenas.forEach((_, rank) => {
      const box = shardIntervals(tensor.globalShape, tensor.layout, this.program.mesh, rank);
      copyBox(global, tensor.globalShape, box, this.slotData(rank, tensor.slot), true);
    });
    return global;
  }

  /** Whether ranks that hold the same part of a tensor hold the same bits. */
  replicasEqual(): boolean {
    return this.program.stored.every((tensor) => {
      const seen = new Map<string, Float64Array>();
      return this.arenas.every((_, rank) => {
        const key = JSON.stringify(
          shardIntervals(tensor.globalShape, tensor.layout, this.program.mesh, rank),
        );
        const data = this.slotData(rank, tensor.slot);
        const first = seen.get(key) ?? data;
        seen.set(key, first);
        return data.every((x, i) => Object.is(x, first[i]));
      });
    });
  }

  private run(instruction: Instruction, microbatch: number): void {
    const { program } = this;
    if (instruction.kind === "compute") {
      const definition = opDefinition(instruction.op);
      const scalars = stepScalars(program.optimizer, program.schedule, this.step, microbatch);
      this.arenas.forEach((_, rank) => {
        definition.reference({
          inputs: instruction.inputs.map((slot) => this.tensor(rank, slot)),
          outputs: instruction.outputs.map((slot) => this.tensor(rank, slot)),
          attrs: instruction.attrs,
          scalars,
          mesh: program.mesh,
          coordinates: coordinates(program.mesh, rank),
        });
      });
      return;
    }
    const collective = program.collectives[instruction.collective];
    if (collective === undefined)
      throw new InternalError(`no collective ${instruction.collective}`);
    // All ranks reach a wait together here; what a start overwrites too early shows as wrong numbers at the wait.
    if (instruction.kind === "wait") this.collect(collective);
    else this.poison(collective);
  }

  /** From the start on the output belongs to the collective: whoever still reads it reads NaN. */
  private poison(collective: Collective): void {
    const { inputSlot, outputSlot } = collective;
    const [input, output] = [this.program.slots[inputSlot], this.program.slots[outputSlot]];
    if (input === undefined || output === undefined)
      throw new InternalError("collective without slots");
    const apart =
      input.offsetBytes + input.sizeBytes <= output.offsetBytes ||
      output.offsetBytes + output.sizeBytes <= input.offsetBytes;
    if (apart)
      for (let rank = 0; rank < this.arenas.length; rank++)
        this.slotData(rank, outputSlot).fill(Number.NaN);
  }

  private collect(collective: Collective): void {
    const { mesh } = this.program;
    const inputs = this.arenas.map((_, rank) => this.slotData(rank, collective.inputSlot).slice());
    this.arenas.forEach((_, rank) => {
      const group = groupOf(mesh, collective.axes, rank);
      const output = this.slotData(rank, collective.outputSlot);
      const { outer, chunkElements: chunk, op } = collective;
      const sum = (index: number): number =>
        group.reduce((total, member) => total + (inputs[member]?.[index] ?? Number.NaN), 0);
      const own = group.indexOf(rank);
      for (let o = 0; o < outer; o++) {
        for (let i = 0; i < chunk; i++) {
          if (op === "allReduce") output[i] = sum(i);
          else if (op === "allToAll") {
            group.forEach((member, g) => {
              output[g * chunk + i] = inputs[member]?.[own * chunk + i] ?? Number.NaN;
            });
          } else if (op === "reduceScatter")
            output[o * chunk + i] = sum((o * group.length + own) * chunk + i);
          else {
            group.forEach((member, g) => {
              output[(o * group.length + g) * chunk + i] =
                inputs[member]?.[o * chunk + i] ?? Number.NaN;
            });
          }
        }
      }
    });
  }

  private tensor(rank: number, slot: number): ReferenceTensor {
    return { data: this.slotData(rank, slot), shape: this.program.slots[slot]?.shape ?? [] };
  }

  /** What lies in a rank's slot now. */
  slotData(rank: number, slot: number): Float64Array {
    const place = this.program.slots[slot];
    const arena = this.arenas[rank];
    if (place === undefined || arena === undefined)
      throw new InternalError(`no slot ${slot} on rank ${rank}`);
    const count = place.sizeBytes / dtypeBytes(place.dtype);
    const first = place.offsetBytes / this.cellBytes;
    return arena.subarray(first, first + count);
  }
}

/** Copies the box `intervals` of a global row-major tensor to or from a dense local one. */
export function copyBox(
  global: NumberArray,
  shape: readonly number[],
  intervals: readonly Interval[],
  local: NumberArray,
  toGlobal: boolean,
): void {
  const count = intervals.reduce((n, { start, end }) => n * (end - start), 1);
  for (let index = 0; index < count; index++) {
    let rest = index;
    let offset = 0;
    let stride = 1;
    for (let d = shape.length - 1; d >= 0; d--) {
      const { start, end } = intervals[d] ?? { start: 0, end: 0 };
      offset += (start + (rest % (end - start))) * stride;
      rest = Math.floor(rest / (end - start));
      stride *= shape[d] ?? 0;
    }
    if (toGlobal) global[offset] = local[index] as number;
    else local[index] = global[offset] as number;
  }
}
