// Cases of rotary embedding, attention and cross-entropy.
import { fromBfloat16, toBfloat16 } from "../../shared/bfloat16.ts";
import { coordinates, type Mesh } from "../../shared/mesh/mesh.ts";
import { type OpCase, pseudoRandom, scalarsOf, type Tensor } from "./conformance.ts";
import { get, type OpOperands, product, range } from "./expected-math.ts";
import { ATTENTION_EXPECTED } from "./expected-ops-attention.ts";
import { dims, ids, ROUNDING, TRANSCENDENTAL, t } from "./op-case-tensors.ts";

/** A float32 sum of weighted values, the weights a few roundings of an exponential each. */
const ATTENTION_TOL = 3e-6;
/** Two such sums on top of one another, and differences that cancel. */
const ATTENTION_GRAD_TOL = 2e-5;
/** Weights and result rounded to bfloat16, eight bits each. */
const HALF_ATTENTION_TOL = 2 ** -6;
/** Two such sums, and D from an output of eight bits, whose part in a difference that cancels is larger. */
const HALF_ATTENTION_GRAD_TOL = 2 ** -4.5;

const MESH: Mesh = {
  axes: [
    { name: "dataParallel", size: 2 },
    { name: "tensorParallel", size: 3 },
  ],
};
/** Bit masks of the mesh's axes. */
const TENSOR_PARALLEL = 2;
const BOTH = 3;

const rotation = { headDim: 4, theta: 10000, inverse: 0, sequenceAxes: 0 };
const scaled = { factor: 8, lowFrequency: 1, highFrequency: 4, originalLength: 8192 };

const ropes: OpCase[] = (
  [
    [[1, 1, 2], { headDim: 2 }],
    [[2, 3, 8], {}],
    [[2, 5, 36], { headDim: 18 }],
    [[1, 7, 128], { headDim: 64, theta: 500000 }],
    [[2, 3, 512], { headDim: 512 }],
    [[0, 3, 8], {}],
    [[2, 0, 8], {}],
    [[2, 3, 0], {}],
    [[1, 40, 256], { headDim: 128, theta: 500000, ...scaled }],
  ] as const
).flatMap(([shape, attrs]): OpCase[] => {
  const x = t(...shape);
  return [0, 1].flatMap((inverse): OpCase[] => [
    {
      op: "rope",
      title: `x${dims(...shape)} ${JSON.stringify({ ...attrs, inverse })}`,
      inputs: [x],
      outputs: [x],
      attrs: { ...rotation, ...attrs, inverse },
      tolerance: 2 * ROUNDING,
    },
    {
      op: "rope",
      title: `x${dims(...shape)} ${JSON.stringify({ ...attrs, inverse })} in place`,
      inputs: [x],
      outputs: [0],
      attrs: { ...rotation, ...attrs, inverse },
      tolerance: 2 * ROUNDING,
    },
  ]);
});

const farPositions: OpCase[] = [0, 2, 5].map((rank) => ({
  op: "rope",
  title: `x[1, 3000, 4] with the sequence on both axes of 2 x 3 ranks, at rank ${rank}`,
  inputs: [t(1, 3000, 4)],
  outputs: [t(1, 3000, 4)],
  attrs: { ...rotation, sequenceAxes: BOTH },
  mesh: MESH,
  rank,
  tolerance: 2 * ROUNDING,
}));

interface AttentionCase {
  readonly B: number;
  readonly T: number;
  readonly H: number;
  readonly KV: number;
  readonly n: number;
  readonly causal: number;
  /** Of all ranks, where heads are split. */
  readonly heads?: number;
  readonly kvHeads?: number;
  readonly headAxes?: number;
  readonly kvHeadAxes?: number;
  readonly rank?: number;
  /** Factor on queries: far larger scores, and softmaxes with one weight. */
  readonly sharp?: number;
  /** Activations are bfloat16. */
  readonly half?: boolean;
  /** Of slots, in bytes. */
  readonly alignment?: number;
}

const SHAPES: readonly (readonly [B: number, T: number, H: number, KV: number, n: number])[] = [
  [1, 1, 1, 1, 1],
  [3, 1, 4, 2, 20],
  [2, 5, 2, 1, 3],
  [1, 17, 3, 3, 8],
  [1, 33, 4, 2, 16],
  [2, 65, 2, 2, 20],
  [1, 70, 2, 1, 64],
  [1, 130, 1, 1, 80],
  [1, 9, 2, 1, 130],
  [1, 3, 1, 1, 512],
  [0, 3, 2, 1, 4],
  [2, 0, 2, 1, 4],
];

const CASES: readonly AttentionCase[] = [
  ...SHAPES.flatMap(([B, T, H, KV, n]) => [0, 1].map((causal) => ({ B, T, H, KV, n, causal }))),
  { B: 1, T: 40, H: 2, KV: 1, n: 16, causal: 1, sharp: 100 },
  ...[0, 1, 2].flatMap((rank): AttentionCase[] => [
    // Three query heads to a key-value head, two on each rank: ranks' parts lie askew.
    {
      ...{ B: 2, T: 7, H: 2, KV: 2, n: 5, causal: 1 },
      ...{ heads: 6, kvHeads: 2, headAxes: TENSOR_PARALLEL, rank },
    },
    {
      ...{ B: 1, T: 6, H: 4, KV: 2, n: 4, causal: 1 },
      ...{ heads: 12, kvHeads: 6, headAxes: TENSOR_PARALLEL, kvHeadAxes: TENSOR_PARALLEL, rank },
    },
  ]),
];

/**
 * The seams of tiled kernels: tiles of 64 or 128 queries and of 32 or 64 keys, forms for heads of up to 64, 128, 256 and 512 features,
 * rows read by vectors or by elements, heads that tensor cores take or leave.
 */
const TILED: readonly AttentionCase[] = (
  [
    [1, 66, 1, 1, 64, [0, 1], [1]],
    [1, 34, 2, 1, 128, [1], [0, 1]],
    [1, 130, 1, 1, 16, [], [0, 1]],
    [2, 18, 4, 2, 80, [], [1]],
    [3, 1, 4, 2, 32, [], [0, 1]],
    [2, 5, 2, 1, 16, [], [0, 1]],
    [1, 20, 2, 1, 20, [], [0, 1]],
    [1, 34, 1, 1, 256, [0, 1], [1]],
    [1, 11, 1, 1, 260, [0, 1], []],
  ] as const
).flatMap(([B, T, H, KV, n, ...causals]) =>
  causals.flatMap((values, half) =>
    values.map((causal) => ({ B, T, H, KV, n, causal, half: half === 1, alignment: 256 })),
  ),
);

const HALF: readonly AttentionCase[] = [
  { B: 1, T: 34, H: 2, KV: 1, n: 64, causal: 1, half: true },
  { B: 1, T: 33, H: 2, KV: 2, n: 19, causal: 1, half: true },
  ...[0, 1, 2].map((rank) => ({
    ...{ B: 2, T: 7, H: 2, KV: 2, n: 16, causal: 1, half: true, alignment: 256 },
    ...{ heads: 6, kvHeads: 2, headAxes: TENSOR_PARALLEL, rank },
  })),
];

function attentionOps(c: AttentionCase): OpCase[] {
  const { B, T, H, KV, n, causal, rank } = c;
  const attrs = {
    ...{ heads: c.heads ?? H, kvHeads: c.kvHeads ?? KV, headDim: n, causal },
    ...{ headAxes: c.headAxes ?? 0, kvHeadAxes: c.kvHeadAxes ?? 0 },
  };
  const where = {
    ...(rank === undefined ? {} : { mesh: MESH, rank }),
    ...(c.alignment === undefined ? {} : { alignment: c.alignment }),
  };
  const title = `${JSON.stringify(c)}`;
  const dtype = c.half ? "bfloat16" : "float32";
  const random = (salt: number, factor = 1, ...shape: number[]): Tensor => ({
    shape,
    dtype,
    values: (i) => factor * pseudoRandom(i, salt),
  });
  const q = random(1, c.sharp, B, T, H * n);
  const [k, v] = [random(2, 1, B, T, KV * n), random(3, 1, B, T, KV * n)];
  const [dOut, lse] = [random(4, 1, B, T, H * n), t(B, T, H)];
  // Scores as large as `sharp` carry its roundings into the exponent.
  const sharp = c.sharp ?? 1;
  const exact = { title, attrs, ...where, tolerance: ATTENTION_TOL * sharp };
  const forward = { ...exact, tolerance: (c.half ? HALF_ATTENTION_TOL : ATTENTION_TOL) * sharp };
  const withStats: OpCase = {
    ...forward,
    op: "attentionWithStats",
    inputs: [q, k, v],
    outputs: [q, lse],
  };
  const result = resultOf(withStats);
  const saved: Tensor[] = [
    { shape: q.shape, dtype, values: (i) => get(result()[0], i) },
    { shape: lse.shape, values: (i) => get(result()[1], i) },
  ];
  const backward = {
    ...forward,
    inputs: [dOut, q, k, v, ...saved],
    tolerance: (c.half ? HALF_ATTENTION_GRAD_TOL : ATTENTION_GRAD_TOL) * sharp,
  };
  return [
    { ...forward, op: "attention", inputs: [q, k, v], outputs: [q] },
    { ...exact, op: "attentionStats", inputs: [q, k], outputs: [lse] },
    withStats,
    { ...backward, op: "attentionDq", outputs: [q] },
    { ...backward, op: "attentionDk", outputs: [k] },
    { ...backward, op: "attentionDv", outputs: [v] },
    { ...backward, op: "attentionGrad", outputs: [q, k, v] },
  ];
}

/** What a case should give, computed once it is asked for. */
function resultOf(op: OpCase): () => number[][] {
  let values: number[][] | undefined;
  return () => {
    values ??= ATTENTION_EXPECTED[op.op]?.(operandsOf(op)) ?? [];
    return values;
  };
}

function operandsOf(op: OpCase): OpOperands {
  const mesh = op.mesh ?? { axes: [] };
  return {
    inputs: op.inputs.map(({ shape, dtype, values }) => {
      const round = dtype === "bfloat16" ? (x: number) => fromBfloat16(toBfloat16(x)) : Math.fround;
      return range(product(shape)).map((i) => round(values?.(i) ?? Number.NaN));
    }),
    shapes: op.inputs.map(({ shape }) => shape),
    attrs: op.attrs ?? {},
    scalars: scalarsOf(op),
    axisSize: 1,
    coordinate: 0,
    mesh,
    coordinates: mesh.axes.length === 0 ? [] : coordinates(mesh, op.rank ?? 0),
    outputLength: 0,
    outputShape: [],
  };
}

/** Logits whose exponentials span the range of float32. */
const logits = (...shape: number[]): Tensor => ({
  shape,
  values: (i) => 30 * pseudoRandom(i, 21) ** 3,
});
/** Plausible statistics: largest logit, sum of at least 1, target's logit. */
const statistics = (...shape: number[]): Tensor => ({
  shape: [...shape, 3],
  values: (i) => (i % 3 === 1 ? 2 + pseudoRandom(i, 22) : 30 + 4 * pseudoRandom(i, 23)),
});

const TOKENS: readonly (readonly [lead: readonly number[], V: number])[] = [
  [[1], 1],
  [[3], 5],
  [[2, 3], 16],
  [[5], 37],
  [[4], 1000],
  [[2], 9001],
  [[0], 7],
  [[], 12],
];

const crossEntropy: OpCase[] = TOKENS.flatMap(([lead, V]): OpCase[] => {
  const [z, targets, s] = [logits(...lead, V), ids(V, 0, ...lead), statistics(...lead)];
  const attrs = { count: 77, classes: V, classAxes: 0 };
  const title = `z${dims(...lead, V)}`;
  const gradient: OpCase = {
    op: "ceGrad",
    title,
    inputs: [t(), z, targets, s],
    outputs: [z],
    attrs,
    tolerance: TRANSCENDENTAL,
  };
  return [
    {
      op: "ceStats",
      title,
      inputs: [z, targets],
      outputs: [s],
      attrs,
      tolerance: TRANSCENDENTAL,
    },
    gradient,
    { ...gradient, title: `${title} in place`, outputs: [1] },
    {
      op: "ceLoss",
      title: `s${dims(...lead, 3)}`,
      inputs: [s],
      outputs: [t()],
      attrs,
      tolerance: ROUNDING,
    },
    ...[1, 3].map(
      (parts): OpCase => ({
        op: "ceMerge",
        title: `${parts} x s${dims(...lead, 3)}`,
        inputs: [statistics(parts, ...lead)],
        outputs: [s],
        tolerance: TRANSCENDENTAL,
      }),
    ),
  ];
});

/** Classes split over ranks: targets among and outside of the own ones. */
const splitClasses: OpCase[] = [0, 1, 2, 5].flatMap((rank): OpCase[] => {
  const [z, targets, s] = [logits(30, 10), ids(31, -1, 30), statistics(30)];
  const place = { mesh: MESH, rank, tolerance: TRANSCENDENTAL };
  const attrs = { count: 30, classes: 30, classAxes: TENSOR_PARALLEL };
  const title = `z[30, 10] at rank ${rank} of 2 x 3`;
  return [
    { ...place, op: "ceStats", title, inputs: [z, targets], outputs: [s], attrs },
    { ...place, op: "ceGrad", title, inputs: [t(), z, targets, s], outputs: [z], attrs },
  ];
});

export const ATTENTION_CASES: readonly OpCase[] = [
  ...ropes,
  ...farPositions,
  ...[...CASES, ...TILED, ...HALF].flatMap(attentionOps),
  ...crossEntropy,
  ...splitClasses,
];

/** Long enough that several threads share the work. */
export const LARGE_ATTENTION_CASES: readonly OpCase[] = [
  {
    op: "rope",
    title: "x[3, 200, 128]",
    inputs: [t(3, 200, 128)],
    outputs: [t(3, 200, 128)],
    attrs: { ...rotation, headDim: 32 },
    tolerance: 2 * ROUNDING,
  },
  ...attentionOps({ B: 2, T: 100, H: 4, KV: 2, n: 20, causal: 1 }),
  {
    op: "ceStats",
    title: "z[70, 3000]",
    inputs: [logits(70, 3000), ids(3000, 0, 70)],
    outputs: [statistics(70)],
    attrs: { classes: 3000, classAxes: 0 },
    tolerance: TRANSCENDENTAL,
  },
  {
    op: "ceGrad",
    title: "z[70, 3000]",
    inputs: [t(), logits(70, 3000), ids(3000, 0, 70), statistics(70)],
    outputs: [logits(70, 3000)],
    attrs: { count: 70, classes: 3000, classAxes: 0 },
    tolerance: TRANSCENDENTAL,
  },
  {
    op: "ceMerge",
    title: "4 x s[5000, 3]",
    inputs: [statistics(4, 5000)],
    outputs: [statistics(5000)],
    tolerance: TRANSCENDENTAL,
  },
  {
    op: "ceLoss",
    title: "s[5000, 3]",
    inputs: [statistics(5000)],
    outputs: [t()],
    attrs: { count: 5000, classes: 7 },
    tolerance: ROUNDING,
  },
];
