import { InternalError } from "../../shared/errors.ts";
import type { Instruction, Program } from "../../shared/program/program.ts";
import { opDefinition } from "../ops/index.ts";

/**
 * Runs a program's instructions on the ownership of bytes: every read must find the value it names, whole and not yet
 * overwritten; a collective keeps its operands from start to wait; every start has its wait. It knows slots and
 * instructions only, nothing of how they were scheduled and placed, so that it would notice a mistake there.
 * Cost: instructions x log(live slots), and a move of what lies behind in the list of them.
 * @throws InternalError naming slot and instruction
 */
export function verifyProgram(program: Program): void {
  /** Slots whose value is whole in the arena. */
  const held = new Set<number>();
  const inFlight = new Map<number, { input: number; output: number }>();

  const slotOf = (index: number) => {
    const slot = program.slots[index];
    if (slot === undefined) throw new InternalError(`program: no slot ${index}`);
    if (slot.offsetBytes < 0 || slot.offsetBytes + slot.sizeBytes > program.arenaBytes) {
      throw new InternalError(`program: slot ${index} (${slot.name}) lies outside the arena`);
    }
    return slot;
  };
  /** Held slots by the bytes they lie in: no two ranges share a byte, since a write ends what it overlaps. By offset. */
  const ranges: HeldRange[] = [];
  const write = (index: number, where: string, isView = false): void => {
    const { offsetBytes: start, sizeBytes } = slotOf(index);
    if (sizeBytes === 0) return;
    const end = start + sizeBytes;
    const first = firstEndingAfter(ranges, start);
    const found = ranges[first];
    // A view writes nothing: all values that lie in its bytes stay.
    if (isView && found !== undefined && found.start === start && found.end === end) {
      found.slots.add(index);
      held.add(index);
      return;
    }
    let after = first;
    for (let range = found; range !== undefined && range.start < end; range = ranges[after]) {
      for (const other of range.slots) if (other !== index) overwrite(other, range.start, where);
      for (const other of range.slots) held.delete(other);
      after += 1;
    }
    ranges.splice(first, after - first, { start, end, slots: new Set([index]) });
    held.add(index);
  };
  /** @throws InternalError when a collective under way still needs the slot's bytes */
  const overwrite = (slot: number, start: number, where: string): void => {
    for (const [collective, { input, output }] of inFlight) {
      const inPlace = input === slot && slotOf(output).offsetBytes === start;
      if ((input === slot && !inPlace) || output === slot) {
        throw new InternalError(
          `program: ${where} overwrites slot ${slot}, which collective ${collective} is using`,
        );
      }
    }
  };
  const read = (index: number, where: string): void => {
    const { name, offsetBytes, sizeBytes } = slotOf(index);
    if (sizeBytes === 0 || held.has(index)) return;
    throw new InternalError(
      `program: ${where} reads slot ${index} (${name}) at [${offsetBytes}, ${offsetBytes + sizeBytes}), whose value is not there or overwritten`,
    );
  };
  const run = (instruction: Instruction, where: string): void => {
    if (instruction.kind === "compute") {
      const written = new Set(instruction.outputs);
      // An accumulator is read only from the second microbatch on; its first value is its write.
      const kept = instruction.op === "accumulate" ? instruction.inputs[0] : undefined;
      for (const input of instruction.inputs)
        if (input !== kept && !scratch.has(input)) read(input, where);
      for (const input of instruction.inputs) if (scratch.has(input)) write(input, where);
      const isView = opDefinition(instruction.op).isView === true && instruction.inputs.length > 0;
      for (const output of written) write(output, where, isView);
      return;
    }
    const collective = program.collectives[instruction.collective];
    if (collective === undefined) throw new InternalError(`program: ${where} names no collective`);
    const { inputSlot: input, outputSlot: output } = collective;
    if (instruction.kind === "start") {
      if (inFlight.has(instruction.collective))
        throw new InternalError(`program: ${where} starts twice`);
      read(input, where);
      write(output, where);
      inFlight.set(instruction.collective, { input, output });
      return;
    }
    if (!inFlight.delete(instruction.collective)) {
      throw new InternalError(`program: ${where} waits for a collective that was not started`);
    }
  };

  const scratch = scratchSlots(program);
  const begin = (): void => {
    for (const { slot } of [...program.stored, ...program.inputs]) write(slot, "the beginning");
  };
  begin();
  const sections = [
    // Twice, so that what one microbatch leaves behind meets the next.
    ...(program.microbatches > 1 ? [["body", program.body] as const] : []),
    ["body", program.body] as const,
    ["epilogue", program.epilogue] as const,
    ["evaluation.body", program.evaluation?.body ?? []] as const,
    ["evaluation.epilogue", program.evaluation?.epilogue ?? []] as const,
  ];
  for (const [name, instructions] of sections) {
    instructions.forEach((instruction, i) => {
      run(instruction, `${name}[${i}]`);
    });
    if (inFlight.size > 0)
      throw new InternalError(`program: ${name} ends with a collective not waited for`);
    if (name === "epilogue") {
      // The updated weights are what the next step and an evaluation start from.
      read(program.lossSlot, "the host");
      if (program.gradNormSlot >= 0) read(program.gradNormSlot, "the host");
      begin();
    }
  }
  if (program.evaluation !== undefined) read(program.evaluation.lossSlot, "the host");
}

/** Bytes [start, end) of the arena, and the slots whose values lie in just these bytes. */
interface HeldRange {
  readonly start: number;
  readonly end: number;
  readonly slots: Set<number>;
}

/** Index of the first range that ends after `offset`; their number when none does. */
function firstEndingAfter(ranges: readonly HeldRange[], offset: number): number {
  let [low, high] = [0, ranges.length];
  while (low < high) {
    const middle = (low + high) >>> 1;
    if ((ranges[middle]?.end ?? 0) > offset) high = middle;
    else low = middle + 1;
  }
  return low;
}

/** Slots that an instruction reads and nothing writes before: working space of that instruction. */
function scratchSlots(program: Program): Set<number> {
  const written = new Set([...program.stored, ...program.inputs].map((t) => t.slot));
  for (const collective of program.collectives) written.add(collective.outputSlot);
  const instructions = [
    ...program.body,
    ...program.epilogue,
    ...(program.evaluation?.body ?? []),
    ...(program.evaluation?.epilogue ?? []),
  ];
  for (const i of instructions)
    if (i.kind === "compute") for (const slot of i.outputs) written.add(slot);
  return new Set(program.slots.map((_, index) => index).filter((index) => !written.has(index)));
}
