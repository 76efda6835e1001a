import { opDefinition } from "../../compiler/ops/index.ts";
import { InternalError } from "../../shared/errors.ts";
import type { Instruction, Program } from "../../shared/program/program.ts";

/**
 * Rates that time estimates assume: a host of two CPU cores on 10 GbE. They rank plans, they do not promise times;
 * real ones differ by host, the order of plans rarely does.
 */
export const assumedRates = {
  flopsPerSecond: 100e9,
  memoryBytesPerSecond: 20e9,
  networkBytesPerSecond: 1.25e9,
  networkLatencySeconds: 100e-6,
} as const;

export interface TimeEstimate {
  readonly computeSeconds: number;
  readonly communicationSeconds: number;
}

/** Seconds of one step of a rank: each op is bound by arithmetic or by memory, each collective by bytes and latency. */
export function estimateStep(program: Program): TimeEstimate {
  let computeSeconds = 0;
  let communicationSeconds = 0;
  const add = (instructions: readonly Instruction[], times: number): void => {
    for (const instruction of instructions) {
      if (instruction.kind === "compute")
        computeSeconds += times * computeTime(program, instruction);
      else if (instruction.kind === "start")
        communicationSeconds += times * collectiveTime(program, instruction.collective);
    }
  };
  add(program.body, program.microbatches);
  add(program.epilogue, 1);
  return { computeSeconds, communicationSeconds };
}

function computeTime(
  program: Program,
  instruction: Extract<Instruction, { kind: "compute" }>,
): number {
  const typeOf = (index: number) => {
    const slot = program.slots[index];
    if (slot === undefined) throw new InternalError(`no slot ${index}`);
    return slot;
  };
  const inputs = instruction.inputs.map(typeOf);
  const outputs = instruction.outputs.map(typeOf);
  const [first] = outputs;
  if (first === undefined) return 0;
  const flops = opDefinition(instruction.op).flops(inputs, first);
  const bytes = [...inputs, ...outputs].reduce((sum, slot) => sum + slot.sizeBytes, 0);
  return Math.max(flops / assumedRates.flopsPerSecond, bytes / assumedRates.memoryBytesPerSecond);
}

function collectiveTime(program: Program, index: number): number {
  const collective = program.collectives[index];
  if (collective === undefined) throw new InternalError(`no collective ${index}`);
  const group = collective.axes.reduce((n, axis) => n * (program.mesh.axes[axis]?.size ?? 1), 1);
  const rounds =
    collective.algorithm === "direct"
      ? 1
      : collective.op === "allReduce"
        ? 2 * (group - 1)
        : group - 1;
  return (
    collective.wireBytes / assumedRates.networkBytesPerSecond +
    rounds * assumedRates.networkLatencySeconds
  );
}
