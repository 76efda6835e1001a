import { shard } from "../../shared/mesh/placement.ts";
import type { OpDefinition, ReferenceTensor, ValueType } from "./op.ts";
import { registerOps } from "./registry.ts";
import {
  allDims,
  at,
  attr,
  elements,
  inputOf,
  lastDim,
  operand,
  outputOf,
  row,
  rowCount,
  scalar,
} from "./shapes.ts";

/** Sum of squares, a float64 scalar. Never of a partial value: the square of a sum is not the sum of squares. */
const sumSquares: OpDefinition = {
  name: "sumSquares",
  infer: () => scalar("float64"),
  strategies: ([x]) => [
    row(["R"], "R"),
    ...allDims(operand([x], 0) as ValueType).map((d) => row([shard(d)], "P")),
  ],
  flops: ([x]) => 2 * elements(x?.shape ?? []),
  reference(call) {
    const x = inputOf(call, 0);
    let total = 0;
    for (let i = 0; i < elements(x.shape); i++) total += at(x.data, i) ** 2;
    outputOf(call).data[0] = total;
  },
};

/**
 * ||dy^T x||_F^2 = sum((dy dy^T) * (x x^T)) without forming the gradient: M^2 (O + I) instead of M O I operations.
 * Dots in float64: in float32 the sum cancels to 1e-5 when x's mean is large. (Goodfellow 2015, arXiv:1510.01799.)
 */
const sumSquaresFromFactors: OpDefinition = {
  name: "sumSquaresFromFactors",
  infer: () => scalar("float64"),
  strategies: () => [],
  flops: ([dy, x]) =>
    2 * rowCount(x?.shape ?? [0]) * (elements(dy?.shape ?? []) + elements(x?.shape ?? [])),
  reference(call) {
    const [dy, x] = [inputOf(call, 0), inputOf(call, 1)];
    const M = rowCount(x.shape);
    let total = 0;
    for (let a = 0; a < M; a++) {
      for (let b = 0; b < M; b++) total += dotRows(dy, a, b) * dotRows(x, a, b);
    }
    outputOf(call).data[0] = total;
  },
};

function dotRows(tensor: ReferenceTensor, a: number, b: number): number {
  const K = lastDim(tensor.shape);
  let sum = 0;
  for (let k = 0; k < K; k++) sum += at(tensor.data, a * K + k) * at(tensor.data, b * K + k);
  return sum;
}

const sqrt: OpDefinition = {
  name: "sqrt",
  infer: () => scalar("float64"),
  strategies: () => [row(["R"], "R")],
  flops: () => 1,
  reference(call) {
    outputOf(call).data[0] = Math.sqrt(at(inputOf(call, 0).data, 0));
  },
};

/** min(1, maxNorm / (norm + 1e-6)), as PyTorch's clip_grad_norm_. attrs: maxNorm. */
const clipFactor: OpDefinition = {
  name: "clipFactor",
  infer: () => scalar(),
  strategies: () => [row(["R"], "R")],
  flops: () => 2,
  reference(call) {
    const norm = at(inputOf(call, 0).data, 0);
    outputOf(call).data[0] = Math.min(1, attr(call.attrs, "maxNorm") / (norm + 1e-6));
  },
};

registerOps(sumSquares, sumSquaresFromFactors, sqrt, clipFactor);
