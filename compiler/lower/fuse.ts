import { opDefinition } from "../ops/registry.ts";
import { elements, lastDim, rowCount } from "../ops/shapes.ts";
import type { RankValue } from "./rank-graph.ts";

/** Up to this many rows an update forms each gradient element on the fly: it stays bound by memory. */
const FEW_ROWS = 32;

/** Bytes of gradient that a tiled update holds at a time. */
const TILE_BYTES = 4 << 20;

const fusedUpdate: Readonly<Record<string, string>> = {
  adamw: "adamwFromFactors",
  sgd: "sgdFromFactors",
};

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
    if (gradient.kind !== "compute" || opDefinition(gradient.op).weightGradient !== true) continue;
    const uses = (readers[gradient.id] ?? [])
      .map((id) => values[id])
      .filter((v) => v !== undefined);
    const update = uses.find((v) => v.op in fusedUpdate);
    const square = uses.find((v) => v.op === "sumSquares");
    if (update === undefined || update.inputs[1] !== gradient.id) continue;
    if (uses.length !== (square === undefined ? 1 : 2)) continue;
    const [dy, x] = gradient.inputs.map((id) => values[id]);
    if (dy === undefined || x === undefined) continue;
    const factorsAreSmaller = elements(dy.shape) + elements(x.shape) < elements(gradient.shape);
    if (square !== undefined && !factorsAreSmaller) continue;

    const [w, , ...rest] = update.inputs;
    const columns = lastDim(x.shape);
    const outRows = lastDim(dy.shape);
    const tileRows =
      rowCount(x.shape) <= FEW_ROWS
        ? 0
        : Math.min(outRows, Math.max(8, Math.floor(TILE_BYTES / 4 / columns)));
    const scratch: number[] = [];
    if (tileRows > 0) {
      const id = values.length;
      scratch.push(id);
      values.push({
        ...gradient,
        id,
        kind: "scratch",
        op: "",
        inputs: [],
        shape: [tileRows, columns],
      });
    }
    values[update.id] = {
      ...update,
      op: fusedUpdate[update.op] ?? update.op,
      inputs: [dy.id, x.id, w ?? -1, ...rest, ...scratch],
      attrs: { ...update.attrs, tileRows },
    };
    if (square !== undefined) {
      values[square.id] = { ...square, op: "sumSquaresFromFactors", inputs: [dy.id, x.id] };
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
    open.push(...(values[id]?.inputs ?? []));
  }
  return found;
}
