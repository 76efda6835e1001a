// Cases at the seams of kernels that stream vectors: tensors where compiled programs have them, at multiples of 256 bytes, of sizes
// around what a block takes; and the twins in bfloat16 of the elementwise ops.
import { type OpCase, pseudoRandom, type Tensor } from "./conformance.ts";
import {
  DOUBLE,
  dims,
  doubles,
  EXACT,
  positive,
  ROUNDING,
  TRANSCENDENTAL,
  t,
  UPDATE,
} from "./op-case-tensors.ts";

/** One rounding to bfloat16 of what was computed in float32 or better: half a unit of the eighth bit. */
const HALF = 2 ** -8 + TRANSCENDENTAL;

const half = (...shape: number[]): Tensor => ({ shape, dtype: "bfloat16" });
/** Wide enough for the tails of the functions. */
const wide = (n: number, dtype: "float32" | "bfloat16" = "float32"): Tensor => ({
  shape: [n],
  dtype,
  values: (i) => 12 * pseudoRandom(i + 3, 5) ** 3,
});

/** Each case where slots lie as in programs, and, with `both`, where only elements are aligned too. */
const aligned = (cases: readonly OpCase[], both = false): OpCase[] =>
  cases.flatMap((op) => [
    { ...op, title: `${op.title} at multiples of 256 bytes`, alignment: 256 },
    ...(both ? [op] : []),
  ]);

const ACTIVATIONS = ["silu", "relu", "gelu", "geluTanh", "tanh", "sigmoid"];

/** Whole blocks of 2048 elements, some of another, and a part of a vector at the end. */
const ENDS = [2048, 4103];

const floats = ENDS.flatMap((n): OpCase[] => {
  const title = `[${n}]`;
  const one = { title, tolerance: ROUNDING };
  const curve = { title, tolerance: 2 * TRANSCENDENTAL };
  return [
    ...ACTIVATIONS.flatMap((op): OpCase[] => [
      { ...curve, op, inputs: [wide(n)], outputs: [t(n)] },
      { ...curve, op: `${op}Grad`, inputs: [t(n), wide(n)], outputs: [0] },
    ]),
    ...["mul", "add", "sub"].map(
      (op): OpCase => ({ ...one, op, inputs: [t(n), t(n)], outputs: [1] }),
    ),
    { ...one, op: "addN", inputs: [t(n), t(n), t(n)], outputs: [1], tolerance: 3 * ROUNDING },
    { ...one, op: "scale", inputs: [t(n)], outputs: [t(n)], attrs: { factor: 1 / 3 } },
    { ...one, op: "broadcast", inputs: [t()], outputs: [t(n)], attrs: { factor: 1 / 7 } },
    { ...one, op: "fill", inputs: [], outputs: [t(n)], attrs: { value: -0.5 }, tolerance: EXACT },
    { ...one, op: "fill", inputs: [], outputs: [t(n)], attrs: { value: 0 }, tolerance: EXACT },
    {
      ...one,
      op: "mseLossGrad",
      inputs: [t(), t(n), t(n)],
      outputs: [1],
      attrs: { count: n },
      tolerance: 3 * ROUNDING,
    },
    { ...curve, op: "swiglu", inputs: [wide(n), t(n)], outputs: [1] },
    { ...curve, op: "swigluDa", inputs: [t(n), wide(n), t(n)], outputs: [2] },
    { ...curve, op: "swigluDb", inputs: [t(n), wide(n)], outputs: [0] },
    { ...curve, op: "swigluGrad", inputs: [t(n), wide(n), t(n)], outputs: [1, 0] },
  ];
});

/** More operands than one launch takes, the result over the last of them. */
const manyOperands: OpCase[] = [17, 500].flatMap((count): OpCase[] => {
  const title = `${count} x [5] in place of the last`;
  const outputs = [count - 1];
  return [
    {
      op: "addN",
      title,
      inputs: Array.from({ length: count }, () => t(5)),
      outputs,
      tolerance: count * ROUNDING,
    },
    {
      op: "addN",
      title: `float64 ${title}`,
      inputs: Array.from({ length: count }, () => doubles(5)),
      outputs,
      tolerance: DOUBLE,
    },
  ];
});

/** One part, several, and the last one short. */
const sums = [4096, 4097, 12_291].flatMap((n): OpCase[] => {
  const title = `[${n}]`;
  return [
    { op: "sum", title, inputs: [positive(n)], outputs: [t()], tolerance: ROUNDING },
    {
      op: "mseLoss",
      title,
      inputs: [t(n), t(n)],
      outputs: [t()],
      attrs: { count: n },
      tolerance: ROUNDING,
    },
    { op: "sumSquares", title, inputs: [t(n)], outputs: [doubles()], tolerance: DOUBLE },
  ];
});

/** More than the blocks of a device with two multiprocessors take at once: 32768. */
const updates = [...ENDS, 34_003].flatMap((n): OpCase[] => {
  const [w, g, m, v, factor] = [t(n), t(n), t(n), positive(n), positive()];
  const common = { title: `[${n}] times a factor`, tolerance: UPDATE };
  const sgd = { ...common, op: "sgd", sgd: true };
  return [
    {
      ...common,
      op: "adamw",
      inputs: [w, g, m, v, factor],
      outputs: [0, 2, 3],
      attrs: { hasFactor: 1 },
    },
    { ...sgd, inputs: [w, g, factor], outputs: [0], attrs: { hasFactor: 1, hasMomentum: 0 } },
    { ...sgd, inputs: [w, g, m, factor], outputs: [0, 2], attrs: { hasFactor: 1, hasMomentum: 1 } },
  ];
});

/** Rows of whole vectors or not; few columns and many; sums in one chunk of rows and in several. */
const biases = (
  [
    [3, 40],
    [5, 1200],
    [9, 2],
    [131, 24],
    [300, 264],
    [200, 9],
    [0, 8],
  ] as const
).flatMap(([M, O]): OpCase[] => [
  {
    op: "bias",
    title: `x${dims(M, O)} in place`,
    inputs: [t(M, O), t(O)],
    outputs: [0],
    tolerance: ROUNDING,
  },
  {
    op: "bias",
    title: `bfloat16 x${dims(M, O)}`,
    inputs: [half(M, O), t(O)],
    outputs: [half(M, O)],
    tolerance: HALF,
  },
  {
    op: "biasDb",
    title: `dy${dims(M, O)}`,
    inputs: [t(M, O)],
    outputs: [t(O)],
    tolerance: ROUNDING,
  },
  {
    op: "biasDb",
    title: `bfloat16 dy${dims(M, O)}`,
    inputs: [half(M, O)],
    outputs: [t(O)],
    tolerance: 3 * ROUNDING,
  },
]);

/** Tiles of 32 words and of 64 halves; rows of every width of word. */
const transpositions = (
  [
    [[70, 130], 0, 1],
    [[2, 65, 3, 33], 1, 3],
    [[3, 5, 4], 0, 1],
    [[5, 3, 600], 0, 1],
    [[2, 9, 3, 7, 6], 1, 3],
    [[4, 3, 8], 0, 1],
    [[3, 4, 1], 0, 1],
  ] as const
).flatMap(([shape, a, b]): OpCase[] => {
  const swapped = shape.map((n, d) => (d === a ? (shape[b] ?? 0) : d === b ? (shape[a] ?? 0) : n));
  return (["float32", "bfloat16"] as const).map((dtype): OpCase => {
    // bfloat16 holds integers up to 256.
    const x: Tensor = { shape, dtype, values: (i) => i % 251 };
    return {
      op: "transpose",
      title: `${dtype} ${dims(...shape)} dims ${a} and ${b}`,
      inputs: [x],
      outputs: [{ shape: swapped, dtype }],
      attrs: { a, b },
      tolerance: EXACT,
    };
  });
});

/** Strided rows in words of 16, 8, 4 and 2 bytes; few words a row, and more than a block has threads. */
const copies = ([1, 2, 3, 4, 8, 24, 1100] as const).flatMap((words): OpCase[] =>
  (["float32", "bfloat16"] as const).map((dtype): OpCase => {
    const [whole, apart]: Tensor[] = [
      { shape: [37, 3 * words], dtype },
      { shape: [3, 37, words], dtype },
    ];
    return {
      op: "splitBlocks",
      title: `${dtype} [37, ${3 * words}] dim 1 and 3 parts`,
      inputs: [whole as Tensor],
      outputs: [apart as Tensor],
      attrs: { dim: 1, parts: 3 },
      tolerance: EXACT,
    };
  }),
);

const words = { nameLow: 0x9e3779b9, nameHigh: 7, seedLow: 0xfffffff0, seedHigh: 2 };
const drops = (
  [
    [[6, 50], 1],
    [[9, 64], 4],
    [[2070], 1],
    [[3, 7], 2],
  ] as const
).flatMap(([shape, microbatches]) =>
  (["float32", "bfloat16"] as const).map((dtype): OpCase => {
    const axes = Object.fromEntries(shape.map((_, d) => [`axes${d}`, 0]));
    return {
      op: "dropout",
      title: `${dtype} ${dims(...shape)} of ${microbatches} microbatches in place`,
      inputs: [{ shape, dtype }],
      outputs: [0],
      attrs: { rate: 0.3, microbatches, ...words, ...axes },
      step: 5,
      microbatch: Math.min(1, microbatches - 1),
      tolerance: dtype === "float32" ? ROUNDING : HALF,
    };
  }),
);

const halves = [0, 1, 37, 2048, 2069].flatMap((n): OpCase[] => {
  const [x, y] = [half(n), half(n)];
  const common = { title: `bfloat16 [${n}]`, tolerance: HALF };
  return [
    ...ACTIVATIONS.flatMap((op): OpCase[] => [
      { ...common, op, inputs: [wide(n, "bfloat16")], outputs: [y] },
      { ...common, op: `${op}Grad`, inputs: [x, wide(n, "bfloat16")], outputs: [0] },
    ]),
    ...["mul", "add", "sub"].map((op): OpCase => ({ ...common, op, inputs: [x, x], outputs: [1] })),
    { ...common, op: "addN", inputs: [x, x, x], outputs: [y] },
    { ...common, op: "scale", inputs: [x], outputs: [0], attrs: { factor: 1 / 3 } },
    { ...common, op: "swiglu", inputs: [wide(n, "bfloat16"), x], outputs: [y] },
    { ...common, op: "swigluDa", inputs: [x, wide(n, "bfloat16"), x], outputs: [y] },
    { ...common, op: "swigluDb", inputs: [x, wide(n, "bfloat16")], outputs: [0] },
    { ...common, op: "swigluGrad", inputs: [x, wide(n, "bfloat16"), x], outputs: [1, 0] },
    { ...common, op: "identity", inputs: [x], outputs: [y], tolerance: EXACT },
    ...[0, 1].map(
      (microbatch): OpCase => ({
        ...common,
        op: "accumulate",
        title: `${common.title} microbatch ${microbatch}`,
        inputs: [x, x],
        outputs: [0],
        microbatch,
      }),
    ),
    {
      ...common,
      op: "cast",
      title: `[${n}] to bfloat16`,
      inputs: [t(n)],
      outputs: [y],
      attrs: { to: 1 },
    },
    { ...common, op: "cast", inputs: [x], outputs: [t(n)], attrs: { to: 0 }, tolerance: EXACT },
  ];
});

export const STREAM_CASES: readonly OpCase[] = [
  ...aligned(floats),
  ...manyOperands,
  ...aligned(sums),
  ...aligned(updates, true),
  ...aligned(biases, true),
  ...aligned(transpositions, true),
  ...aligned(copies, true),
  ...aligned(drops, true),
  ...aligned(halves, true),
];
