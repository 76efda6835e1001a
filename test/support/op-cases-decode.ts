// Cases of what a decoder adds: attention over caches, positions that are steps, and the draw of a token.
import type { Mesh } from "../../shared/mesh/mesh.ts";
import { type OpCase, pseudoRandom, type Tensor } from "./conformance.ts";
import { EXACT, ROUNDING, t } from "./op-case-tensors.ts";

/** A float32 sum of weighted values, the weights a few roundings of an exponential each. */
const ATTENTION_TOL = 3e-6;

const MESH: Mesh = {
  axes: [
    { name: "dataParallel", size: 1 },
    { name: "tensorParallel", size: 2 },
  ],
};
const TENSOR_PARALLEL = 2;

interface CachedCase {
  readonly H: number;
  readonly KV: number;
  readonly n: number;
  readonly L: number;
  readonly step: number;
  /** Of all ranks, where heads are split. */
  readonly heads?: number;
  readonly kvHeads?: number;
  readonly headAxes?: number;
  readonly kvHeadAxes?: number;
  readonly rank?: number;
  /** Factor on queries: far larger scores, and softmaxes with one weight. */
  readonly sharp?: number;
}

const CACHED: readonly CachedCase[] = [
  { H: 1, KV: 1, n: 1, L: 1, step: 0 },
  { H: 2, KV: 1, n: 3, L: 5, step: 0 },
  { H: 4, KV: 2, n: 8, L: 9, step: 8 },
  { H: 3, KV: 3, n: 20, L: 200, step: 127 },
  { H: 3, KV: 3, n: 20, L: 200, step: 128 },
  { H: 8, KV: 2, n: 64, L: 400, step: 333 },
  { H: 2, KV: 2, n: 4, L: 5, step: 7 },
  { H: 2, KV: 1, n: 130, L: 40, step: 20 },
  { H: 1, KV: 1, n: 512, L: 3, step: 2 },
  { H: 2, KV: 1, n: 16, L: 300, step: 299, sharp: 100 },
  ...[0, 1].flatMap((rank): CachedCase[] => [
    { H: 2, KV: 1, n: 4, L: 6, step: 3, heads: 4, kvHeads: 1, headAxes: TENSOR_PARALLEL, rank },
    {
      ...{ H: 4, KV: 2, n: 4, L: 6, step: 5, heads: 8, kvHeads: 4, rank },
      ...{ headAxes: TENSOR_PARALLEL, kvHeadAxes: TENSOR_PARALLEL },
    },
    // Three query heads to a key-value head, of which both ranks hold all: parts lie askew.
    { H: 3, KV: 2, n: 5, L: 7, step: 4, heads: 6, kvHeads: 2, headAxes: TENSOR_PARALLEL, rank },
  ]),
];

const cached: OpCase[] = CACHED.map((c) => {
  const { H, KV, n, L, step, rank, sharp = 1 } = c;
  const random = (salt: number, factor: number, ...shape: number[]): Tensor => ({
    shape,
    values: (i) => factor * pseudoRandom(i, salt),
  });
  return {
    op: "attentionCached",
    title: JSON.stringify(c),
    inputs: [
      random(1, sharp, 1, 1, H * n),
      random(2, 1, 1, 1, KV * n),
      random(3, 1, 1, 1, KV * n),
      random(4, 1, L, KV * n),
      random(5, 1, L, KV * n),
    ],
    outputs: [t(1, 1, H * n), 3, 4],
    attrs: {
      ...{ heads: c.heads ?? H, kvHeads: c.kvHeads ?? KV, headDim: n, causal: 1 },
      ...{ headAxes: c.headAxes ?? 0, kvHeadAxes: c.kvHeadAxes ?? 0 },
    },
    step,
    ...(rank === undefined ? {} : { mesh: MESH, rank }),
    // Scores as large as `sharp` carry its roundings into the exponent.
    tolerance: ATTENTION_TOL * sharp,
  };
});

const LOGITS: Readonly<Record<string, (i: number) => number>> = {
  "random logits": (i) => 4 * pseudoRandom(i, 41),
  "logits with many ties": (i) => Math.round(2 * pseudoRandom(i, 42)),
  "logits with both zeros": (i) => (i % 2 === 0 ? -0 : 0),
  "logits of which most are impossible": (i) => (i % 5 === 2 ? i % 7 : Number.NEGATIVE_INFINITY),
};

const draws: OpCase[] = Object.entries(LOGITS).flatMap(([name, values]) =>
  [5, 1000].flatMap((V) =>
    [0, 0.7, 30].flatMap((temperature) =>
      [0, 3, 100].flatMap((topK) =>
        [0, 7].map(
          (step): OpCase => ({
            op: "sampleToken",
            title: `${V} ${name} at temperature ${temperature}, top ${topK}, step ${step}`,
            inputs: [{ shape: [1, 1, V], values }],
            outputs: [t()],
            attrs: { temperature, topK, seedLow: 7, seedHigh: 9 },
            step,
            tolerance: EXACT,
          }),
        ),
      ),
    ),
  ),
);

const noDraw: OpCase[] = [Number.NaN, Number.POSITIVE_INFINITY].map((odd) => ({
  op: "sampleToken",
  title: `a logit of ${odd}`,
  inputs: [{ shape: [1, 1, 9], values: (i: number) => (i === 4 ? odd : i) }],
  outputs: [t()],
  attrs: { temperature: 1, topK: 0, seedLow: 7, seedHigh: 9 },
  tolerance: EXACT,
}));

const positions: OpCase[] = [0, 4, 7].flatMap((step): OpCase[] => [
  {
    op: "rope",
    title: `of the token of step ${step}`,
    inputs: [t(1, 1, 12)],
    outputs: [t(1, 1, 12)],
    attrs: { headDim: 4, theta: 10000, inverse: 0, sequenceAxes: 0, context: 5 },
    step,
    tolerance: 2 * ROUNDING,
  },
  {
    op: "addPosition",
    title: `of the token of step ${step}`,
    inputs: [t(1, 1, 5), t(7, 5)],
    outputs: [t(1, 1, 5)],
    attrs: { sequenceAxes: 0, context: 7 },
    step,
    tolerance: ROUNDING,
  },
]);

export const DECODE_CASES: readonly OpCase[] = [...cached, ...positions, ...draws, ...noDraw];

/** Long enough that several threads share the work. */
export const LARGE_DECODE_CASES: readonly OpCase[] = [
  {
    op: "attentionCached",
    title: "8 heads of 64 over 2000 positions",
    inputs: [t(1, 1, 512), t(1, 1, 256), t(1, 1, 256), t(2000, 256), t(2000, 256)],
    outputs: [t(1, 1, 512), 3, 4],
    attrs: { heads: 8, kvHeads: 4, headDim: 64, causal: 1, headAxes: 0, kvHeadAxes: 0 },
    step: 1999,
    tolerance: ATTENTION_TOL,
  },
];
