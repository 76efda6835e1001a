import { InternalError } from "../../../shared/errors.ts";
import { dtypeBytes, type Instruction, type Program } from "../../../shared/program/program.ts";
import { slotAt } from "../arena-layout.ts";

/** Host memory of one collective's operands, as offsets into the staging memory. */
export interface StagedCollective {
  readonly input: { readonly at: number; readonly bytes: number };
  readonly output: { readonly at: number; readonly bytes: number };
}

export interface StagingPlan {
  readonly collectives: readonly StagedCollective[];
  readonly bytes: number;
}

const ALIGN = 256;

/** A collective and the instructions between which its staging memory is in use. */
interface Use {
  readonly index: number;
  readonly start: number;
  readonly end: number;
  readonly bytes: number;
  readonly staged: (base: number) => StagedCollective;
}

/**
 * Where the operands of collectives lie on the host: those that are never in flight together share memory, and operands that
 * overlap on the device overlap here as well. First fit in the order of the program.
 */
export function planStaging(program: Program): StagingPlan {
  const collectives: StagedCollective[] = program.collectives.map(() => ({
    input: { at: 0, bytes: 0 },
    output: { at: 0, bytes: 0 },
  }));
  const placed: (Use & { readonly at: number })[] = [];
  let bytes = 0;
  for (const use of usesOf(program)) {
    const beside = placed
      .filter(({ start, end }) => start <= use.end && use.start <= end)
      .sort((a, b) => a.at - b.at);
    let at = 0;
    for (const other of beside) {
      if (other.at - at >= use.bytes) break;
      at = Math.max(at, other.at + other.bytes);
    }
    placed.push({ ...use, at });
    collectives[use.index] = use.staged(at);
    bytes = Math.max(bytes, at + use.bytes);
  }
  return { collectives, bytes };
}

function usesOf(program: Program): Use[] {
  const { body, epilogue, evaluation } = program;
  const sections = [body, epilogue, evaluation?.body ?? [], evaluation?.epilogue ?? []];
  const order: readonly Instruction[] = sections.flat();
  const uses: Use[] = [];
  program.collectives.forEach((_, index) => {
    const at = (kind: "start" | "wait"): number =>
      order.findIndex((i) => i.kind === kind && i.collective === index);
    const [start, end] = [at("start"), at("wait")];
    if (start < 0 && end < 0) return;
    if (start < 0 || end < start) {
      throw new InternalError(`collective ${index} is not started once and waited for after it`);
    }
    uses.push({ index, start, end, ...extentOf(program, index) });
  });
  return uses.sort((a, b) => a.start - b.start);
}

function extentOf(program: Program, index: number): Pick<Use, "bytes" | "staged"> {
  const collective = program.collectives[index];
  if (collective === undefined) throw new InternalError(`the program has no collective ${index}`);
  const range = (slotIndex: number): { from: number; bytes: number } => {
    const slot = slotAt(program, slotIndex);
    const bytes = slot.shape.reduce((product, dim) => product * dim, dtypeBytes(slot.dtype));
    return { from: slot.offsetBytes, bytes };
  };
  const [input, output] = [range(collective.inputSlot), range(collective.outputSlot)];
  const apart = input.from >= output.from + output.bytes || output.from >= input.from + input.bytes;
  const first = Math.min(input.from, output.from);
  const [inputAt, outputAt] = apart
    ? [0, align(input.bytes)]
    : [input.from - first, output.from - first];
  return {
    bytes: align(Math.max(inputAt + input.bytes, outputAt + output.bytes)),
    staged: (base) => ({
      input: { at: base + inputAt, bytes: input.bytes },
      output: { at: base + outputAt, bytes: output.bytes },
    }),
  };
}

const align = (bytes: number): number => Math.ceil(bytes / ALIGN) * ALIGN;
