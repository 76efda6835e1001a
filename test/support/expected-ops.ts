// What the ops of a program compute, by plain loops in float64, written apart from the op registry: a mistake in a
// rule there shows here.
import { fromBfloat16, toBfloat16 } from "../../shared/bfloat16.ts";
import type { StepScalars } from "../../shared/optimizer/step-scalars.ts";
import { type Expected, get, map, type OpOperands, product, range, sum } from "./expected-math.ts";
import { ATTENTION_EXPECTED } from "./expected-ops-attention.ts";
import { DECODE_EXPECTED } from "./expected-ops-decode.ts";
import { MODEL_EXPECTED } from "./expected-ops-model.ts";

/** Complementary error function by Simpson's rule on its integral: slow, and independent of any series. */
function erfc(x: number): number {
  if (x < 0) return 2 - erfc(-x);
  const [steps, end] = [2000, x + 8];
  const h = (end - x) / steps;
  const f = (t: number): number => Math.exp(-t * t);
  const total = sum(
    steps + 1,
    (i) => f(x + i * h) * (i === 0 || i === steps ? 1 : i % 2 === 1 ? 4 : 2),
  );
  return ((h / 3) * total * 2) / Math.sqrt(Math.PI);
}

const sigmoid = (x: number): number => 1 / (1 + Math.exp(-x));
const cdf = (x: number): number => 0.5 * erfc(-x / Math.SQRT2);
const pdf = (x: number): number => Math.exp((-x * x) / 2) / Math.sqrt(2 * Math.PI);

/** Activation and derivative. */
const ACTIVATIONS: Readonly<Record<string, [(x: number) => number, (x: number) => number]>> = {
  silu: [(x) => x * sigmoid(x), (x) => sigmoid(x) + x * sigmoid(x) * sigmoid(-x)],
  relu: [(x) => Math.max(x, 0), (x) => (x > 0 ? 1 : 0)],
  gelu: [(x) => x * cdf(x), (x) => cdf(x) + x * pdf(x)],
  tanh: [Math.tanh, (x) => 1 / Math.cosh(x) ** 2],
  sigmoid: [sigmoid, (x) => sigmoid(x) * sigmoid(-x)],
};

/** dy^T x of factors that are inputs 0 and 1. */
function gradientOf({ inputs, shapes }: OpOperands): number[] {
  const [O, I] = [shapes[0]?.at(-1) ?? 0, shapes[1]?.at(-1) ?? 0];
  const M = product(shapes[0]?.slice(0, -1) ?? []);
  return range(O * I).map((at) => {
    const [o, i] = [Math.floor(at / I), at % I];
    return sum(M, (m) => get(inputs[0], m * O + o) * get(inputs[1], m * I + i));
  });
}

function adamw(
  s: StepScalars,
  g: readonly number[],
  w: readonly number[],
  m: readonly number[],
  v: readonly number[],
): number[][] {
  const m1 = g.map((gi, i) => get(m, i) + (gi - get(m, i)) * s.oneMinusBeta1);
  const v1 = g.map((gi, i) => s.beta2 * get(v, i) + s.oneMinusBeta2 * gi * gi);
  const w1 = w.map(
    (wi, i) =>
      wi * s.decay - (s.stepSize * get(m1, i)) / (Math.sqrt(get(v1, i)) * s.rootScale + s.eps),
  );
  return [w1, m1, v1];
}

function sgd(
  s: StepScalars,
  g: readonly number[],
  w: readonly number[],
  m: readonly number[] | undefined,
): number[][] {
  const step = m === undefined ? [...g] : g.map((gi, i) => s.momentum * get(m, i) + gi);
  const w1 = w.map((wi, i) => wi - s.stepSize * get(step, i));
  return m === undefined ? [w1] : [w1, step];
}

const factorAt = ({ inputs, attrs }: OpOperands, index: number): number =>
  attrs["hasFactor"] === 1 ? get(inputs[index], 0) : 1;

const copyPart = (
  { inputs, shapes }: OpOperands,
  dim: number,
  part: number,
  parts: number,
): number[][] => {
  const shape = shapes[0] ?? [];
  const length = (shape[dim] ?? 0) / parts;
  const inner = product(shape.slice(dim + 1));
  return [
    range(product(shape) / parts).map((i) => {
      const outer = Math.floor(i / (length * inner));
      const rest = i % (length * inner);
      return get(inputs[0], (outer * parts + part) * length * inner + rest);
    }),
  ];
};

export const EXPECTED: Readonly<Record<string, Expected>> = {
  linear: ({ inputs, shapes }) => {
    const [O, I] = shapes[1] as [number, number];
    const M = product(shapes[0]?.slice(0, -1) ?? []);
    return [
      range(M * O).map((at) => {
        const [m, o] = [Math.floor(at / O), at % O];
        return sum(I, (i) => get(inputs[0], m * I + i) * get(inputs[1], o * I + i));
      }),
    ];
  },
  linearDx: ({ inputs, shapes }) => {
    const [O, I] = shapes[1] as [number, number];
    const M = product(shapes[0]?.slice(0, -1) ?? []);
    return [
      range(M * I).map((at) => {
        const [m, i] = [Math.floor(at / I), at % I];
        return sum(O, (o) => get(inputs[0], m * O + o) * get(inputs[1], o * I + i));
      }),
    ];
  },
  linearDw: (o) => [gradientOf(o)],
  bias: ({ inputs, shapes, outputLength }) => {
    const O = shapes[1]?.[0] ?? 0;
    return [range(outputLength).map((i) => get(inputs[0], i) + get(inputs[1], i % O))];
  },
  biasDb: ({ inputs, shapes, outputLength: O }) => {
    const M = product(shapes[0]?.slice(0, -1) ?? []);
    return [range(O).map((o) => sum(M, (m) => get(inputs[0], m * O + o)))];
  },
  ...Object.fromEntries(
    Object.entries(ACTIVATIONS).flatMap(([name, [value, slope]]) => [
      [name, map((x = 0) => value(x))],
      [`${name}Grad`, map((dy = 0, x = 0) => dy * slope(x))],
    ]),
  ),
  mul: map((a = 0, b = 0) => a * b),
  add: map((a = 0, b = 0) => a + b),
  sub: map((a = 0, b = 0) => a - b),
  addN: map((...x) => x.reduce((a, b) => a + b, 0)),
  scale: ({ inputs, attrs }) => [(inputs[0] ?? []).map((x) => x * (attrs["factor"] ?? 0))],
  identity: map((x = 0) => x),
  cast: ({ inputs, attrs }) => [
    (inputs[0] ?? []).map((x) => (attrs["to"] === 1 ? fromBfloat16(toBfloat16(x)) : x)),
  ],
  sum: ({ inputs }) => [[(inputs[0] ?? []).reduce((a, b) => a + b, 0)]],
  mean: ({ inputs, attrs }) => [
    [(inputs[0] ?? []).reduce((a, b) => a + b, 0) / (attrs["count"] ?? 0)],
  ],
  mseLoss: ({ inputs, attrs }) => {
    const [x = [], y = []] = inputs;
    return [[sum(x.length, (i) => (get(x, i) - get(y, i)) ** 2) / (attrs["count"] ?? 0)]];
  },
  mseLossGrad: ({ inputs, attrs }) => {
    const [ds, x = [], y] = inputs;
    return [x.map((xi, i) => (get(ds, 0) * 2 * (xi - get(y, i))) / (attrs["count"] ?? 0))];
  },
  broadcast: ({ inputs, attrs, outputLength }) => [
    range(outputLength).map(() => get(inputs[0], 0) * (attrs["factor"] ?? 0)),
  ],
  fill: ({ attrs, outputLength }) => [range(outputLength).map(() => attrs["value"] ?? 0)],
  slice: (o) => copyPart(o, o.attrs["dim"] ?? 0, o.coordinate, o.axisSize),
  takeRows: (o) => copyPart(o, 0, o.scalars.microbatch, o.attrs["parts"] ?? 1),
  pack: ({ inputs }) => [inputs.flatMap((x) => [...x])],
  unpack: ({ inputs, attrs, outputShape }) => {
    const offset = attrs["offset"] ?? 0;
    return [range(product(outputShape)).map((i) => get(inputs[0], offset + i))];
  },
  splitBlocks: (o) => {
    const parts = o.attrs["parts"] ?? 1;
    return [range(parts).flatMap((part) => copyPart(o, o.attrs["dim"] ?? 0, part, parts)[0] ?? [])];
  },
  joinBlocks: ({ inputs, attrs, outputShape }) => {
    const [dim, parts] = [attrs["dim"] ?? 0, attrs["parts"] ?? 1];
    const inner = product(outputShape.slice(dim + 1));
    const size = outputShape[dim] ?? 0;
    const length = size / parts;
    return [
      range(product(outputShape)).map((at) => {
        const [outer, d, i] = [
          Math.floor(at / (size * inner)),
          Math.floor(at / inner) % size,
          at % inner,
        ];
        const [part, within] = [Math.floor(d / length), d % length];
        const rows = product(outputShape.slice(0, dim));
        return get(inputs[0], ((part * rows + outer) * length + within) * inner + i);
      }),
    ];
  },
  mask: ({ inputs, coordinate }) => [(inputs[0] ?? []).map((x) => (coordinate === 0 ? x : 0))],
  accumulate: ({ inputs, scalars }) => [
    (inputs[1] ?? []).map((g, i) => (scalars.microbatch === 0 ? g : get(inputs[0], i) + g)),
  ],
  sumSquares: ({ inputs }) => [[(inputs[0] ?? []).reduce((a, b) => a + b * b, 0)]],
  sumSquaresFromFactors: (o) => [[gradientOf(o).reduce((a, b) => a + b * b, 0)]],
  sqrt: map((x = 0) => Math.sqrt(x)),
  clipFactor: ({ inputs, attrs }) => [
    [Math.min(1, (attrs["maxNorm"] ?? 0) / (get(inputs[0], 0) + 1e-6))],
  ],
  adamw: (o) => {
    const [w = [], g = [], m = [], v = []] = o.inputs;
    const factor = factorAt(o, 4);
    return adamw(
      o.scalars,
      g.map((gi) => gi * factor),
      w,
      m,
      v,
    );
  },
  adamwFromFactors: (o) => {
    const [, , w = [], m = [], v = []] = o.inputs;
    const factor = factorAt(o, 5);
    return adamw(
      o.scalars,
      gradientOf(o).map((gi) => gi * factor),
      w,
      m,
      v,
    );
  },
  sgd: (o) => {
    const [w = [], g = [], m] = o.inputs;
    const hasMomentum = o.attrs["hasMomentum"] === 1;
    const factor = factorAt(o, hasMomentum ? 3 : 2);
    return sgd(
      o.scalars,
      g.map((gi) => gi * factor),
      w,
      hasMomentum ? m : undefined,
    );
  },
  sgdFromFactors: (o) => {
    const [, , w = [], m] = o.inputs;
    const hasMomentum = o.attrs["hasMomentum"] === 1;
    const factor = factorAt(o, hasMomentum ? 4 : 3);
    return sgd(
      o.scalars,
      gradientOf(o).map((gi) => gi * factor),
      w,
      hasMomentum ? m : undefined,
    );
  },
  ...MODEL_EXPECTED,
  ...ATTENTION_EXPECTED,
  ...DECODE_EXPECTED,
};
