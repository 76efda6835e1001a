// Cases of embeddings, norms, gates, dropout and views.
import type { Mesh } from "../../shared/mesh/mesh.ts";
import { type OpCase, pseudoRandom, type Tensor } from "./conformance.ts";
import {
  DOT,
  dims,
  doubles,
  EXACT,
  ids,
  integers,
  positive,
  ROUNDING,
  SIZES,
  TRANSCENDENTAL,
  t,
  UPDATE,
} from "./op-case-tensors.ts";

/** Two axes of ranks; bit masks of them. */
const MESH: Mesh = {
  axes: [
    { name: "dataParallel", size: 2 },
    { name: "tensorParallel", size: 3 },
  ],
};
const [DATA, TENSOR, BOTH] = [1, 2, 3];
const factor = positive();

const wide = (...shape: number[]): Tensor => ({
  shape,
  values: (i) => 12 * pseudoRandom(i + 3, 5) ** 3,
});

/** Tokens, local rows, features, and the axes that split the rows. Ids go a little beyond all rows on both sides. */
const TABLES: readonly (readonly [
  tokens: readonly number[],
  V: number,
  D: number,
  rowAxes: number,
])[] = [
  [[1], 1, 1, 0],
  [[7], 5, 16, 0],
  [[2, 9], 6, 33, 0],
  [[40], 3, 70, 0],
  [[3, 4, 5], 100, 7, 0],
  [[2, 9], 4, 20, TENSOR],
  [[64], 5, 9, BOTH],
  [[0], 4, 3, 0],
  [[5], 0, 3, 0],
  [[5], 4, 0, 0],
  [[6], 3, 2100, 0],
];

const tables: OpCase[] = TABLES.flatMap(([tokens, V, D, rowAxes]) => {
  const parts = rowAxes === TENSOR ? 3 : rowAxes === BOTH ? 6 : 1;
  const id = ids(V * parts + 2, -2, ...tokens);
  const M = tokens.reduce((product, n) => product * n, 1);
  const place = { mesh: MESH, rank: rowAxes === 0 ? 0 : 4 };
  const text = `ids${dims(...tokens)} table${dims(V, D)}${parts === 1 ? "" : `, a part of ${parts}`}`;
  const [w, m, v] = [t(V, D), t(V, D), positive(V, D)];
  const dy = t(...tokens, D);
  const scratch: Tensor = { shape: [V + 1 + M], dtype: "int32", values: () => -7 };
  return [
    {
      op: "embedding",
      title: text,
      inputs: [id, w],
      outputs: [t(...tokens, D)],
      attrs: { rowAxes },
      ...place,
      tolerance: EXACT,
    },
    {
      op: "embeddingDw",
      title: text,
      inputs: [dy, id],
      outputs: [w],
      attrs: { rowAxes },
      ...place,
      tolerance: DOT,
    },
    {
      op: "sumSquaresFromRows",
      title: text,
      inputs: [dy, id, scratch],
      outputs: [doubles()],
      attrs: { rowAxes },
      ...place,
      scratch: 2,
      tolerance: DOT,
    },
    ...[0, 1].flatMap((hasFactor): OpCase[] => {
      const last = [...(hasFactor ? [factor] : []), scratch];
      const title = `${text}${hasFactor ? " times a factor" : ""}`;
      const common = { ...place, tolerance: DOT };
      return [
        {
          ...common,
          op: "adamwFromRows",
          title,
          inputs: [dy, id, w, m, v, ...last],
          outputs: [2, 3, 4],
          attrs: { rowAxes, hasFactor },
          scratch: 5 + hasFactor,
        },
        {
          ...common,
          op: "sgdFromRows",
          title,
          inputs: [dy, id, w, ...last],
          outputs: [2],
          attrs: { rowAxes, hasFactor, hasMomentum: 0 },
          sgd: true,
          scratch: 3 + hasFactor,
        },
        {
          ...common,
          op: "sgdFromRows",
          title: `${title} with momentum`,
          inputs: [dy, id, w, m, ...last],
          outputs: [2, 3],
          attrs: { rowAxes, hasFactor, hasMomentum: 1 },
          sgd: true,
          scratch: 4 + hasFactor,
        },
      ];
    }),
  ];
});

const positions: OpCase[] = (
  [
    [[1, 1, 1], 1, 0, 0],
    [[3, 5, 7], 5, 0, 0],
    [[3, 5, 7], 9, 0, 0],
    [[2, 4, 33], 30, TENSOR, 4],
    [[2, 4, 5], 24, BOTH, 5],
    [[0, 4, 5], 6, 0, 0],
    [[2, 0, 5], 6, 0, 0],
    [[2, 3, 0], 6, 0, 0],
  ] as const
).flatMap(([shape, L, sequenceAxes, rank]): OpCase[] => {
  const title = `x${dims(...shape)} table of ${L}${sequenceAxes === 0 ? "" : ` at rank ${rank}`}`;
  const place = { attrs: { sequenceAxes }, mesh: MESH, rank };
  const [x, p] = [t(...shape), t(L, shape[2])];
  const add = { op: "addPosition", ...place, inputs: [x, p], tolerance: ROUNDING };
  return [
    { ...add, title, outputs: [x] },
    { ...add, title: `${title} in place`, outputs: [0] },
    { op: "addPositionDp", ...place, title, inputs: [x], outputs: [p], tolerance: ROUNDING },
  ];
});

const ROWS: readonly (readonly number[])[] = [
  [1, 1],
  [3, 5],
  [2, 16],
  [7, 33],
  [2, 3, 70],
  [5, 129],
  [21, 40],
  [130, 17],
  [9, 1030],
  [0, 4],
  [4, 0],
];
/** Off centre, as activations are: the variance is not the mean of squares. */
const offCentre = (...shape: number[]): Tensor => ({
  shape,
  values: (i) => 0.7 + pseudoRandom(i, 3),
});

const norms: OpCase[] = ROWS.flatMap((shape): OpCase[] => {
  const D = shape.at(-1) ?? 0;
  const [x, dy, g, b] = [offCentre(...shape), t(...shape), t(D), t(D)];
  return ["rmsNorm", "layerNorm"].flatMap((name): OpCase[] => {
    // One feature normalised is all rounding where eps is small.
    const common = { attrs: { eps: D === 1 ? 0.5 : 1e-5 }, tolerance: DOT };
    const inputs = name === "rmsNorm" ? [x, g] : [x, g, b];
    const title = `x${dims(...shape)}`;
    return [
      { ...common, op: name, title, inputs, outputs: [x] },
      { ...common, op: name, title: `${title} in place`, inputs, outputs: [0] },
      { ...common, op: `${name}Dx`, title, inputs: [dy, x, g], outputs: [x] },
      {
        ...common,
        op: `${name}Dx`,
        title: `${title} in place of dy`,
        inputs: [dy, x, g],
        outputs: [0],
      },
      { ...common, op: `${name}Dg`, title, inputs: [dy, x], outputs: [g] },
      { ...common, op: `${name}Grad`, title, inputs: [dy, x, g], outputs: [x, g] },
      {
        ...common,
        op: `${name}Grad`,
        title: `${title} in place of dy`,
        inputs: [dy, x, g],
        outputs: [0, g],
      },
      {
        ...common,
        op: `${name}Grad`,
        title: `${title} in place of x`,
        inputs: [dy, x, g],
        outputs: [1, g],
      },
    ];
  });
});

const zeros: OpCase[] = ["rmsNorm", "layerNorm"].map((op) => {
  const x: Tensor = { shape: [3, 9], values: () => 0 };
  const inputs = op === "rmsNorm" ? [x, t(9)] : [x, t(9), t(9)];
  return {
    op,
    title: "rows of zeros",
    inputs,
    outputs: [x],
    attrs: { eps: 1e-5 },
    tolerance: EXACT,
  };
});

const INPUTS = ["dy", "a", "b"];
const gates: OpCase[] = SIZES.flatMap((n): OpCase[] => {
  const [dy, a, b] = [t(n), wide(n), t(n)];
  const title = `[${n}]`;
  const common = { tolerance: 2 * TRANSCENDENTAL };
  return [
    { ...common, op: "swiglu", title, inputs: [a, b], outputs: [t(n)] },
    { ...common, op: "swiglu", title: `${title} in place of a`, inputs: [a, b], outputs: [0] },
    { ...common, op: "swiglu", title: `${title} in place of b`, inputs: [a, b], outputs: [1] },
    ...[t(n), 0, 1, 2].map((output): OpCase => {
      const where = typeof output === "number" ? ` in place of ${INPUTS[output]}` : "";
      return {
        ...common,
        op: "swigluDa",
        title: `${title}${where}`,
        inputs: [dy, a, b],
        outputs: [output],
      };
    }),
    ...[t(n), 0, 1].map((output): OpCase => {
      const where = typeof output === "number" ? ` in place of ${INPUTS[output]}` : "";
      return {
        ...common,
        op: "swigluDb",
        title: `${title}${where}`,
        inputs: [dy, a],
        outputs: [output],
      };
    }),
    ...[undefined, 0, 1, 2].flatMap((da) =>
      [undefined, 0, 1, 2].flatMap((db): OpCase[] => {
        if (da !== undefined && da === db) return [];
        const where = [da, db].map((i) => (i === undefined ? "elsewhere" : `over ${INPUTS[i]}`));
        return [
          {
            ...common,
            op: "swigluGrad",
            title: `${title}, da ${where[0]} and db ${where[1]}`,
            inputs: [dy, a, b],
            outputs: [da ?? t(n), db ?? t(n)],
          },
        ];
      }),
    ),
    { ...common, op: "geluTanh", title, inputs: [wide(n)], outputs: [t(n)] },
    { ...common, op: "geluTanh", title: `${title} in place`, inputs: [wide(n)], outputs: [0] },
    { ...common, op: "geluTanhGrad", title, inputs: [dy, wide(n)], outputs: [t(n)] },
    {
      ...common,
      op: "geluTanhGrad",
      title: `${title} in place of dy`,
      inputs: [dy, wide(n)],
      outputs: [0],
    },
    {
      op: "mseLossGrad",
      title: `${title} in place of x`,
      inputs: [t(), t(n), t(n)],
      outputs: [1],
      attrs: { count: 2048 },
      tolerance: 3 * ROUNDING,
    },
    {
      op: "addN",
      title: `3 x [${n}] in place of the first`,
      inputs: [t(n), t(n), t(n)],
      outputs: [0],
      tolerance: 3 * ROUNDING,
    },
  ];
});

const words = { nameLow: 0x9e3779b9, nameHigh: 7, seedLow: 0xfffffff0, seedHigh: 2 };
const noAxes = (dims: number): Record<string, number> =>
  Object.fromEntries(Array.from({ length: dims }, (_, d) => [`axes${d}`, 0]));

const drops: OpCase[] = (
  [
    [[1], {}, {}],
    [[37], { rate: 0.5 }, {}],
    [[6, 50], { rate: 0.1 }, { step: 70000 }],
    [[3, 130], { microbatches: 4 }, { microbatch: 3 }],
    [[2, 5, 6], { axes0: DATA, axes1: TENSOR }, { rank: 5 }],
    [[2, 5, 6], { axes0: DATA, axes2: TENSOR, microbatches: 3 }, { rank: 4, microbatch: 1 }],
    [[4, 3, 7], { axes0: BOTH, microbatches: 2 }, { rank: 3, microbatch: 1 }],
    [[1, 2, 1, 3, 2, 1, 2, 5], { axes7: TENSOR }, { rank: 2 }],
    [[3, 8], { rate: 0 }, {}],
    [[3, 8], { rate: 0.999 }, {}],
    [[0, 8], {}, {}],
    [[8, 0], {}, {}],
  ] as const
).flatMap(([shape, attrs, at]): OpCase[] => {
  const op: OpCase = {
    op: "dropout",
    title: `${dims(...shape)} ${JSON.stringify({ ...attrs, ...at })}`,
    inputs: [t(...shape)],
    outputs: [t(...shape)],
    attrs: { rate: 0.3, ...words, microbatches: 1, ...noAxes(shape.length), ...attrs },
    mesh: MESH,
    ...at,
    tolerance: ROUNDING,
  };
  return [op, { ...op, title: `${op.title} in place`, outputs: [0] }];
});

const views: OpCase[] = [
  ...[t(3, 4, 5), integers(3, 4, 5), t(0, 4, 5)].flatMap((x): OpCase[] => {
    const title = `${x.dtype ?? "float32"} ${dims(...x.shape)}`;
    const attrs = { rank: 2, d1: 20 };
    const y = { ...x, shape: [x.shape[0] ?? 0, 20] };
    return [
      { op: "reshape", title, inputs: [x], outputs: [y], attrs, tolerance: EXACT },
      {
        op: "reshape",
        title: `${title} on the same bytes`,
        inputs: [x],
        outputs: [0],
        attrs,
        tolerance: EXACT,
      },
    ];
  }),
  ...(
    [
      [[2, 3, 4], 1, 2],
      [[2, 3, 4], 2, 1],
      [[2, 37, 19], 1, 2],
      [[2, 3, 4, 5], 1, 2],
      [[2, 3, 4, 5], 1, 3],
      [[2, 3, 4, 5], 2, 3],
      [[2, 5, 3, 2, 17], 1, 3],
      [[2, 3, 4], 1, 1],
      [[2, 1, 9], 1, 2],
      [[2, 0, 9], 1, 2],
      [[2, 9, 3, 0], 1, 2],
    ] as const
  ).flatMap(([shape, a, b]): OpCase[] => {
    const swapped = shape.map((n, d) =>
      d === a ? (shape[b] ?? 0) : d === b ? (shape[a] ?? 0) : n,
    );
    const attrs = { a, b };
    return (["float32", "int32", "float64"] as const).map((dtype): OpCase => {
      const x: Tensor = { shape, dtype, values: (i) => i + 1 };
      const title = `${dtype} ${dims(...shape)} dims ${a} and ${b}`;
      return {
        op: "transpose",
        title,
        inputs: [x],
        outputs: [{ shape: swapped, dtype }],
        attrs,
        tolerance: EXACT,
      };
    });
  }),
];

/** Token ids go through the same movements as activations. */
const tokens: OpCase[] = [
  {
    op: "identity",
    title: "int32 [6, 4]",
    inputs: [integers(6, 4)],
    outputs: [integers(6, 4)],
    tolerance: EXACT,
  },
  ...["splitBlocks", "joinBlocks"].map((op): OpCase => {
    const [whole, apart] = [integers(6, 4, 5), integers(2, 6, 2, 5)];
    const [x, y] = op === "splitBlocks" ? [whole, apart] : [apart, whole];
    return {
      op,
      title: "int32 [6, 4, 5] dim 1 and 2 parts",
      inputs: [x],
      outputs: [y],
      attrs: { dim: 1, parts: 2 },
      tolerance: EXACT,
    };
  }),
  {
    op: "slice",
    title: "int32 [4, 6] dim 1 at rank 2 of 3",
    inputs: [integers(4, 6)],
    outputs: [integers(4, 2)],
    attrs: { axis: 1, dim: 1 },
    mesh: {
      axes: [
        { name: "a", size: 1 },
        { name: "b", size: 3 },
      ],
    },
    rank: 2,
    tolerance: EXACT,
  },
];

export const MODEL_CASES: readonly OpCase[] = [
  ...tables,
  ...positions,
  ...norms,
  ...zeros,
  ...gates,
  ...drops,
  ...views,
  ...tokens,
];

const bigIds = ids(3000, 0, 600);
const bigScratch: Tensor = { shape: [3000 + 1 + 600], dtype: "int32" };
const noise = { rate: 0.2, ...words, microbatches: 1, ...noAxes(2) };

/** Long enough that several threads share the work. */
export const LARGE_MODEL_CASES: readonly OpCase[] = [
  {
    op: "embedding",
    title: "ids[600] table[3000, 130]",
    inputs: [bigIds, t(3000, 130)],
    outputs: [t(600, 130)],
    attrs: { rowAxes: 0 },
    tolerance: EXACT,
  },
  {
    op: "embeddingDw",
    title: "ids[600] table[3000, 130]",
    inputs: [t(600, 130), bigIds],
    outputs: [t(3000, 130)],
    attrs: { rowAxes: 0 },
    tolerance: DOT,
  },
  {
    op: "adamwFromRows",
    title: "ids[600] table[3000, 130]",
    inputs: [t(600, 130), bigIds, t(3000, 130), t(3000, 130), positive(3000, 130), bigScratch],
    outputs: [2, 3, 4],
    attrs: { rowAxes: 0, hasFactor: 0 },
    scratch: 5,
    tolerance: UPDATE,
  },
  {
    op: "sumSquaresFromRows",
    title: "ids[600] table[3000, 130]",
    inputs: [t(600, 130), bigIds, bigScratch],
    outputs: [doubles()],
    attrs: { rowAxes: 0 },
    scratch: 2,
    tolerance: DOT,
  },
  ...["rmsNorm", "layerNorm"].flatMap((name): OpCase[] => {
    const [x, g] = [offCentre(700, 190), t(190)];
    const inputs = name === "rmsNorm" ? [x, g] : [x, g, g];
    const common = { title: "x[700, 190]", attrs: { eps: 1e-5 }, tolerance: DOT };
    return [
      { ...common, op: name, inputs, outputs: [x] },
      { ...common, op: `${name}Grad`, inputs: [t(700, 190), x, g], outputs: [x, g] },
    ];
  }),
  // Wider than what blocks of rows are summed in.
  {
    op: "rmsNormGrad",
    title: "x[9, 70001]",
    inputs: [t(9, 70001), offCentre(9, 70001), t(70001)],
    outputs: [t(9, 70001), t(70001)],
    attrs: { eps: 1e-5 },
    tolerance: DOT,
  },
  {
    op: "swigluGrad",
    title: "[100003]",
    inputs: [t(100003), wide(100003), t(100003)],
    outputs: [1, 0],
    tolerance: 2 * TRANSCENDENTAL,
  },
  {
    op: "dropout",
    title: "[301, 333]",
    inputs: [t(301, 333)],
    outputs: [t(301, 333)],
    attrs: noise,
    tolerance: ROUNDING,
  },
  {
    op: "transpose",
    title: "[3, 300, 130]",
    inputs: [t(3, 300, 130)],
    outputs: [t(3, 130, 300)],
    attrs: { a: 1, b: 2 },
    tolerance: EXACT,
  },
];
