import { InternalError, InvalidArgumentError } from "../../shared/errors.ts";
import type { OpDefinition } from "./op.ts";
import { registerOps } from "./registry.ts";
import {
  allDims,
  at,
  attr,
  elements,
  inferFloats,
  inferSame,
  inputOf,
  operand,
  outputOf,
  row,
  splitTogether,
} from "./shapes.ts";

const mul: OpDefinition = {
  name: "mul",
  numInputs: 2,
  halfInputs: [0, 1],
  infer: (inputs) => inferFloats("mul", inputs),
  gradient: (g) => [
    g.needs(0) ? g.emit("mul", [g.outputGradient, operand(g.inputs, 1)]) : undefined,
    g.needs(1) ? g.emit("mul", [g.outputGradient, operand(g.inputs, 0)]) : undefined,
  ],
  // Linear in each operand, but not in both at once: exactly one may be partial.
  strategies: (_inputs, y) => [
    row(["R", "R"], "R"),
    ...splitTogether(2, allDims(y)),
    row(["P", "R"], "P"),
    row(["R", "P"], "P"),
  ],
  flops: (_inputs, y) => elements(y.shape),
  mayOverwrite: 0,
  reference: (call) => combine(call, (a, b) => a * b),
};

const add: OpDefinition = {
  name: "add",
  numInputs: 2,
  halfInputs: [0, 1],
  infer: (inputs) => inferFloats("add", inputs),
  gradient: (g) => [
    g.needs(0) ? g.outputGradient : undefined,
    g.needs(1) ? g.outputGradient : undefined,
  ],
  strategies: (_inputs, y) => [
    row(["R", "R"], "R"),
    ...splitTogether(2, allDims(y)),
    row(["P", "P"], "P"),
  ],
  flops: (_inputs, y) => elements(y.shape),
  mayOverwrite: 0,
  reference: (call) => combine(call, (a, b) => a + b),
};

const sub: OpDefinition = {
  name: "sub",
  numInputs: 2,
  halfInputs: [0, 1],
  infer: (inputs) => inferFloats("sub", inputs),
  gradient: (g) => [
    g.needs(0) ? g.outputGradient : undefined,
    g.needs(1) ? g.emit("scale", [g.outputGradient], { factor: -1 }) : undefined,
  ],
  strategies: (_inputs, y) => [
    row(["R", "R"], "R"),
    ...splitTogether(2, allDims(y)),
    row(["P", "P"], "P"),
  ],
  flops: (_inputs, y) => elements(y.shape),
  mayOverwrite: 0,
  reference: (call) => combine(call, (a, b) => a - b),
};

/** Sum of any number of values in operand order: where a value's gradient contributions meet. */
const addN: OpDefinition = {
  name: "addN",
  infer: (inputs) => inferFloats("addN", inputs),
  strategies: (inputs, y) => [
    row(new Array(inputs.length).fill("R"), "R"),
    ...splitTogether(inputs.length, allDims(y)),
    row(new Array(inputs.length).fill("P"), "P"),
  ],
  flops: (inputs, y) => (inputs.length - 1) * elements(y.shape),
  mayOverwrite: 0,
  reference(call) {
    const y = outputOf(call);
    for (let i = 0; i < elements(y.shape); i++) {
      let sum = 0;
      for (const x of call.inputs) sum += at(x.data, i);
      y.data[i] = sum;
    }
  },
};

const scale: OpDefinition = {
  name: "scale",
  numInputs: 1,
  halfInputs: [0],
  modelAttrs: ["factor"],
  infer(inputs, attrs) {
    if (attrs["factor"] === undefined) {
      throw new InvalidArgumentError(
        'scale: has no attribute "factor"; give the number to multiply by',
      );
    }
    return inferFloats("scale", inputs);
  },
  gradient: (g) => [g.needs(0) ? g.emit("scale", [g.outputGradient], g.attrs) : undefined],
  strategies: (_inputs, y) => [row(["R"], "R"), ...splitTogether(1, allDims(y)), row(["P"], "P")],
  flops: (_inputs, y) => elements(y.shape),
  mayOverwrite: 0,
  reference(call) {
    const [x, y, factor] = [inputOf(call, 0), outputOf(call), attr(call.attrs, "factor")];
    for (let i = 0; i < elements(x.shape); i++) y.data[i] = at(x.data, i) * factor;
  },
};

/** The same value under a name of its own: a place to pin a layout, and a parameter's use in one phase. */
const identity: OpDefinition = {
  name: "identity",
  numInputs: 1,
  halfInputs: [0],
  infer: (inputs) => inferSame("identity", inputs),
  gradient: (g) => [g.needs(0) ? g.outputGradient : undefined],
  strategies: (_inputs, y) => [row(["R"], "R"), ...splitTogether(1, allDims(y)), row(["P"], "P")],
  flops: () => 0,
  reference(call) {
    const [x, y] = [inputOf(call, 0), outputOf(call)];
    for (let i = 0; i < elements(x.shape); i++) y.data[i] = at(x.data, i);
  },
};

function combine(
  call: Parameters<OpDefinition["reference"]>[0],
  f: (a: number, b: number) => number,
): void {
  const [a, b, y] = [inputOf(call, 0), inputOf(call, 1), outputOf(call)];
  if (a.data.length !== b.data.length)
    throw new InternalError(`operands of ${a.data.length} and ${b.data.length} elements`);
  for (let i = 0; i < elements(y.shape); i++) y.data[i] = f(at(a.data, i), at(b.data, i));
}

registerOps(mul, add, sub, addN, scale, identity);
