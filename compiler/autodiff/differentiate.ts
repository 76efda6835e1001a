import type { Graph } from "../ir/graph.ts";
import type { ValueType } from "../ops/op.ts";
import { opDefinition } from "../ops/registry.ts";

/** Values of the backward pass. */
export interface Gradients {
  /** Value to its accumulated gradient, for every value that has one. */
  readonly accumulated: ReadonlyMap<number, number>;
  /** Gradient contribution to the sum that takes it up, for contributions that are not alone. */
  readonly sumOf: ReadonlyMap<number, number>;
}

/**
 * Appends the backward pass of scalar `loss` to the graph. Reverse-mode: one sweep from the loss back; where a value
 * has several uses their contributions meet in one n-ary sum with a fixed operand order, so that partial
 * contributions are added before they are reduced.
 *
 * `roots` maps a parameter's forward-phase copy to the parameter: its contributions count for the parameter.
 * `backwardInput` maps a value to the one that backward ops shall read in its place.
 */
export function differentiate(
  graph: Graph,
  loss: number,
  needsGradient: ReadonlySet<number>,
  roots: ReadonlyMap<number, number>,
  backwardInput: (value: number) => number,
): Gradients {
  const contributions = new Map<number, number[]>();
  const accumulated = new Map<number, number>();
  const sumOf = new Map<number, number>();
  const owned = new Set<number>();
  graph.phase = "backward";
  const seed = graph.add("fill", [], { value: 1 }, "seed", graph.node(loss).type);
  contributions.set(loss, [seed]);

  for (let value = loss; value >= 0; value--) {
    const parts = contributions.get(value);
    if (parts === undefined) continue;
    const gradient = accumulate(value, parts);
    accumulated.set(value, gradient);
    const node = graph.node(value);
    if (node.leaf !== undefined || roots.has(value)) continue;
    const rule = opDefinition(node.op).gradient;
    if (rule === undefined) continue;
    const found = rule({
      inputs: node.inputs,
      output: value,
      outputGradient: gradient,
      attrs: node.attrs,
      needs: (index) => needsGradient.has(node.inputs[index] ?? -1),
      typeOf: (id: number): ValueType => graph.node(id).type,
      emit: (op, inputs, attrs, type) =>
        graph.add(op, inputs.map(backwardInput), attrs ?? {}, node.layer, type),
      operandsOf: (id: number): readonly number[] => graph.node(id).inputs,
      contribute,
    });
    found.forEach((part, index) => {
      const input = node.inputs[index];
      if (part !== undefined && input !== undefined) contribute(input, part);
    });
  }
  return { accumulated, sumOf };

  function contribute(value: number, part: number): void {
    if (!needsGradient.has(value)) return;
    const target = roots.get(value) ?? value;
    const list = contributions.get(target);
    if (list === undefined) contributions.set(target, [part]);
    else list.push(part);
  }

  /** A gradient that also serves another value (passed through by an add) gets a node of its own to be pinned. */
  function accumulate(value: number, parts: readonly number[]): number {
    const [only] = parts;
    if (parts.length === 1 && only !== undefined && !owned.has(only)) {
      owned.add(only);
      return only;
    }
    const sum = graph.add("addN", parts, {}, graph.node(value).layer);
    for (const part of parts) sumOf.set(part, sum);
    owned.add(sum);
    return sum;
  }
}
