import type { ValueType } from "../ops/op.ts";
import { opDefinition } from "../ops/registry.ts";
import { elements } from "../ops/shapes.ts";
import type { RankValue } from "./rank-graph.ts";

/**
 * Lets updates take a weight's gradient as its factors dy and x, so that the gradient never exists: few rows are
 * summed per element, many are multiplied tile by tile into a scratch. A squared norm then comes from the factors'
 * Gram matrices. Applied per weight where nothing else reads the gradient, and where waiting for the norm (clipping)
 * does not make keeping the factors dearer than keeping the gradient. Values are replaced in place; unread ones stay
 * for `reachable` to drop.
 */
export function fuseUpdates(values: RankValue[]): void {
  const readers = values.map((): number[] => []);
  for (const value of values) {
    for (const input of value.inputs) readers[input]?.push(value.id);
  }
  for (const gradient of [...values]) {
    if (gradient.kind !== "compute") continue;
    const fused = opDefinition(gradient.op).weightGradient;
    if (fused === undefined) continue;
    const uses = (readers[gradient.id] ?? [])
      .map((id) => values[id])
      .filter((v) => v !== undefined);
    const update = uses.find((v) => v.op === "adamw" || v.op === "sgd");
    const square = uses.find((v) => v.op === "sumSquares");
    if (update === undefined || update.inputs[1] !== gradient.id) continue;
    if (uses.length !== (square === undefined ? 1 : 2)) continue;
    const [dy, x] = gradient.inputs.map((id) => values[id]);
    if (dy === undefined || x === undefined) continue;
    const factorsAreSmaller = elements(dy.shape) + elements(x.shape) < elements(gradient.shape);
    if (square !== undefined && !factorsAreSmaller) continue;

    const [w, , ...rest] = update.inputs;
    const { attrs, updateScratch, squareScratch } = fused.plan(
      [dy, x].map(({ shape, dtype }) => ({ shape, dtype })),
      { shape: gradient.shape, dtype: gradient.dtype },
    );
    const scratch = (type: ValueType | undefined): number[] => {
      if (type === undefined) return [];
      const id = values.length;
      values.push({ ...gradient, id, kind: "scratch", op: "", inputs: [], ...type });
      return [id];
    };
    values[update.id] = {
      ...update,
      op: update.op === "adamw" ? fused.adamw : fused.sgd,
      inputs: [dy.id, x.id, w ?? -1, ...rest, ...scratch(updateScratch)],
      attrs: { ...update.attrs, ...gradient.attrs, ...attrs },
    };
    if (square !== undefined) {
      const inputs = [dy.id, x.id, ...scratch(squareScratch)];
      values[square.id] = { ...square, op: fused.sumSquares, inputs, attrs: gradient.attrs };
    }
  }
}

/** Ids of the values that `roots` depend on. */
export function reachable(values: readonly RankValue[], roots: readonly number[]): Set<number> {
  const found = new Set<number>();
  const open = [...roots];
  for (let id = open.pop(); id !== undefined; id = open.pop()) {
    if (found.has(id)) continue;
    found.add(id);
    open.push(...(values[id]?.inputs ?? []), ...(values[id]?.makes ?? []));
  }
  return found;
}
