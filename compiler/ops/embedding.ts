import { InternalError, InvalidArgumentError } from "../../shared/errors.ts";
import { shard } from "../../shared/mesh/placement.ts";
import type { OpDefinition, ReferenceCall, ValueType } from "./op.ts";
import { adamwElement, factorOf, sgdElement } from "./optimizer.ts";
import { registerOps } from "./registry.ts";
import {
  at,
  attr,
  elements,
  inputOf,
  lastDim,
  leadDims,
  operand,
  outputOf,
  placeOf,
  row,
  scalar,
  show,
} from "./shapes.ts";

// Legend: V rows of the table (the vocabulary), D features, M tokens. A rank that holds part of the rows takes ids as
// they are: those outside its rows give zeros, and get no gradient here.

/** y [..., D] = rows of w [V, D] by ids [...]; zeros for an id outside the rows held. */
const embedding: OpDefinition = {
  name: "embedding",
  numInputs: 2,
  layer: {
    kind: "embedding",
    styles: {
      rowwise: { weight: "S0", bias: "R", product: "output", output: "R" },
      colwise: { weight: "S1", bias: "S0", product: "last", output: "last" },
      replicate: { weight: "R", bias: "R", product: "output", output: "R" },
    },
  },
  infer(inputs) {
    const [ids, w] = [operand(inputs, 0), operand(inputs, 1)];
    if (ids.dtype !== "int32" || w.dtype !== "float32" || w.shape.length !== 2) {
      throw new InvalidArgumentError(
        `embedding: needs int32 ids [...] and a float32 table [rows, features], got ${ids.dtype}${show(ids.shape)} and ${w.dtype}${show(w.shape)}`,
      );
    }
    return { shape: [...ids.shape, lastDim(w.shape)], dtype: "float32" };
  },
  gradient(g) {
    const [ids, w] = [operand(g.inputs, 0), operand(g.inputs, 1)];
    return [
      undefined,
      g.needs(1) ? g.emit("embeddingDw", [g.outputGradient, ids], {}, g.typeOf(w)) : undefined,
    ];
  },
  strategies(_inputs, y) {
    return [
      row(["R", "R"], "R"),
      ...leadDims(y).map((d) => row([shard(d), "R"], shard(d))),
      row(["R", "S0"], "P"),
      row(["R", "S1"], shard(y.shape.length - 1)),
    ];
  },
  positions: () => [{ attr: "rowAxes", operand: 1, dim: 0 }],
  flops: (_inputs, y) => elements(y.shape),
  reference(call) {
    const [ids, w, y] = [inputOf(call, 0), inputOf(call, 1), outputOf(call)];
    const [V = 0, D = 0] = w.shape;
    const start = placeOf(call, "rowAxes").index * V;
    for (let t = 0; t < elements(ids.shape); t++) {
      const r = at(ids.data, t) - start;
      for (let d = 0; d < D; d++) y.data[t * D + d] = r >= 0 && r < V ? at(w.data, r * D + d) : 0;
    }
  },
};

/** dw [V, D] of the table: rows of dy [..., D] added by ids [...], in token order. */
const embeddingDw: OpDefinition = {
  name: "embeddingDw",
  infer() {
    throw new InternalError("the shape of a table's gradient comes with the node");
  },
  strategies([dy]) {
    const type = operand([dy], 0) as ValueType;
    return [
      row(["R", "R"], "R"),
      row(["R", "R"], "S0"),
      ...leadDims(type).map((d) => row([shard(d), shard(d)], "P")),
      row([shard(type.shape.length - 1), "R"], "S1"),
      row(["P", "R"], "P"),
    ];
  },
  positions: () => [{ attr: "rowAxes", operand: -1, dim: 0 }],
  flops: ([dy]) => elements(dy?.shape ?? []),
  weightGradient: {
    adamw: "adamwFromRows",
    sgd: "sgdFromRows",
    sumSquares: "sumSquaresFromRows",
    // Where each row's tokens begin, and the tokens sorted by row.
    plan([, ids], gradient) {
      const scratch: ValueType = {
        shape: [(gradient.shape[0] ?? 0) + 1 + elements(ids?.shape ?? [])],
        dtype: "int32",
      };
      return { attrs: {}, updateScratch: scratch, squareScratch: scratch };
    },
  },
  reference(call) {
    const dw = outputOf(call);
    const gradient = tableGradient(call, dw.shape[0] ?? 0);
    for (let i = 0; i < elements(dw.shape); i++) dw.data[i] = at(gradient, i);
  },
};

/** The table's gradient [rows, D] from inputs 0 and 1, dy and ids. */
function tableGradient(call: ReferenceCall, rows: number): Float64Array {
  const [dy, ids] = [inputOf(call, 0), inputOf(call, 1)];
  const D = lastDim(dy.shape);
  const gradient = new Float64Array(rows * D);
  const start = placeOf(call, "rowAxes").index * rows;
  for (let t = 0; t < elements(ids.shape); t++) {
    const r = at(ids.data, t) - start;
    if (r < 0 || r >= rows) continue;
    for (let d = 0; d < D; d++)
      gradient[r * D + d] = at(gradient, r * D + d) + at(dy.data, t * D + d);
  }
  return gradient;
}

/** AdamW of a table from [dy, ids, w, m, v], factor, scratch. Rows without a token decay, and move by their momentum. */
const adamwFromRows: OpDefinition = {
  name: "adamwFromRows",
  infer: ([, , w]) => operand([w], 0) as ValueType,
  strategies: () => [],
  flops: ([dy], w) => 15 * elements(w.shape) + elements(dy?.shape ?? []),
  inPlace: 2,
  alsoWrites: () => [3, 4],
  reference(call) {
    const factor = factorOf(call, 5);
    tableGradient(call, outputOf(call).shape[0] ?? 0).forEach((g, i) => {
      adamwElement(call, i, g * factor);
    });
  },
};

/** SGD of a table from [dy, ids, w], with momentum m, factor, scratch. */
const sgdFromRows: OpDefinition = {
  name: "sgdFromRows",
  infer: ([, , w]) => operand([w], 0) as ValueType,
  strategies: () => [],
  flops: ([dy], w) => 4 * elements(w.shape) + elements(dy?.shape ?? []),
  inPlace: 2,
  alsoWrites: (attrs) => (attr(attrs, "hasMomentum") === 1 ? [3] : []),
  reference(call) {
    const factor = factorOf(call, 3 + attr(call.attrs, "hasMomentum"));
    tableGradient(call, outputOf(call).shape[0] ?? 0).forEach((g, i) => {
      sgdElement(call, i, g * factor);
    });
  },
};

/** Sum of squares of a table's gradient, from [dy, ids, scratch]. */
const sumSquaresFromRows: OpDefinition = {
  name: "sumSquaresFromRows",
  infer: () => scalar("float64"),
  strategies: () => [],
  flops: ([dy]) => 3 * elements(dy?.shape ?? []),
  reference(call) {
    const rows = elements(inputOf(call, 2).shape) - 1 - elements(inputOf(call, 1).shape);
    outputOf(call).data[0] = tableGradient(call, rows).reduce((sum, g) => sum + g * g, 0);
  },
};

registerOps(embedding, embeddingDw, adamwFromRows, sgdFromRows, sumSquaresFromRows);
