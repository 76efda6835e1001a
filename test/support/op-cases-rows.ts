// Cases at the seams of kernels that work on rows: tensors where compiled programs have them, at multiples of 256 bytes, widths
// around what a warp or a block takes, tokens that repeat often; and the twins in bfloat16.
import { type OpCase, pseudoRandom, type Tensor } from "./conformance.ts";
import {
  DOT,
  dims,
  doubles,
  EXACT,
  ids,
  positive,
  ROUNDING,
  TRANSCENDENTAL,
  t,
} from "./op-case-tensors.ts";

type Float = "float32" | "bfloat16";

/** One rounding to bfloat16 of what was computed in float32: half a unit of the eighth bit. */
const HALF = 2 ** -8;
/** A float32 sum of weighted values, the weights a few roundings of an exponential each. */
const ATTENTION_TOL = 3e-6;

const aligned = (op: OpCase): OpCase => ({
  ...op,
  title: `${op.title} at multiples of 256 bytes`,
  alignment: 256,
});

const random = (dtype: Float, salt: number, ...shape: number[]): Tensor => ({
  shape,
  dtype,
  values: (i) => pseudoRandom(i, salt),
});

// ---- norms

/** Off centre, as activations are: the variance is not the mean of squares. */
const offCentre = (dtype: Float, ...shape: number[]): Tensor => ({
  shape,
  dtype,
  values: (i) => 0.7 + pseudoRandom(i, 3),
});

/** Rows of a warp with 8 elements to a lane, with 32; of a block with 16 and 32 to a thread; and too wide for registers. */
const WIDTHS: readonly (readonly number[])[] = [
  [5, 4],
  [37, 8],
  [41, 200],
  [3, 256],
  [19, 264],
  [3, 1024],
  [9, 1032],
  [2, 2560],
  [2, 8200],
  [1, 16392],
];

const norms = (["float32", "bfloat16"] as const).flatMap((dtype) =>
  WIDTHS.flatMap((shape): OpCase[] => {
    const D = shape.at(-1) ?? 0;
    const [x, dy] = [offCentre(dtype, ...shape), random(dtype, 1, ...shape)];
    const [g, b] = [t(D), t(D)];
    return ["rmsNorm", "layerNorm"].flatMap((name): OpCase[] => {
      const common = {
        attrs: { eps: 1e-5 },
        title: `${dtype} x${dims(...shape)}`,
        tolerance: DOT + (dtype === "bfloat16" ? HALF : 0),
      };
      const inputs = name === "rmsNorm" ? [x, g] : [x, g, b];
      return [
        { ...common, op: name, inputs, outputs: [x] },
        { ...common, op: `${name}Dx`, inputs: [dy, x, g], outputs: [0] },
        { ...common, op: `${name}Dg`, inputs: [dy, x], outputs: [g], tolerance: DOT },
        { ...common, op: `${name}Grad`, inputs: [dy, x, g], outputs: [1, g] },
      ].map(aligned);
    });
  }),
);

// ---- rotary embedding

const rotation = { theta: 10000, sequenceAxes: 0 };

const ropes = (["float32", "bfloat16"] as const).flatMap((dtype) =>
  (
    [
      [[2, 3, 8], 4],
      [[2, 3, 48], 12],
      [[5, 2, 1040], 208],
      [[1, 2, 8704], 512],
    ] as const
  ).flatMap(([shape, headDim]): OpCase[] => {
    const x = random(dtype, 2, ...shape);
    return [0, 1].map((inverse) =>
      aligned({
        op: "rope",
        title: `${dtype} x${dims(...shape)} in heads of ${headDim}, ${inverse ? "back, in place" : "on"}`,
        inputs: [x],
        outputs: [inverse ? 0 : x],
        attrs: { ...rotation, headDim, inverse },
        tolerance: 2 * ROUNDING + (dtype === "bfloat16" ? HALF : 0),
      }),
    );
  }),
);

// ---- cross-entropy

const logits = (dtype: Float, ...shape: number[]): Tensor => ({
  shape,
  dtype,
  values: (i) => 8 * pseudoRandom(i, 21),
});
/** Largest logit, sum, target's logit: a sum of at least 1. */
const statistics = (...lead: number[]): Tensor => ({
  shape: [...lead, 3],
  values: (i) => (i % 3 === 0 ? 8 : i % 3 === 1 ? 1 + (i % 7) : pseudoRandom(i, 22)),
});

/** Rows of a warp and of a block; whole vectors and odd widths, of which each row begins elsewhere in one. */
const classes = (["float32", "bfloat16"] as const).flatMap((dtype) =>
  (
    [
      [5, 3],
      [9, 64],
      [7, 1023],
      [2, 1024],
      [9, 1025],
      [1, 20480],
      [1, 33001],
    ] as const
  ).flatMap(([M, V]): OpCase[] => {
    const [z, targets, s] = [logits(dtype, M, V), ids(V + 1, -1, M), statistics(M)];
    const attrs = { count: 77, classes: V, classAxes: 0 };
    const common = { title: `${dtype} z[${M}, ${V}]`, attrs, tolerance: TRANSCENDENTAL };
    const tolerance = TRANSCENDENTAL + (dtype === "bfloat16" ? HALF : 0);
    const gradient = { ...common, op: "ceGrad", inputs: [t(), z, targets, s], tolerance };
    return [
      aligned({ ...common, op: "ceStats", inputs: [z, targets], outputs: [s] }),
      aligned({ ...gradient, outputs: [z] }),
      aligned({ ...gradient, title: `${common.title} in place`, outputs: [1] }),
      // Logits and their gradients may begin at different elements of a vector.
      { ...gradient, outputs: [z] },
    ];
  }),
);

// ---- embeddings

/** Ids of which most are `often`, the others spread from two before the table to two behind it. */
const repeated = (V: number, often: number, M: number): Tensor => ({
  shape: [M],
  dtype: "int32",
  values: (i) =>
    i % 11 === 5 ? -2 + Math.floor(((pseudoRandom(i, 31) + 1) / 2) * (V + 4)) : often,
});

/** Tokens, rows, features: of one or several rows or pieces to a block, chunks of frequent tokens, long rows, several scans. */
const TABLES: readonly (readonly [id: Tensor, V: number, D: number])[] = [
  [ids(8, -2, 9), 6, 4],
  [ids(8, -2, 50), 6, 100],
  [ids(4, 0, 7), 4, 1028],
  [ids(4, 0, 5), 4, 4500],
  [repeated(5, 2, 140), 5, 8],
  [repeated(3, 1, 1500), 3, 36],
  [repeated(3, 0, 700), 3, 7],
  [repeated(4, 3, 9500), 4, 4],
  [ids(9000, -5, 300), 8999, 4],
];

const tables = TABLES.flatMap(([id, V, D]): OpCase[] => {
  const M = id.shape[0] ?? 0;
  const [dy, w, m, v, factor] = [t(M, D), t(V, D), t(V, D), positive(V, D), positive()];
  const scratch: Tensor = { shape: [V + 1 + M], dtype: "int32", values: () => -7 };
  // Thousands of tokens of one row may be summed one after another.
  const common = { title: `${M} ids table${dims(V, D)}`, tolerance: M > 4096 ? 5 * DOT : DOT };
  const rows = { attrs: { rowAxes: 0, hasFactor: 1 } };
  return [
    {
      ...{ ...common, op: "embedding", inputs: [id, w], outputs: [t(M, D)] },
      ...{ attrs: { rowAxes: 0 }, tolerance: EXACT },
    },
    { ...common, op: "embeddingDw", inputs: [dy, id], outputs: [w], attrs: { rowAxes: 0 } },
    {
      ...{ ...common, op: "sumSquaresFromRows", inputs: [dy, id, scratch] },
      ...{ outputs: [doubles()], attrs: { rowAxes: 0 }, scratch: 2 },
    },
    {
      ...{ ...common, ...rows, op: "adamwFromRows", inputs: [dy, id, w, m, v, factor, scratch] },
      ...{ outputs: [2, 3, 4], scratch: 6 },
    },
    {
      ...{ ...common, op: "sgdFromRows", inputs: [dy, id, w, factor, scratch], outputs: [2] },
      ...{ attrs: { ...rows.attrs, hasMomentum: 0 }, sgd: true, scratch: 4 },
    },
    {
      ...{ ...common, op: "sgdFromRows", inputs: [dy, id, w, m, factor, scratch], outputs: [2, 3] },
      ...{ attrs: { ...rows.attrs, hasMomentum: 1 }, sgd: true, scratch: 5 },
    },
  ].map(aligned);
});

// ---- decoding

const CACHED: readonly (readonly [
  H: number,
  KV: number,
  n: number,
  position: number,
  sharp?: number,
])[] = [
  [3, 3, 4, 40],
  [2, 2, 64, 290],
  [8, 2, 128, 31],
  [12, 4, 20, 33],
  [24, 2, 32, 520],
  [16, 2, 256, 70],
  [8, 1, 8, 700, 50],
];

const cached = CACHED.map(([H, KV, n, position, sharp = 1]): OpCase => {
  const [q, kv, cache] = [t(1, 1, H * n), t(1, 1, KV * n), t(position + 3, KV * n)];
  const query = { ...q, values: (i: number) => sharp * pseudoRandom(i, 1) };
  return aligned({
    op: "attentionCached",
    title: `${H} heads of ${n} for ${KV} at position ${position}, queries times ${sharp}`,
    inputs: [query, kv, random("float32", 7, 1, 1, KV * n), cache, cache],
    outputs: [q, 3, 4],
    attrs: { heads: H, kvHeads: KV, headDim: n, causal: 1, headAxes: 0, kvHeadAxes: 0 },
    step: position,
    tolerance: ATTENTION_TOL * sharp,
  });
});

/** More logits than a block has threads. */
const draws = [0, 1, 50, 2500].flatMap((topK) =>
  [1, 4, 6].map(
    (step): OpCase => ({
      op: "sampleToken",
      title: `3001 rounded logits, top ${topK}, step ${step}`,
      inputs: [{ shape: [1, 1, 3001], values: (i) => Math.round(20 * pseudoRandom(i, 44)) / 4 }],
      outputs: [t()],
      attrs: { temperature: 1.5, topK, seedLow: 3, seedHigh: 5 },
      step,
      tolerance: EXACT,
    }),
  ),
);

/** Of the equal ones only the first 40 may be drawn, and the likelier one behind them. */
const ties = [1, 2, 3, 4, 5].map(
  (step): OpCase => ({
    op: "sampleToken",
    title: `3001 equal logits but one, top 41, step ${step}`,
    inputs: [{ shape: [1, 1, 3001], values: (i) => (i === 90 ? 1 : 0) }],
    outputs: [t()],
    attrs: { temperature: 0.25, topK: 41, seedLow: 3, seedHigh: 5 },
    step,
    tolerance: EXACT,
  }),
);

export const ROW_CASES: readonly OpCase[] = [
  ...norms,
  ...ropes,
  ...classes,
  ...tables,
  ...cached,
  ...draws,
  ...ties,
];
