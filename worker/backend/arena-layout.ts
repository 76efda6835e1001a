import { InternalError } from "../../shared/errors.ts";
import {
  type ComputeInstruction,
  dtypeBytes,
  type Program,
  type Slot,
} from "../../shared/program/program.ts";

/**
 * The bytes of a program's arena by kind.
 * @throws InternalError when they do not add up to the arena: the prediction would be wrong.
 */
export function arenaParts(program: Program): [kind: string, bytes: number][] {
  const parts = Object.entries(program.memoryByKind);
  const total = parts.reduce((sum, [, bytes]) => sum + bytes, 0);
  if (total !== program.arenaBytes) {
    throw new InternalError(
      `program ${program.name}: its kinds of memory add up to ${total} bytes, its arena has ${program.arenaBytes}`,
    );
  }
  return parts;
}

/** Every compute instruction of a program, those of its evaluation among them. */
export function computeInstructions(program: Program): ComputeInstruction[] {
  const { body, epilogue, evaluation } = program;
  const sections = [body, epilogue, evaluation?.body ?? [], evaluation?.epilogue ?? []];
  return sections.flat().filter((instruction) => instruction.kind === "compute");
}

export function elementCount(shape: readonly number[]): number {
  return shape.reduce((product, size) => product * size, 1);
}

/**
 * Slot `index`, proven to lie in the arena, to hold its shape and to be aligned to its element.
 * @throws InternalError otherwise
 */
export function slotAt(program: Program, index: number): Slot {
  const slot = program.slots[index];
  if (slot === undefined) throw new InternalError(`program ${program.name} has no slot ${index}`);
  const { name, dtype, shape, offsetBytes, sizeBytes } = slot;
  const bytes = elementCount(shape) * dtypeBytes(dtype);
  if (bytes > sizeBytes || offsetBytes < 0 || offsetBytes + sizeBytes > program.arenaBytes) {
    throw new InternalError(
      `slot ${index} (${name}): ${bytes} bytes of [${shape.join(", ")}] in [${offsetBytes}, ${offsetBytes + sizeBytes}) of an arena of ${program.arenaBytes}`,
    );
  }
  if (offsetBytes % dtypeBytes(dtype) !== 0) {
    throw new InternalError(
      `slot ${index} (${name}): offset ${offsetBytes} is not aligned to ${dtype}`,
    );
  }
  return slot;
}

/** @throws InternalError when [offsetBytes, offsetBytes + bytes) leaves the slot. */
export function checkRange(slot: Slot, offsetBytes: number, bytes: number): void {
  if (!(offsetBytes >= 0 && offsetBytes + bytes <= slot.sizeBytes)) {
    throw new InternalError(
      `slot ${slot.name}: bytes [${offsetBytes}, ${offsetBytes + bytes}) of a slot of ${slot.sizeBytes}`,
    );
  }
}
