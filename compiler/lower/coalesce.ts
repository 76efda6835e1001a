import { dtypeBytes } from "../../shared/program/program.ts";
import { elements } from "../ops/shapes.ts";
import type { RankValue } from "./rank-graph.ts";

/** Reductions from this size on travel alone: bytes weigh more than the latency of a message by then. */
const SMALL_BYTES = 64 * 1024;

/**
 * Reduces small gradients together: all-reduces over the same ranks whose results only updates (and the gradient's norm)
 * read are packed one after another into one. A model with sequence-parallel norms has two of a few KiB in every block.
 * Sums stay what they were, element by element in rank order.
 */
export function coalesceReductions(values: RankValue[], live: ReadonlySet<number>): void {
  const readers = values.map((): RankValue[] => []);
  for (const value of values) {
    if (live.has(value.id)) for (const input of value.inputs) readers[input]?.push(value);
  }
  const groups = new Map<string, RankValue[]>();
  for (const value of values) {
    if (value.collective?.op !== "allReduce" || value.replaces !== undefined) continue;
    if (elements(value.shape) * dtypeBytes(value.dtype) >= SMALL_BYTES) continue;
    const list = readers[value.id] ?? [];
    if (list.length === 0 || !list.every((reader) => reader.phase === "optimizer")) continue;
    const key = `${value.collective.axes.join(",")} ${value.dtype} ${value.phase}`;
    groups.set(key, [...(groups.get(key) ?? []), value]);
  }
  for (const group of groups.values()) {
    const [first] = group;
    if (first === undefined || group.length < 2) continue;
    const total = group.reduce((sum, value) => sum + elements(value.shape), 0);
    const packed = append({
      ...first,
      kind: "compute",
      op: "pack",
      inputs: group.map((value) => value.inputs[0] ?? -1),
      shape: [total],
      collective: undefined,
    });
    const reduced = append({
      ...first,
      inputs: [packed],
      shape: [total],
      collective: first.collective && { ...first.collective, chunkElements: total },
      together: group.length,
    });
    let offset = 0;
    for (const value of group) {
      values[value.id] = {
        ...value,
        kind: "compute",
        op: "unpack",
        inputs: [reduced],
        attrs: { offset },
        collective: undefined,
        phase: "optimizer",
      };
      offset += elements(value.shape);
    }
  }

  function append(value: RankValue): number {
    const id = values.length;
    values.push({ ...value, id });
    return id;
  }
}
