import { InvalidArgumentError } from "../../shared/errors.ts";
import { shard } from "../../shared/mesh/placement.ts";
import type { OpDefinition, ReferenceCall, ValueType } from "./op.ts";
import { registerOps } from "./registry.ts";
import {
  at,
  checkFloats,
  elements,
  inputOf,
  lastDim,
  leadDims,
  operand,
  outputOf,
  row,
  rowCount,
  show,
} from "./shapes.ts";

// Legend: M rows (product of leading dims), O out-features, I in-features; weights are [O, I] as in PyTorch.

/** Up to this many rows an update forms each gradient element on the fly: it stays bound by memory. */
const FEW_ROWS = 32;

/** Bytes of gradient that a tiled update holds at a time. */
const TILE_BYTES = 4 << 20;

function matmulFlops(weight: readonly number[], rows: number): number {
  return 2 * rows * elements(weight);
}

/** y = x w^T for x [..., I] and w [O, I]. */
const linear: OpDefinition = {
  name: "linear",
  numInputs: 2,
  halfInputs: [0, 1],
  layer: {
    kind: "linear",
    styles: {
      colwise: { weight: "S0", bias: "S0", product: "last", output: "last" },
      rowwise: { weight: "S1", bias: "R", product: "output", output: "R" },
      replicate: { weight: "R", bias: "R", product: "output", output: "R" },
    },
  },
  infer([x, w]) {
    const features = checkWeight("linear", x, w);
    if (lastDim(features.x) !== features.w[1]) {
      throw new InvalidArgumentError(
        `linear: in-features differ: input ${show(features.x)} x weight ${show(features.w)}; the input's last dim must equal the weight's dim 1`,
      );
    }
    return { shape: [...features.x.slice(0, -1), features.w[0] ?? 0], dtype: features.dtype };
  },
  gradient(g) {
    const [x, w] = [operand(g.inputs, 0), operand(g.inputs, 1)];
    return [
      g.needs(0) ? g.emit("linearDx", [g.outputGradient, w]) : undefined,
      g.needs(1) ? g.emit("linearDw", [g.outputGradient, x]) : undefined,
    ];
  },
  strategies([x], y) {
    const last = shard(y.shape.length - 1);
    return [
      row(["R", "R"], "R"),
      row(["R", "S0"], last),
      row([last, "S1"], "P"),
      ...leadDims(operand([x], 0) as ValueType).map((d) => row([shard(d), "R"], shard(d))),
      row(["P", "R"], "P"),
    ];
  },
  flops: ([x, w]) => matmulFlops(w?.shape ?? [], rowCount(x?.shape ?? [0])),
  reference(call) {
    const [x, w, y] = [inputOf(call, 0), inputOf(call, 1), outputOf(call)];
    const [O = 0, I = 0] = w.shape;
    const M = rowCount(x.shape);
    for (let m = 0; m < M; m++) {
      for (let o = 0; o < O; o++) {
        let sum = 0;
        for (let i = 0; i < I; i++) sum += at(x.data, m * I + i) * at(w.data, o * I + i);
        y.data[m * O + o] = sum;
      }
    }
  },
};

/** dx = dy w: the input's gradient. */
const linearDx: OpDefinition = {
  name: "linearDx",
  infer([dy, w]) {
    const features = checkWeight("linearDx", dy, w);
    return { shape: [...features.x.slice(0, -1), features.w[1] ?? 0], dtype: features.dtype };
  },
  strategies(_inputs, dx) {
    const last = shard(dx.shape.length - 1);
    return [
      row(["R", "R"], "R"),
      row([last, "S0"], "P"),
      row(["R", "S1"], last),
      ...leadDims(dx).map((d) => row([shard(d), "R"], shard(d))),
      row(["P", "R"], "P"),
    ];
  },
  flops: ([dy, w]) => matmulFlops(w?.shape ?? [], rowCount(dy?.shape ?? [0])),
  reference(call) {
    const [dy, w, dx] = [inputOf(call, 0), inputOf(call, 1), outputOf(call)];
    const [O = 0, I = 0] = w.shape;
    const M = rowCount(dy.shape);
    for (let m = 0; m < M; m++) {
      for (let i = 0; i < I; i++) {
        let sum = 0;
        for (let o = 0; o < O; o++) sum += at(dy.data, m * O + o) * at(w.data, o * I + i);
        dx.data[m * I + i] = sum;
      }
    }
  },
};

/** dw = dy^T x: the weight's gradient [O, I], summed over rows in row order. */
const linearDw: OpDefinition = {
  name: "linearDw",
  infer([dy, x]) {
    const [a, b] = [operand([dy], 0) as ValueType, operand([x], 0) as ValueType];
    return { shape: [lastDim(a.shape), lastDim(b.shape)], dtype: "float32" };
  },
  strategies([dy]) {
    const type = operand([dy], 0) as ValueType;
    const last = shard(type.shape.length - 1);
    return [
      row(["R", "R"], "R"),
      row([last, "R"], "S0"),
      row(["R", last], "S1"),
      ...leadDims(type).map((d) => row([shard(d), shard(d)], "P")),
      row(["P", "R"], "P"),
      row(["R", "P"], "P"),
    ];
  },
  flops: ([dy], dw) => matmulFlops(dw.shape, rowCount(dy?.shape ?? [0])),
  weightGradient: {
    adamw: "adamwFromFactors",
    sgd: "sgdFromFactors",
    sumSquares: "sumSquaresFromFactors",
    plan([dy, x]) {
      const [rows, columns] = [rowCount(x?.shape ?? [0]), lastDim(x?.shape ?? [0])];
      if (rows <= FEW_ROWS)
        return { attrs: { tileRows: 0 }, updateScratch: undefined, squareScratch: undefined };
      const tileRows = Math.min(
        lastDim(dy?.shape ?? [0]),
        Math.max(8, Math.floor(TILE_BYTES / 4 / columns)),
      );
      return {
        attrs: { tileRows },
        updateScratch: { shape: [tileRows, columns], dtype: "float32" },
        squareScratch: undefined,
      };
    },
  },
  reference(call) {
    const dw = outputOf(call);
    forEachWeightGradient(call, (o, i, I, gradient) => {
      dw.data[o * I + i] = gradient;
    });
  },
};

/** Calls `visit(o, i, I, g)` with every element of dy^T x, where dy and x are inputs 0 and 1. */
export function forEachWeightGradient(
  call: ReferenceCall,
  visit: (o: number, i: number, I: number, gradient: number) => void,
): void {
  const [dy, x] = [inputOf(call, 0), inputOf(call, 1)];
  const [O, I, M] = [lastDim(dy.shape), lastDim(x.shape), rowCount(x.shape)];
  for (let o = 0; o < O; o++) {
    for (let i = 0; i < I; i++) {
      let sum = 0;
      for (let m = 0; m < M; m++) sum += at(dy.data, m * O + o) * at(x.data, m * I + i);
      visit(o, i, I, sum);
    }
  }
}

function checkWeight(
  op: string,
  x: ValueType | undefined,
  w: ValueType | undefined,
): { x: readonly number[]; w: readonly number[]; dtype: ValueType["dtype"] } {
  const [data, weight] = [operand([x], 0) as ValueType, operand([w], 0) as ValueType];
  checkFloats(op, [data, weight]);
  if (data.dtype !== weight.dtype) {
    throw new InvalidArgumentError(`${op}: dtypes differ: ${data.dtype} and ${weight.dtype}`);
  }
  if (weight.shape.length !== 2 || data.shape.length < 1) {
    throw new InvalidArgumentError(
      `${op}: needs an input [..., features] and a weight [out, in], got ${show(data.shape)} and ${show(weight.shape)}`,
    );
  }
  return { x: data.shape, w: weight.shape, dtype: data.dtype };
}

/** y = x + b for x [..., O] and b [O]. */
const bias: OpDefinition = {
  name: "bias",
  numInputs: 2,
  halfInputs: [0],
  infer([x, b]) {
    const [data, vector] = [operand([x], 0) as ValueType, operand([b], 0) as ValueType];
    checkFloats("bias", [data, vector]);
    if (vector.shape.length !== 1 || lastDim(data.shape) !== vector.shape[0]) {
      throw new InvalidArgumentError(
        `bias: ${show(vector.shape)} does not fit the last dim of ${show(data.shape)}`,
      );
    }
    return data;
  },
  gradient(g) {
    return [
      g.needs(0) ? g.outputGradient : undefined,
      g.needs(1) ? g.emit("biasDb", [g.outputGradient]) : undefined,
    ];
  },
  // (P, P -> P) is left out: it would need the bias masked to one rank; layers add it after the reduction.
  strategies(_inputs, y) {
    const last = shard(y.shape.length - 1);
    return [
      row(["R", "R"], "R"),
      ...leadDims(y).map((d) => row([shard(d), "R"], shard(d))),
      row([last, "S0"], last),
    ];
  },
  flops: (_inputs, y) => elements(y.shape),
  mayOverwrite: 0,
  reference(call) {
    const [x, b, y] = [inputOf(call, 0), inputOf(call, 1), outputOf(call)];
    const O = lastDim(x.shape);
    for (let i = 0; i < elements(x.shape); i++) y.data[i] = at(x.data, i) + at(b.data, i % O);
  },
};

/** db [O] = sum of dy over rows. */
const biasDb: OpDefinition = {
  name: "biasDb",
  infer: ([dy]) => ({ shape: [lastDim((operand([dy], 0) as ValueType).shape)], dtype: "float32" }),
  strategies([dy]) {
    const type = operand([dy], 0) as ValueType;
    return [
      row(["R"], "R"),
      ...leadDims(type).map((d) => row([shard(d)], "P")),
      row([shard(type.shape.length - 1)], "S0"),
      row(["P"], "P"),
    ];
  },
  flops: ([dy]) => elements(dy?.shape ?? []),
  reference(call) {
    const [dy, db] = [inputOf(call, 0), outputOf(call)];
    const [O, M] = [lastDim(dy.shape), rowCount(dy.shape)];
    for (let o = 0; o < O; o++) {
      let sum = 0;
      for (let m = 0; m < M; m++) sum += at(dy.data, m * O + o);
      db.data[o] = sum;
    }
  },
};

registerOps(linear, linearDx, linearDw, bias, biasDb);
