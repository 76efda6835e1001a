import type { OpDefinition } from "./op.ts";
import { registerOps } from "./registry.ts";
import {
  allDims,
  at,
  elements,
  inferFloats,
  inputOf,
  operand,
  outputOf,
  row,
  splitTogether,
} from "./shapes.ts";

const sigmoid = (x: number): number => 1 / (1 + Math.exp(-x));
const silu = (x: number): number => x * sigmoid(x);
const siluSlope = (x: number): number => sigmoid(x) * (1 + x * (1 - sigmoid(x)));

/** y = silu(a) b: the gate of Llama's feed-forward (Shazeer 2020, arXiv:2002.05202). Linear in b. */
const swiglu: OpDefinition = {
  name: "swiglu",
  numInputs: 2,
  halfInputs: [0, 1],
  infer: (inputs) => inferFloats("swiglu", inputs),
  gradient(g) {
    const [a, b] = [operand(g.inputs, 0), operand(g.inputs, 1)];
    return [
      g.needs(0) ? g.emit("swigluDa", [g.outputGradient, a, b]) : undefined,
      g.needs(1) ? g.emit("swigluDb", [g.outputGradient, a]) : undefined,
    ];
  },
  strategies: (_inputs, y) => [
    row(["R", "R"], "R"),
    ...splitTogether(2, allDims(y)),
    row(["R", "P"], "P"),
  ],
  flops: (_inputs, y) => 11 * elements(y.shape),
  mayOverwrite: 0,
  reference(call) {
    const [a, b, y] = [inputOf(call, 0), inputOf(call, 1), outputOf(call)];
    for (let i = 0; i < elements(a.shape); i++) y.data[i] = silu(at(a.data, i)) * at(b.data, i);
  },
};

/** da = dy silu'(a) b. */
const swigluDa: OpDefinition = {
  name: "swigluDa",
  infer: (inputs) => inferFloats("swigluDa", inputs),
  strategies: (_inputs, da) => [
    row(["R", "R", "R"], "R"),
    ...splitTogether(3, allDims(da)),
    row(["P", "R", "R"], "P"),
  ],
  flops: (_inputs, da) => 13 * elements(da.shape),
  fusesWith: { partners: ["swigluDb"], into: "swigluGrad" },
  mayOverwrite: 1,
  reference(call) {
    const [dy, a, b, da] = [inputOf(call, 0), inputOf(call, 1), inputOf(call, 2), outputOf(call)];
    for (let i = 0; i < elements(a.shape); i++)
      da.data[i] = at(dy.data, i) * siluSlope(at(a.data, i)) * at(b.data, i);
  },
};

/** db = dy silu(a). */
const swigluDb: OpDefinition = {
  name: "swigluDb",
  infer: (inputs) => inferFloats("swigluDb", inputs),
  strategies: (_inputs, db) => [
    row(["R", "R"], "R"),
    ...splitTogether(2, allDims(db)),
    row(["P", "R"], "P"),
  ],
  flops: (_inputs, db) => 11 * elements(db.shape),
  mayOverwrite: 0,
  reference(call) {
    const [dy, a, db] = [inputOf(call, 0), inputOf(call, 1), outputOf(call)];
    for (let i = 0; i < elements(a.shape); i++) db.data[i] = at(dy.data, i) * silu(at(a.data, i));
  },
};

/** Both in one pass: [dy, a, b] -> [da, db]. Each output may take the bytes of any input, the other of another. */
const swigluGrad: OpDefinition = {
  name: "swigluGrad",
  infer: (inputs) => inferFloats("swigluGrad", inputs),
  strategies: () => [],
  flops: (_inputs, da) => 16 * elements(da.shape),
  mayOverwrite: 1,
  reference(call) {
    const [dy, a, b] = [inputOf(call, 0), inputOf(call, 1), inputOf(call, 2)];
    const [da, db] = [outputOf(call, 0), outputOf(call, 1)];
    for (let i = 0; i < elements(a.shape); i++) {
      const [dyi, ai, bi] = [at(dy.data, i), at(a.data, i), at(b.data, i)];
      da.data[i] = dyi * siluSlope(ai) * bi;
      db.data[i] = dyi * silu(ai);
    }
  },
};

registerOps(swiglu, swigluDa, swigluDb, swigluGrad);
