/**
 * What gpu.js computes: the ops of one output, each element from the elements at its own place. They are written in the part
 * of JavaScript that gpu.js compiles, and once for both of its modes: `webasm` runs them as WebAssembly, `webgpu` makes WGSL of
 * them. Formulas are those of elementwise.c and swiglu.c.
 */
export interface ElementwiseKernel {
  /** How each operand is given: `each` an element for each of the output, `one` a tensor of one element, `number` a number. */
  readonly operands: readonly ("each" | "one" | "number")[];
  /** A function of gpu.js, called for each element. */
  readonly source: string;
}

const V = "const v = x[this.thread.x];";
const SIGMOID = "const s = 1 / (1 + Math.exp(-v));";
/** GPT-2's gelu: x (1 + tanh(u)) / 2 = x sigmoid(2u). */
const GELU_TANH = `const s = 1 / (1 + Math.exp(-2 * 0.79788456080286536 * (v + 0.044715 * v * v * v)));`;

/** Distribution function of the normal distribution as `c`, relative accuracy kept in the lower tail: vnormal_cdf in C. */
const NORMAL_CDF = `
  const z = v * 0.70710678118654752;
  const a = Math.abs(z);
  let c = v;
  if (a < 1) {
    const q = z * z;
    let t = 7.853861353153693e-5;
    t = t * q - 8.010193625184903e-4;
    t = t * q + 5.188327685732524e-3;
    t = t * q - 2.685381193529856e-2;
    t = t * q + 1.128358514861418e-1;
    t = t * q - 3.761262582423300e-1;
    t = t * q + 1.128379165726710;
    c = 0.5 + 0.5 * z * t;
  } else if (a >= 1) {
    const q = 1 / a;
    const y = q * q;
    let p = 0.5;
    if (a < 2) {
      p = 2.326819970068386e-2;
      p = p * y - 1.387039388740657e-1;
      p = p * y + 3.687424674597105e-1;
      p = p * y - 5.824733027278666e-1;
      p = p * y + 6.210004621745983e-1;
      p = p * y - 4.944515323274145e-1;
      p = p * y + 3.404879937665872e-1;
      p = p * y - 2.741127028184656e-1;
      p = p * y + 5.638259427386472e-1;
    } else {
      p = -1.047766399936249e+1;
      p = p * y + 1.297719955372516e+1;
      p = p * y - 7.495518717768503;
      p = p * y + 2.921019019210786;
      p = p * y - 1.015265279202700;
      p = p * y + 4.218463358204948e-1;
      p = p * y - 2.820767439740514e-1;
      p = p * y + 5.641895067754075e-1;
    }
    const tail = 0.5 * Math.exp(-0.5 * v * v) * q * p;
    if (v < 0) {
      c = tail;
    } else {
      c = 1 - tail;
    }
  }`;

/** Values of an activation of `v`. */
const VALUES = {
  silu: "return v / (1 + Math.exp(-v));",
  relu: "if (v <= 0) { return 0; } return v;",
  gelu: `${NORMAL_CDF} return v * c;`,
  tanh: "return Math.tanh(v);",
  sigmoid: `${SIGMOID} return s;`,
  geluTanh: `${GELU_TANH} return v * s;`,
} as const;

/** Derivatives of the activations, times dy. */
const SLOPES = {
  silu: `${SIGMOID} return dy[this.thread.x] * (s * (1 + v * (1 - s)));`,
  relu: "if (v <= 0) { return dy[this.thread.x] * 0; } return dy[this.thread.x];",
  gelu: `${NORMAL_CDF} return dy[this.thread.x] * (c + v * 0.39894228040143268 * Math.exp(-0.5 * v * v));`,
  // 1 - tanh(x)^2 without the cancellation.
  tanh: "const e = Math.exp(-2 * Math.abs(v)); return dy[this.thread.x] * (4 * e / ((1 + e) * (1 + e)));",
  sigmoid:
    "const e = Math.exp(-Math.abs(v)); return dy[this.thread.x] * (e / ((1 + e) * (1 + e)));",
  // Far out the second term is zero, but x^2 may be infinite.
  geluTanh: `${GELU_TANH}
    let rest = 0;
    if (Math.abs(v) < 16) {
      rest = v * s * (1 - s) * (2 * 0.79788456080286536) * (1 + 3 * 0.044715 * v * v);
    }
    return dy[this.thread.x] * (s + rest);`,
} as const;

const unary = (body: string): ElementwiseKernel => ({
  operands: ["each"],
  source: `function(x) { ${V} ${body} }`,
});
const gradient = (body: string): ElementwiseKernel => ({
  operands: ["each", "each"],
  source: `function(dy, x) { ${V} ${body} }`,
});
const binary = (operator: string): ElementwiseKernel => ({
  operands: ["each", "each"],
  source: `function(a, b) { return a[this.thread.x] ${operator} b[this.thread.x]; }`,
});

/** By name. */
export const ELEMENTWISE = {
  silu: unary(VALUES.silu),
  relu: unary(VALUES.relu),
  gelu: unary(VALUES.gelu),
  tanh: unary(VALUES.tanh),
  sigmoid: unary(VALUES.sigmoid),
  geluTanh: unary(VALUES.geluTanh),
  siluGrad: gradient(SLOPES.silu),
  reluGrad: gradient(SLOPES.relu),
  geluGrad: gradient(SLOPES.gelu),
  tanhGrad: gradient(SLOPES.tanh),
  sigmoidGrad: gradient(SLOPES.sigmoid),
  geluTanhGrad: gradient(SLOPES.geluTanh),
  mul: binary("*"),
  add: binary("+"),
  sub: binary("-"),
  scale: {
    operands: ["each", "number"],
    source: "function(x, factor) { return x[this.thread.x] * factor; }",
  },
  broadcast: {
    operands: ["one", "number"],
    source: "function(s, factor) { return s[0] * factor; }",
  },
  mseGrad: {
    operands: ["one", "each", "each", "number"],
    source: `function(ds, x, y, factor) {
      return ds[0] * factor * (x[this.thread.x] - y[this.thread.x]);
    }`,
  },
  swiglu: {
    operands: ["each", "each"],
    source: `function(x, b) { ${V} return v / (1 + Math.exp(-v)) * b[this.thread.x]; }`,
  },
  swigluDa: {
    operands: ["each", "each", "each"],
    source: `function(dy, x, b) {
      ${V} ${SIGMOID} return dy[this.thread.x] * b[this.thread.x] * (s * (1 + v * (1 - s)));
    }`,
  },
  swigluDb: {
    operands: ["each", "each"],
    source: `function(dy, x) { ${V} return dy[this.thread.x] * (v / (1 + Math.exp(-v))); }`,
  },
} as const satisfies Readonly<Record<string, ElementwiseKernel>>;

export type ElementwiseName = keyof typeof ELEMENTWISE;

/** Names by the code of `Kernels.unary` and `Kernels.unaryGrad`; of `Kernels.binary`. */
export const UNARY = ["silu", "relu", "gelu", "tanh", "sigmoid", "geluTanh"] as const;
export const UNARY_GRAD = [
  "siluGrad",
  "reluGrad",
  "geluGrad",
  "tanhGrad",
  "sigmoidGrad",
  "geluTanhGrad",
] as const;
export const BINARY = ["mul", "add", "sub"] as const;
