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

/** An elementwise function and its derivative, both of the input x, and their rough cost per element. */
interface Activation {
  readonly name: string;
  readonly value: (x: number) => number;
  readonly derivative: (x: number) => number;
}

const sigmoid = (x: number): number => 1 / (1 + Math.exp(-x));

/**
 * Error function to double accuracy: the Maclaurin series near 0, the continued fraction of erfc beyond
 * (Abramowitz and Stegun 7.1.6 and 7.1.14).
 */
export function erf(x: number): number {
  const a = Math.abs(x);
  if (a < 2.5) {
    let term = a;
    let sum = a;
    for (let n = 1; n < 80 && Math.abs(term) > 1e-17 * sum; n++) {
      term *= (2 * a * a) / (2 * n + 1);
      sum += term;
    }
    return Math.sign(x) * (2 / Math.sqrt(Math.PI)) * Math.exp(-a * a) * sum;
  }
  if (a > 6) return Math.sign(x);
  let fraction = 0;
  for (let n = 60; n >= 1; n--) fraction = n / 2 / (a + fraction);
  return Math.sign(x) * (1 - Math.exp(-a * a) / (Math.sqrt(Math.PI) * (a + fraction)));
}

const normalCdf = (x: number): number => 0.5 * (1 + erf(x / Math.SQRT2));
const normalPdf = (x: number): number => Math.exp(-0.5 * x * x) / Math.sqrt(2 * Math.PI);

// GPT-2's gelu, PyTorch's approximate="tanh": x (1 + tanh(u)) / 2 = x sigmoid(2u).
const GELU_TANH_SCALE = Math.sqrt(2 / Math.PI);
const GELU_TANH_CUBE = 0.044715;
const geluTanhArgument = (x: number): number => GELU_TANH_SCALE * (x + GELU_TANH_CUBE * x ** 3);

const activations: readonly Activation[] = [
  {
    name: "silu",
    value: (x) => x * sigmoid(x),
    derivative: (x) => sigmoid(x) * (1 + x * (1 - sigmoid(x))),
  },
  { name: "relu", value: (x) => Math.max(0, x), derivative: (x) => (x > 0 ? 1 : 0) },
  // The exact form, PyTorch's default: x * Phi(x).
  {
    name: "gelu",
    value: (x) => x * normalCdf(x),
    derivative: (x) => normalCdf(x) + x * normalPdf(x),
  },
  {
    name: "geluTanh",
    value: (x) => x * sigmoid(2 * geluTanhArgument(x)),
    derivative: (x) => {
      const s = sigmoid(2 * geluTanhArgument(x));
      return s + x * s * (1 - s) * 2 * GELU_TANH_SCALE * (1 + 3 * GELU_TANH_CUBE * x * x);
    },
  },
  { name: "tanh", value: Math.tanh, derivative: (x) => 1 - Math.tanh(x) ** 2 },
  { name: "sigmoid", value: sigmoid, derivative: (x) => sigmoid(x) * (1 - sigmoid(x)) },
];

const FLOPS_PER_ELEMENT = 10;

function definitionsOf({ name, value, derivative }: Activation): OpDefinition[] {
  return [
    {
      name,
      numInputs: 1,
      halfInputs: [0],
      infer: (inputs) => inferFloats(name, inputs),
      gradient: (g) => [
        g.needs(0) ? g.emit(`${name}Grad`, [g.outputGradient, operand(g.inputs, 0)]) : undefined,
      ],
      strategies: (_inputs, y) => [row(["R"], "R"), ...splitTogether(1, allDims(y))],
      flops: (_inputs, y) => FLOPS_PER_ELEMENT * elements(y.shape),
      mayOverwrite: 0,
      reference(call) {
        const [x, y] = [inputOf(call, 0), outputOf(call)];
        for (let i = 0; i < elements(x.shape); i++) y.data[i] = value(at(x.data, i));
      },
    },
    {
      name: `${name}Grad`,
      infer: (inputs) => inferFloats(`${name}Grad`, inputs),
      // Linear in dy, so a partial dy may stay partial.
      strategies: (_inputs, dx) => [
        row(["R", "R"], "R"),
        ...splitTogether(2, allDims(dx)),
        row(["P", "R"], "P"),
      ],
      flops: (_inputs, dx) => FLOPS_PER_ELEMENT * elements(dx.shape),
      mayOverwrite: 0,
      reference(call) {
        const [dy, x, dx] = [inputOf(call, 0), inputOf(call, 1), outputOf(call)];
        for (let i = 0; i < elements(x.shape); i++)
          dx.data[i] = at(dy.data, i) * derivative(at(x.data, i));
      },
    },
  ];
}

registerOps(...activations.flatMap(definitionsOf));
