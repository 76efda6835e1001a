import { dtypeBytes } from "../../shared/program/program.ts";
import { opDefinition } from "../ops/registry.ts";
import { elements } from "../ops/shapes.ts";
import type { RankValue } from "./rank-graph.ts";
import type { ScheduledStep } from "./schedule.ts";

export interface ReuseProblem {
  readonly steps: readonly ScheduledStep[];
  /** Value to the storage it takes over; grows. */
  readonly storage: Map<number, number>;
  readonly at: (id: number) => RankValue;
  /** Whether a storage lives from step to step. */
  readonly isPersistent: (root: number) => boolean;
  /** Values that are read after the last instruction. */
  readonly hostReads: readonly number[];
}

/**
 * Lets a value be written over an operand that nobody reads afterwards: an all-reduce over its input, an op over the
 * operand that its kernel may overwrite. One pass in schedule order.
 */
export function reuseDeadBytes({
  steps,
  storage,
  at,
  isPersistent,
  hostReads,
}: ReuseProblem): void {
  const storageOf = (id: number): number => storage.get(id) ?? id;
  /** Storage to its uses: positions of instructions, and the value that uses it there. */
  const uses = new Map<number, { index: number; by: number }[]>();
  const use = (id: number, index: number, by: number): void => {
    const root = storageOf(id);
    const list = uses.get(root);
    if (list === undefined) uses.set(root, [{ index, by }]);
    else list.push({ index, by });
  };
  steps.forEach((step, index) => {
    const value = at(step.value);
    for (const id of [...value.inputs, value.id, ...(value.makes ?? [])])
      use(id, index, step.value);
  });
  for (const id of hostReads) use(id, steps.length, -1);
  /** Values by the storage they were given, so that all of them follow when it moves. */
  const holders = new Map<number, number[]>();
  for (const [id, root] of storage) {
    const held = holders.get(root);
    if (held === undefined) holders.set(root, [id]);
    else held.push(id);
  }

  steps.forEach((step, index) => {
    const value = at(step.value);
    const operand = overwrittenOperand(step, value);
    const input = value.inputs[operand];
    if (input === undefined || value.replaces !== undefined || storage.has(value.id)) return;
    const root = storageOf(input);
    if (isPersistent(root) || isPersistent(value.id)) return;
    // A collective reads its input until its wait, which is its own affair.
    if (uses.get(root)?.some((use) => use.index > index && use.by !== value.id)) return;
    // Read twice by the same instruction, or of another size: not the bytes to write over.
    if (value.inputs.filter((id) => storageOf(id) === root).length > 1) return;
    if (bytesOf(value) !== bytesOf(at(root)) || bytesOf(value) !== bytesOf(at(input))) return;
    const moved = [value.id, ...(holders.get(value.id) ?? [])];
    for (const id of moved) storage.set(id, root);
    const held = holders.get(root);
    if (held === undefined) holders.set(root, moved);
    else held.push(...moved);
    // What used the storage so far lies behind; from here on its uses are the new value's.
    uses.set(root, uses.get(value.id) ?? []);
  });

  /** Which operand may be overwritten; -1 for none. */
  function overwrittenOperand(step: ScheduledStep, value: RankValue): number {
    if (step.kind === "start") return value.collective?.op === "allReduce" ? 0 : -1;
    if (step.kind !== "compute") return -1;
    const { mayOverwrite, inPlace } = opDefinition(value.op);
    return inPlace === undefined ? (mayOverwrite ?? -1) : -1;
  }
}

function bytesOf(value: RankValue): number {
  return elements(value.shape) * dtypeBytes(value.dtype);
}
