import { InvalidArgumentError } from "../../shared/errors.ts";
import { shard } from "../../shared/mesh/placement.ts";
import { wholeNumber } from "./attributes.ts";
import type { Attrs, OpDefinition, StrategyRow, ValueType } from "./op.ts";
import { registerOps } from "./registry.ts";
import { allDims, at, elements, inputOf, operand, outputOf, row, show } from "./shapes.ts";

const MOST_DIMS = 8;

/** y [B, d1, d2, ...] of the same bytes as x [B, ...]. attrs: rank (dims of y), d1, d2, ... (global sizes). */
const reshape: OpDefinition = {
  name: "reshape",
  isView: true,
  numInputs: 1,
  halfInputs: [0],
  modelAttrs: ["rank", "d1", "d2", "d3", "d4", "d5", "d6", "d7"],
  infer([x], attrs) {
    const { shape, dtype } = operand([x], 0) as ValueType;
    const [B, ...rest] = shape;
    if (B === undefined)
      throw new InvalidArgumentError("reshape: a scalar has no batch dim; give a tensor [B, ...]");
    const rank = wholeNumber("reshape", attrs, "rank", { min: 1, max: MOST_DIMS });
    const dims = Array.from({ length: rank - 1 }, (_, i) =>
      wholeNumber("reshape", attrs, `d${i + 1}`, { min: 1 }),
    );
    if (elements(dims) !== elements(rest)) {
      throw new InvalidArgumentError(
        `reshape: ${show(shape)} has ${elements(rest)} elements in each row of dim 0, and ${show([B, ...dims])} ${elements(dims)}; the sizes after dim 0 must have the same product`,
      );
    }
    return { shape: [B, ...dims], dtype };
  },
  gradient: (g) => [
    g.needs(0)
      ? g.emit("reshape", [g.outputGradient], reshapeAttrs(g.typeOf(operand(g.inputs, 0)).shape))
      : undefined,
  ],
  strategies: ([x], y) => [
    row(["R"], "R"),
    ...sharedSplits((operand([x], 0) as ValueType).shape, y.shape),
    row(["P"], "P"),
  ],
  flops: () => 0,
  mayOverwrite: 0,
  reference(call) {
    const [x, y] = [inputOf(call, 0), outputOf(call)];
    for (let i = 0; i < elements(x.shape); i++) y.data[i] = at(x.data, i);
  },
};

/** Attributes of a reshape to `shape`. */
export function reshapeAttrs(shape: readonly number[]): Attrs {
  return {
    rank: shape.length,
    ...Object.fromEntries(shape.slice(1).map((size, i) => [`d${i + 1}`, size])),
  };
}

/**
 * Splits that stay splits of whole dims. Both shapes are cut into runs of dims of equal product; a rank's part of a
 * run's first dim (of those over 1) is its part of the first dim over there, and of no other.
 */
function sharedSplits(from: readonly number[], to: readonly number[]): StrategyRow[] {
  const rows = [row(["S0"], "S0")];
  let [i, j] = [1, 1];
  while (i < from.length && j < to.length) {
    if (from[i] === 1) i++;
    else if (to[j] === 1) j++;
    else {
      rows.push(row([shard(i)], shard(j)));
      let [a, b] = [from[i] ?? 1, to[j] ?? 1];
      i++;
      j++;
      while (a !== b && (a < b ? i < from.length : j < to.length)) {
        if (a < b) a *= from[i++] ?? 1;
        else b *= to[j++] ?? 1;
      }
    }
  }
  return rows;
}

/** y = x with dims attrs.a and attrs.b changed for each other; dim 0 stays the batch. */
const transpose: OpDefinition = {
  name: "transpose",
  numInputs: 1,
  halfInputs: [0],
  modelAttrs: ["a", "b"],
  infer([x], attrs) {
    const { shape, dtype } = operand([x], 0) as ValueType;
    if (shape.length < 2)
      throw new InvalidArgumentError(
        `transpose: ${show(shape)} has no two dims beside the batch dim 0 to change for each other`,
      );
    const range = { min: 1, max: shape.length - 1 };
    const [a, b] = [
      wholeNumber("transpose", attrs, "a", range),
      wholeNumber("transpose", attrs, "b", range),
    ];
    return { shape: shape.map((_, d) => operand(shape, swapped(d, a, b))), dtype };
  },
  gradient: (g) => [g.needs(0) ? g.emit("transpose", [g.outputGradient], g.attrs) : undefined],
  strategies: ([x], _y, { a = 0, b = 0 }) => [
    row(["R"], "R"),
    ...allDims(operand([x], 0) as ValueType).map((d) => row([shard(d)], shard(swapped(d, a, b)))),
    row(["P"], "P"),
  ],
  flops: () => 0,
  reference(call) {
    const [x, y] = [inputOf(call, 0), outputOf(call)];
    const { a = 0, b = 0 } = call.attrs;
    const strides = x.shape.map((_, d) => elements(x.shape.slice(d + 1)));
    for (let i = 0; i < elements(x.shape); i++) {
      let [rest, from] = [i, 0];
      for (let d = y.shape.length - 1; d >= 0; d--) {
        const size = operand(y.shape, d);
        from += (rest % size) * operand(strides, swapped(d, a, b));
        rest = Math.floor(rest / size);
      }
      y.data[i] = at(x.data, from);
    }
  },
};

const swapped = (d: number, a: number, b: number): number => (d === a ? b : d === b ? a : d);

registerOps(reshape, transpose);
