import { InvalidArgumentError } from "../../shared/errors.ts";
import { shard } from "../../shared/mesh/placement.ts";
import { finiteNumber } from "./attributes.ts";
import type { Attrs, OpDefinition, ReferenceCall, ReferenceTensor, ValueType } from "./op.ts";
import { registerOps } from "./registry.ts";
import {
  at,
  attr,
  elements,
  inputOf,
  isFloat,
  lastDim,
  leadDims,
  operand,
  outputOf,
  row,
  rowCount,
  show,
} from "./shapes.ts";

// Legend: M rows, D features; a row is normalised by itself: xhat = (x - mean) * rsqrt(spread + eps), where rmsNorm
// takes 0 for the mean and the mean of squares for the spread, layerNorm mean and (biased) variance.

/** Mean taken away from a row, and what it is multiplied by then. */
type RowStatistics = (
  x: ReferenceTensor,
  m: number,
  eps: number,
) => { readonly mean: number; readonly rate: number };

function meanOverRow(x: ReferenceTensor, m: number, term: (xi: number) => number): number {
  const D = lastDim(x.shape);
  let sum = 0;
  for (let d = 0; d < D; d++) sum += term(at(x.data, m * D + d));
  return sum / D;
}

const rmsStatistics: RowStatistics = (x, m, eps) => ({
  mean: 0,
  rate: 1 / Math.sqrt(meanOverRow(x, m, (xi) => xi * xi) + eps),
});

const layerStatistics: RowStatistics = (x, m, eps) => {
  const mean = meanOverRow(x, m, (xi) => xi);
  return { mean, rate: 1 / Math.sqrt(meanOverRow(x, m, (xi) => (xi - mean) ** 2) + eps) };
};

function inferNorm(op: string, inputs: readonly ValueType[], attrs: Attrs): ValueType {
  finiteNumber(op, attrs, "eps", 0);
  const [x, ...vectors] = inputs;
  const D = x?.shape.at(-1);
  const fits = vectors.every(({ shape }) => shape.length === 1 && shape[0] === D);
  const dtypes = x !== undefined && isFloat(x.dtype) && vectors.every((t) => t.dtype === "float32");
  if (x === undefined || D === undefined || !fits || !dtypes) {
    const got = inputs.map(({ shape, dtype }) => `${dtype}${show(shape)}`).join(", ");
    throw new InvalidArgumentError(
      `${op}: needs a float32 input [..., features] and ${vectors.length === 1 ? "a float32 vector" : "float32 vectors"} [features], got ${got}`,
    );
  }
  return x;
}

/** y = xhat g, for layerNorm + b. */
function norm(name: string, statistics: RowStatistics, hasBias: boolean): OpDefinition {
  const vectors = hasBias ? (["R", "R"] as const) : (["R"] as const);
  return {
    name,
    numInputs: 1 + vectors.length,
    halfInputs: [0],
    modelAttrs: ["eps"],
    layer: {
      kind: "norm",
      styles: {
        sequence: { weight: "R", bias: "R", product: "output", output: "S1" },
        replicate: { weight: "R", bias: "R", product: "output", output: "R" },
      },
    },
    infer: (inputs, attrs) => inferNorm(name, inputs, attrs),
    gradient(g) {
      const [x, gain] = [operand(g.inputs, 0), operand(g.inputs, 1)];
      return [
        g.needs(0) ? g.emit(`${name}Dx`, [g.outputGradient, x, gain], g.attrs) : undefined,
        g.needs(1) ? g.emit(`${name}Dg`, [g.outputGradient, x], g.attrs) : undefined,
        ...(hasBias ? [g.needs(2) ? g.emit("biasDb", [g.outputGradient]) : undefined] : []),
      ];
    },
    strategies: (_inputs, y) => [
      row(["R", ...vectors], "R"),
      ...leadDims(y).map((d) => row([shard(d), ...vectors], shard(d))),
    ],
    flops: (_inputs, y) => 6 * elements(y.shape),
    mayOverwrite: 0,
    reference(call) {
      const [x, gain, y] = [inputOf(call, 0), inputOf(call, 1), outputOf(call)];
      const bias = hasBias ? inputOf(call, 2) : undefined;
      const D = lastDim(x.shape);
      for (let m = 0; m < rowCount(x.shape); m++) {
        const { mean, rate } = statistics(x, m, attr(call.attrs, "eps"));
        for (let d = 0; d < D; d++) {
          const xhat = (at(x.data, m * D + d) - mean) * rate;
          y.data[m * D + d] = xhat * at(gain.data, d) + (bias === undefined ? 0 : at(bias.data, d));
        }
      }
    },
  };
}

/** dx = rate (d - mean(d) - xhat mean(d xhat)) with d = dy g; rmsNorm has no mean(d). Linear in dy. */
function normDx(name: string, statistics: RowStatistics, centred: boolean): OpDefinition {
  return {
    name: `${name}Dx`,
    infer: ([, x]) => operand([x], 0) as ValueType,
    strategies: (_inputs, dx) => [
      row(["R", "R", "R"], "R"),
      ...leadDims(dx).map((d) => row([shard(d), shard(d), "R"], shard(d))),
      row(["P", "R", "R"], "P"),
    ],
    flops: (_inputs, dx) => 12 * elements(dx.shape),
    fusesWith: { partners: [`${name}Dg`], into: `${name}Grad` },
    mayOverwrite: 0,
    reference: (call) => writeDx(call, outputOf(call), statistics, centred),
  };
}

/** dg = sum over rows of dy xhat. */
function normDg(name: string, statistics: RowStatistics): OpDefinition {
  return {
    name: `${name}Dg`,
    infer: ([, x]) => ({
      shape: [lastDim((operand([x], 0) as ValueType).shape)],
      dtype: "float32",
    }),
    strategies: ([dy]) => [
      row(["R", "R"], "R"),
      ...leadDims(operand([dy], 0) as ValueType).map((d) => row([shard(d), shard(d)], "P")),
      row(["P", "R"], "P"),
    ],
    flops: ([dy]) => 8 * elements(dy?.shape ?? []),
    reference: (call) => writeDg(call, outputOf(call), statistics),
  };
}

/** Both in one pass: [dy, x, g] -> [dx, dg]. dx may take the bytes of dy. */
function normGrad(name: string, statistics: RowStatistics, centred: boolean): OpDefinition {
  return {
    name: `${name}Grad`,
    infer: ([, x]) => operand([x], 0) as ValueType,
    strategies: () => [],
    flops: (_inputs, dx) => 16 * elements(dx.shape),
    mayOverwrite: 0,
    reference(call) {
      writeDg(call, outputOf(call, 1), statistics);
      writeDx(call, outputOf(call), statistics, centred);
    },
  };
}

function writeDx(
  call: ReferenceCall,
  dx: ReferenceTensor,
  statistics: RowStatistics,
  centred: boolean,
): void {
  const [dy, x, gain] = [inputOf(call, 0), inputOf(call, 1), inputOf(call, 2)];
  const D = lastDim(x.shape);
  for (let m = 0; m < rowCount(x.shape); m++) {
    const { mean, rate } = statistics(x, m, attr(call.attrs, "eps"));
    const xhat = (d: number): number => (at(x.data, m * D + d) - mean) * rate;
    let [sum, dot] = [0, 0];
    for (let d = 0; d < D; d++) {
      const scaled = at(dy.data, m * D + d) * at(gain.data, d);
      sum += scaled;
      dot += scaled * xhat(d);
    }
    const shift = centred ? sum / D : 0;
    for (let d = 0; d < D; d++) {
      const scaled = at(dy.data, m * D + d) * at(gain.data, d);
      dx.data[m * D + d] = rate * (scaled - shift - (xhat(d) * dot) / D);
    }
  }
}

function writeDg(call: ReferenceCall, dg: ReferenceTensor, statistics: RowStatistics): void {
  const [dy, x] = [inputOf(call, 0), inputOf(call, 1)];
  const D = lastDim(x.shape);
  const sums = new Float64Array(D);
  for (let m = 0; m < rowCount(x.shape); m++) {
    const { mean, rate } = statistics(x, m, attr(call.attrs, "eps"));
    for (let d = 0; d < D; d++)
      sums[d] = at(sums, d) + at(dy.data, m * D + d) * (at(x.data, m * D + d) - mean) * rate;
  }
  for (let d = 0; d < D; d++) dg.data[d] = at(sums, d);
}

for (const [name, statistics, isLayerNorm] of [
  ["rmsNorm", rmsStatistics, false],
  ["layerNorm", layerStatistics, true],
] as const) {
  registerOps(
    norm(name, statistics, isLayerNorm),
    normDx(name, statistics, isLayerNorm),
    normDg(name, statistics),
    normGrad(name, statistics, isLayerNorm),
  );
}
