// The table of op cases that every backend must pass.
import type { Mesh } from "../../shared/mesh/mesh.ts";
import { type OpCase, pseudoRandom, type Tensor } from "./conformance.ts";
import {
  DOT,
  DOUBLE,
  dims,
  doubles,
  EXACT,
  integers,
  positive,
  ROUNDING,
  SIZES,
  TRANSCENDENTAL,
  t,
  UPDATE,
} from "./op-case-tensors.ts";
import { ATTENTION_CASES, LARGE_ATTENTION_CASES } from "./op-cases-attention.ts";
import { DECODE_CASES, LARGE_DECODE_CASES } from "./op-cases-decode.ts";
import { LINEAR_CASES } from "./op-cases-linear.ts";
import { LARGE_MODEL_CASES, MODEL_CASES } from "./op-cases-model.ts";
import { ROW_CASES } from "./op-cases-rows.ts";
import { STREAM_CASES } from "./op-cases-streams.ts";

const PRODUCTS: readonly (readonly [M: number, O: number, I: number])[] = [
  [1, 1, 1],
  [1, 5, 3],
  [2, 17, 33],
  [3, 1, 100],
  [4, 64, 16],
  [5, 40, 7],
  [6, 31, 129],
  [7, 33, 1],
  [8, 50, 515],
  [9, 16, 70],
  [12, 300, 24],
  [17, 23, 1030],
  [32, 19, 65],
  [40, 70, 37],
  [48, 5, 530],
  [49, 37, 45],
  [70, 130, 33],
  [130, 65, 300],
  [3, 0, 5],
  [3, 5, 0],
  [0, 5, 4],
];

const products: OpCase[] = PRODUCTS.flatMap(([M, O, I]) => [
  {
    op: "linear",
    title: `x${dims(M, I)} w${dims(O, I)}`,
    inputs: [t(M, I), t(O, I)],
    outputs: [t(M, O)],
    tolerance: DOT,
  },
  {
    op: "linearDx",
    title: `dy${dims(M, O)} w${dims(O, I)}`,
    inputs: [t(M, O), t(O, I)],
    outputs: [t(M, I)],
    tolerance: DOT,
  },
  {
    op: "linearDw",
    title: `dy${dims(M, O)} x${dims(M, I)}`,
    inputs: [t(M, O), t(M, I)],
    outputs: [t(O, I)],
    tolerance: DOT,
  },
  {
    op: "sumSquaresFromFactors",
    title: `dy${dims(M, O)} x${dims(M, I)}`,
    inputs: [t(M, O), t(M, I)],
    outputs: [doubles()],
    tolerance: DOUBLE,
  },
]);

const leading: OpCase[] = [
  {
    op: "linear",
    title: "x[2, 3, 5] w[4, 5]",
    inputs: [t(2, 3, 5), t(4, 5)],
    outputs: [t(2, 3, 4)],
    tolerance: DOT,
  },
  {
    op: "linearDx",
    title: "dy[2, 3, 4] w[4, 5]",
    inputs: [t(2, 3, 4), t(4, 5)],
    outputs: [t(2, 3, 5)],
    tolerance: DOT,
  },
  {
    op: "linearDw",
    title: "dy[2, 3, 4] x[2, 3, 5]",
    inputs: [t(2, 3, 4), t(2, 3, 5)],
    outputs: [t(4, 5)],
    tolerance: DOT,
  },
];

const biases: OpCase[] = [
  [1, 1],
  [3, 17],
  [5, 300],
  [0, 4],
  [4, 0],
  [1000, 3],
].flatMap(([M = 0, O = 0]) => [
  {
    op: "bias",
    title: `x${dims(M, O)}`,
    inputs: [t(M, O), t(O)],
    outputs: [t(M, O)],
    tolerance: ROUNDING,
  },
  {
    op: "bias",
    title: `x${dims(M, O)} in place`,
    inputs: [t(M, O), t(O)],
    outputs: [0],
    tolerance: ROUNDING,
  },
  {
    op: "biasDb",
    title: `dy${dims(M, O)}`,
    inputs: [t(M, O)],
    outputs: [t(O)],
    tolerance: ROUNDING,
  },
]);

/** Wide enough that every branch of the functions is met, tails included. */
const wide = (n: number): Tensor => ({
  shape: [n],
  values: (i) => 12 * pseudoRandom(i + 3, 5) ** 3,
});

const activations: OpCase[] = ["silu", "relu", "gelu", "tanh", "sigmoid"].flatMap((op) =>
  SIZES.flatMap((n): OpCase[] => [
    { op, title: `x[${n}]`, inputs: [wide(n)], outputs: [t(n)], tolerance: TRANSCENDENTAL },
    { op, title: `x[${n}] in place`, inputs: [wide(n)], outputs: [0], tolerance: TRANSCENDENTAL },
    {
      op: `${op}Grad`,
      title: `x[${n}]`,
      inputs: [t(n), wide(n)],
      outputs: [t(n)],
      tolerance: TRANSCENDENTAL,
    },
    {
      op: `${op}Grad`,
      title: `x[${n}] in place of dy`,
      inputs: [t(n), wide(n)],
      outputs: [0],
      tolerance: TRANSCENDENTAL,
    },
  ]),
);

const elementwise: OpCase[] = SIZES.flatMap((n): OpCase[] => [
  ...["mul", "add", "sub"].flatMap((op): OpCase[] => [
    { op, title: `[${n}]`, inputs: [t(n), t(n)], outputs: [t(n)], tolerance: ROUNDING },
    { op, title: `[${n}] in place of a`, inputs: [t(n), t(n)], outputs: [0], tolerance: ROUNDING },
    { op, title: `[${n}] in place of b`, inputs: [t(n), t(n)], outputs: [1], tolerance: ROUNDING },
  ]),
  {
    op: "addN",
    title: `3 x [${n}]`,
    inputs: [t(n), t(n), t(n)],
    outputs: [t(n)],
    tolerance: 3 * ROUNDING,
  },
  {
    op: "addN",
    title: `3 x [${n}] in place of the second`,
    inputs: [t(n), t(n), t(n)],
    outputs: [1],
    tolerance: 3 * ROUNDING,
  },
  { op: "addN", title: `1 x [${n}]`, inputs: [t(n)], outputs: [t(n)], tolerance: EXACT },
  {
    op: "addN",
    title: `float64 2 x [${n}]`,
    inputs: [doubles(n), doubles(n)],
    outputs: [doubles(n)],
    tolerance: EXACT,
  },
  {
    op: "scale",
    title: `[${n}]`,
    inputs: [t(n)],
    outputs: [t(n)],
    attrs: { factor: 1 / 3 },
    tolerance: ROUNDING,
  },
  {
    op: "scale",
    title: `[${n}] in place`,
    inputs: [t(n)],
    outputs: [0],
    attrs: { factor: -1 },
    tolerance: EXACT,
  },
  { op: "identity", title: `[${n}]`, inputs: [t(n)], outputs: [t(n)], tolerance: EXACT },
  {
    op: "cast",
    title: `[${n}] to bfloat16`,
    inputs: [t(n)],
    outputs: [{ shape: [n], dtype: "bfloat16" }],
    attrs: { to: 1 },
    tolerance: EXACT,
  },
  {
    op: "cast",
    title: `bfloat16 [${n}] to float32`,
    inputs: [{ shape: [n], dtype: "bfloat16" }],
    outputs: [t(n)],
    attrs: { to: 0 },
    tolerance: EXACT,
  },
  {
    op: "identity",
    title: `[${n}] on the same bytes`,
    inputs: [t(n)],
    outputs: [0],
    tolerance: EXACT,
  },
  {
    op: "broadcast",
    title: `[${n}]`,
    inputs: [t()],
    outputs: [t(n)],
    attrs: { factor: 1 / 7 },
    tolerance: ROUNDING,
  },
  {
    op: "fill",
    title: `[${n}]`,
    inputs: [],
    outputs: [t(n)],
    attrs: { value: 0.5 },
    tolerance: EXACT,
  },
  { op: "sum", title: `[${n}]`, inputs: [t(n)], outputs: [t()], tolerance: ROUNDING },
  {
    op: "mean",
    title: `[${n}] of 2048 elements`,
    inputs: [t(n)],
    outputs: [t()],
    attrs: { count: 2048 },
    tolerance: ROUNDING,
  },
  {
    op: "mseLoss",
    title: `[${n}]`,
    inputs: [t(n), t(n)],
    outputs: [t()],
    attrs: { count: 2048 },
    tolerance: ROUNDING,
  },
  {
    op: "mseLossGrad",
    title: `[${n}]`,
    inputs: [t(), t(n), t(n)],
    outputs: [t(n)],
    attrs: { count: 2048 },
    tolerance: 3 * ROUNDING,
  },
  { op: "sumSquares", title: `[${n}]`, inputs: [t(n)], outputs: [doubles()], tolerance: DOUBLE },
  ...[0, 1].flatMap((microbatch): OpCase[] => [
    {
      op: "accumulate",
      title: `[${n}] microbatch ${microbatch}`,
      inputs: [t(n), t(n)],
      outputs: [0],
      microbatch,
      tolerance: ROUNDING,
    },
    {
      op: "accumulate",
      title: `float64 [${n}] microbatch ${microbatch}`,
      inputs: [doubles(n), doubles(n)],
      outputs: [0],
      microbatch,
      tolerance: EXACT,
    },
  ]),
]);

const scalars: OpCase[] = [
  {
    op: "sqrt",
    title: "of 2",
    inputs: [{ shape: [], dtype: "float64", values: () => 2 }],
    outputs: [doubles()],
    tolerance: EXACT,
  },
  ...[0, 0.25, 40].map(
    (norm): OpCase => ({
      op: "clipFactor",
      title: `norm ${norm} to at most 0.5`,
      inputs: [{ shape: [], dtype: "float64", values: () => norm }],
      outputs: [t()],
      attrs: { maxNorm: 0.5 },
      tolerance: ROUNDING,
    }),
  ),
];

const MESH: Mesh = {
  axes: [
    { name: "dataParallel", size: 1 },
    { name: "tensorParallel", size: 3 },
  ],
};

const movement: OpCase[] = [0, 1, 2].flatMap((rank): OpCase[] => [
  ...[t(6, 4, 5), integers(6, 4, 5)].map(
    (x): OpCase => ({
      op: "slice",
      title: `${x.dtype ?? "float32"} [6, 4, 5] dim 0 at rank ${rank} of 3`,
      inputs: [x],
      outputs: [{ ...x, shape: [2, 4, 5] }],
      attrs: { axis: 1, dim: 0 },
      mesh: MESH,
      rank,
      tolerance: EXACT,
    }),
  ),
  {
    op: "slice",
    title: `[4, 6, 5] dim 1 at rank ${rank} of 3`,
    inputs: [t(4, 6, 5)],
    outputs: [t(4, 2, 5)],
    attrs: { axis: 1, dim: 1 },
    mesh: MESH,
    rank,
    tolerance: EXACT,
  },
  {
    op: "slice",
    title: `[7, 3] dim 1 at rank ${rank} of 3`,
    inputs: [t(7, 3)],
    outputs: [t(7, 1)],
    attrs: { axis: 1, dim: 1 },
    mesh: MESH,
    rank,
    tolerance: EXACT,
  },
  {
    op: "mask",
    title: `[5, 3] at rank ${rank}`,
    inputs: [t(5, 3)],
    outputs: [t(5, 3)],
    attrs: { axis: 1 },
    mesh: MESH,
    rank,
    tolerance: EXACT,
  },
  {
    op: "mask",
    title: `[5, 3] in place at rank ${rank}`,
    inputs: [t(5, 3)],
    outputs: [0],
    attrs: { axis: 1 },
    mesh: MESH,
    rank,
    tolerance: EXACT,
  },
  {
    op: "mask",
    title: `float64 scalar at rank ${rank}`,
    inputs: [doubles()],
    outputs: [doubles()],
    attrs: { axis: 1 },
    mesh: MESH,
    rank,
    tolerance: EXACT,
  },
  {
    op: "takeRows",
    title: `[6, 7] microbatch ${rank} of 3`,
    inputs: [t(6, 7)],
    outputs: [t(2, 7)],
    attrs: { parts: 3 },
    microbatch: rank,
    tolerance: EXACT,
  },
  {
    op: "takeRows",
    title: `int32 [6, 7] microbatch ${rank} of 3`,
    inputs: [integers(6, 7)],
    outputs: [{ shape: [2, 7], dtype: "int32" }],
    attrs: { parts: 3 },
    microbatch: rank,
    tolerance: EXACT,
  },
]);

const blocks: OpCase[] = (
  [
    [[6, 5], 0, 3],
    [[6, 5], 1, 5],
    [[4, 6, 5], 1, 2],
    [[4, 6, 5], 2, 1],
    [[3, 0], 1, 2],
    [[300, 130], 1, 2],
  ] as const
).flatMap(([shape, dim, parts]): OpCase[] => {
  const block = shape.map((n, d) => (d === dim ? n / parts : n));
  const title = `[${shape.join(", ")}] dim ${dim} and ${parts} parts`;
  const [whole, apart] = [t(...shape), t(parts, ...block)];
  const attrs = { dim, parts };
  return [
    { op: "splitBlocks", title, inputs: [whole], outputs: [apart], attrs, tolerance: EXACT },
    { op: "joinBlocks", title, inputs: [apart], outputs: [whole], attrs, tolerance: EXACT },
  ];
});

const packs: OpCase[] = [[3], [1, 0, 4], [5, 1000, 37]].flatMap((sizes): OpCase[] => {
  const total = sizes.reduce((sum, n) => sum + n, 0);
  const [title, parts] = [`of ${sizes.join(" + ")}`, sizes.map((n) => t(n))];
  let offset = 0;
  return [
    { op: "pack", title, inputs: parts, outputs: [t(total)], tolerance: EXACT },
    ...sizes.map((n): OpCase => {
      const attrs = { offset };
      offset += n;
      return {
        op: "unpack",
        title: `${n} ${title}`,
        inputs: [t(total)],
        outputs: [t(n)],
        attrs,
        tolerance: EXACT,
      };
    }),
  ];
});

const factor = positive();

const updates: OpCase[] = SIZES.flatMap((n): OpCase[] => {
  const [w, g, m, v] = [t(n), t(n), t(n), positive(n)];
  return [0, 1].flatMap((hasFactor): OpCase[] => {
    const last = hasFactor ? [factor] : [];
    const with_ = hasFactor ? " times a factor" : "";
    return [
      {
        op: "adamw",
        title: `[${n}]${with_}`,
        inputs: [w, g, m, v, ...last],
        outputs: [0, 2, 3],
        attrs: { hasFactor },
        tolerance: UPDATE,
      },
      {
        op: "sgd",
        title: `[${n}]${with_}`,
        inputs: [w, g, ...last],
        outputs: [0],
        attrs: { hasFactor, hasMomentum: 0 },
        sgd: true,
        tolerance: UPDATE,
      },
      {
        op: "sgd",
        title: `[${n}] with momentum${with_}`,
        inputs: [w, g, m, ...last],
        outputs: [0, 2],
        attrs: { hasFactor, hasMomentum: 1 },
        sgd: true,
        tolerance: UPDATE,
      },
    ];
  });
});

const FACTORS: readonly (readonly [M: number, O: number, I: number, tileRows: number])[] = [
  [0, 3, 4, 0],
  [1, 1, 1, 0],
  [1, 7, 33, 0],
  [2, 5, 16, 0],
  [3, 9, 50, 0],
  [4, 6, 17, 0],
  [6, 5, 40, 0],
  [8, 13, 70, 0],
  [8, 0, 70, 0],
  [8, 4, 0, 0],
  [13, 10, 35, 0],
  [32, 11, 19, 0],
  [48, 3, 20, 0],
  [8, 13, 70, 4],
  [40, 12, 9, 5],
  [100, 33, 18, 8],
  [64, 6, 40, 64],
];

const fromFactors: OpCase[] = FACTORS.flatMap(([M, O, I, tileRows]) =>
  [0, 1].flatMap((hasFactor): OpCase[] => {
    const last = [...(hasFactor ? [factor] : []), ...(tileRows > 0 ? [t(tileRows, I)] : [])];
    const title = `dy${dims(M, O)} x${dims(M, I)}${tileRows ? ` in tiles of ${tileRows}` : ""}${hasFactor ? " times a factor" : ""}`;
    const [dy, x, w, m, v] = [t(M, O), t(M, I), t(O, I), t(O, I), positive(O, I)];
    return [
      {
        op: "adamwFromFactors",
        title,
        inputs: [dy, x, w, m, v, ...last],
        outputs: [2, 3, 4],
        attrs: { hasFactor, tileRows },
        tolerance: DOT,
      },
      {
        op: "sgdFromFactors",
        title,
        inputs: [dy, x, w, ...last],
        outputs: [2],
        attrs: { hasFactor, hasMomentum: 0, tileRows },
        sgd: true,
        tolerance: DOT,
      },
      {
        op: "sgdFromFactors",
        title: `${title} with momentum`,
        inputs: [dy, x, w, m, ...last],
        outputs: [2, 3],
        attrs: { hasFactor, hasMomentum: 1, tileRows },
        sgd: true,
        tolerance: DOT,
      },
    ];
  }),
);

export const OP_CASES: readonly OpCase[] = [
  ...products,
  ...leading,
  ...biases,
  ...activations,
  ...elementwise,
  ...scalars,
  ...movement,
  ...blocks,
  ...packs,
  ...updates,
  ...fromFactors,
  ...MODEL_CASES,
  ...ATTENTION_CASES,
  ...DECODE_CASES,
  ...LINEAR_CASES,
  ...STREAM_CASES,
  ...ROW_CASES,
];

/** Long enough that several threads share the work. Outputs must be the same bits for any number of them. */
export const LARGE_CASES: readonly OpCase[] = [
  ...([1, 4, 8, 11, 32] as const).flatMap((M): OpCase[] => [
    {
      op: "linear",
      title: `x[${M}, 600] w[301, 600]`,
      inputs: [t(M, 600), t(301, 600)],
      outputs: [t(M, 301)],
      tolerance: DOT,
    },
    {
      op: "linearDx",
      title: `dy[${M}, 100] w[100, 1100]`,
      inputs: [t(M, 100), t(100, 1100)],
      outputs: [t(M, 1100)],
      tolerance: DOT,
    },
    {
      op: "linearDw",
      title: `dy[${M}, 201] x[${M}, 300]`,
      inputs: [t(M, 201), t(M, 300)],
      outputs: [t(201, 300)],
      tolerance: DOT,
    },
    {
      op: "adamwFromFactors",
      title: `dy[${M}, 101] x[${M}, 300]`,
      inputs: [t(M, 101), t(M, 300), t(101, 300), t(101, 300), positive(101, 300)],
      outputs: [2, 3, 4],
      attrs: { hasFactor: 0, tileRows: 0 },
      tolerance: DOT,
    },
  ]),
  {
    op: "linear",
    title: "x[3, 9000] w[40, 9000]",
    inputs: [t(3, 9000), t(40, 9000)],
    outputs: [t(3, 40)],
    tolerance: DOT,
  },
  {
    op: "linearDx",
    title: "dy[3, 40] w[40, 9000]",
    inputs: [t(3, 40), t(40, 9000)],
    outputs: [t(3, 9000)],
    tolerance: DOT,
  },
  {
    op: "adamwFromFactors",
    title: "dy[40, 6] x[40, 5000]",
    inputs: [t(40, 6), t(40, 5000), t(6, 5000), t(6, 5000), positive(6, 5000)],
    outputs: [2, 3, 4],
    attrs: { hasFactor: 0, tileRows: 0 },
    tolerance: DOT,
  },
  { op: "sum", title: "[200001]", inputs: [t(200001)], outputs: [t()], tolerance: ROUNDING },
  {
    op: "sumSquares",
    title: "[200001]",
    inputs: [t(200001)],
    outputs: [doubles()],
    tolerance: DOUBLE,
  },
  {
    op: "mseLoss",
    title: "[200001]",
    inputs: [t(200001), t(200001)],
    outputs: [t()],
    attrs: { count: 200001 },
    tolerance: ROUNDING,
  },
  {
    op: "sumSquaresFromFactors",
    title: "dy[50, 60] x[50, 90]",
    inputs: [t(50, 60), t(50, 90)],
    outputs: [doubles()],
    tolerance: DOUBLE,
  },
  {
    op: "biasDb",
    title: "dy[300, 700]",
    inputs: [t(300, 700)],
    outputs: [t(700)],
    tolerance: ROUNDING,
  },
  {
    op: "bias",
    title: "x[300, 700]",
    inputs: [t(300, 700), t(700)],
    outputs: [t(300, 700)],
    tolerance: ROUNDING,
  },
  {
    op: "silu",
    title: "[200001]",
    inputs: [wide(200001)],
    outputs: [t(200001)],
    tolerance: TRANSCENDENTAL,
  },
  {
    op: "adamw",
    title: "[100003]",
    inputs: [t(100003), t(100003), t(100003), positive(100003)],
    outputs: [0, 2, 3],
    attrs: { hasFactor: 0 },
    tolerance: UPDATE,
  },
  {
    op: "slice",
    title: "[300, 900] dim 1",
    inputs: [t(300, 900)],
    outputs: [t(300, 300)],
    attrs: { axis: 1, dim: 1 },
    mesh: MESH,
    rank: 1,
    tolerance: EXACT,
  },
  ...LARGE_MODEL_CASES,
  ...LARGE_ATTENTION_CASES,
  ...LARGE_DECODE_CASES,
];
