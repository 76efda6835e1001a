import { ResourceExhaustedError } from "../../../../shared/errors.ts";
import { type Address, NULL } from "../../kernels.ts";
import type { BindingPattern, WgslKernel } from "./wgsl-kernel.ts";

/** One operand of a launch: where it begins and how many elements it has. NULL: left out. */
export type LaunchOperand = readonly [at: Address, elements: number];

/** Where a dispatch's operands lie in its bindings. */
export interface Bound {
  readonly pattern: BindingPattern;
  /** Buffer, offset and size of each binding. */
  readonly bindings: Uint32Array;
  /** Where each operand begins in its binding, in words. */
  readonly offsets: readonly number[];
}

interface Placed {
  readonly index: number;
  readonly buffer: number;
  readonly offset: number;
  readonly end: number;
}

const BYTES = { f32: 4, i32: 4, u32: 4, f64: 8 } as const;

/**
 * Bindings of a dispatch must not overlap, since any may be written: operands whose ranges do, once extended to where a
 * binding may begin, share one. Bindings are numbered by the first operand that each holds, so that one pipeline serves
 * wherever operands lie.
 *
 * @param locate the buffer that holds an address, and where in it
 * @throws ResourceExhaustedError when operands that share a binding are too large for one
 */
export function bindOperands(
  kernel: WgslKernel,
  operands: Readonly<Record<string, LaunchOperand>>,
  locate: (address: Address) => { readonly buffer: number; readonly offset: number },
  limits: { readonly alignBytes: number; readonly maxBindingBytes: number },
): Bound {
  const types = Object.entries(kernel.operands);
  const placed = types.flatMap(([name, type], index): Placed[] => {
    const [at, elements] = operands[name] ?? [NULL, 0];
    if (at === NULL) return [];
    const { buffer, offset } = locate(at);
    return [{ index, buffer, offset, end: offset + Math.max(1, elements) * BYTES[type] }];
  });
  const pattern = types.map(() => -1);
  const offsets = types.map(() => 0);
  const ranges = sharedRanges(placed, limits.alignBytes);
  const bindings = new Uint32Array(3 * ranges.length);
  ranges.forEach(({ buffer, start, end, members }, binding) => {
    if (end - start > limits.maxBindingBytes) {
      throw new ResourceExhaustedError(
        `gpujs backend: ${kernel.name}: ${end - start} bytes of operands that overlap, the adapter binds ${limits.maxBindingBytes} at a time; use more ranks`,
      );
    }
    bindings.set([buffer, start, end - start], 3 * binding);
    for (const { index, offset } of members) {
      pattern[index] = binding;
      offsets[index] = (offset - start) / 4;
    }
  });
  return { pattern, bindings, offsets };
}

interface Range {
  readonly buffer: number;
  readonly start: number;
  end: number;
  readonly members: Placed[];
}

function sharedRanges(placed: readonly Placed[], alignBytes: number): Range[] {
  const ranges: Range[] = [];
  for (const operand of placed.toSorted((a, b) => a.buffer - b.buffer || a.offset - b.offset)) {
    const start = Math.floor(operand.offset / alignBytes) * alignBytes;
    const last = ranges.at(-1);
    if (last !== undefined && last.buffer === operand.buffer && start < last.end) {
      last.end = Math.max(last.end, operand.end);
      last.members.push(operand);
    } else {
      ranges.push({ buffer: operand.buffer, start, end: operand.end, members: [operand] });
    }
  }
  const first = ({ members }: Range): number => Math.min(...members.map(({ index }) => index));
  return ranges.sort((a, b) => first(a) - first(b));
}
