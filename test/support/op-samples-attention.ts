// Samples of rotary embedding, attention and cross-entropy.
import type { Sample } from "./op-samples.ts";

const D = 12; // divides by 2, 3 and 4
const HEAD_DIM = 2;
const TOKENS = 5;

/** heads, kvHeads, causal: each head its own keys; shared by two; shared by three, so that ranks' parts lie askew; by all. */
const HEADS = [
  [12, 12, 1],
  [24, 12, 1],
  [12, 4, 0],
  [12, 1, 1],
] as const;

const attention = (
  operands: (
    q: readonly number[],
    k: readonly number[],
    lse: readonly number[],
  ) => (readonly number[])[],
): Sample[] =>
  HEADS.map(([heads, kvHeads, causal]) => ({
    inputs: operands(
      [D, TOKENS, heads * HEAD_DIM],
      [D, TOKENS, kvHeads * HEAD_DIM],
      [D, TOKENS, heads],
    ),
    attrs: { heads, kvHeads, headDim: HEAD_DIM, causal },
  }));

const gradient = attention((q, k, lse) => [q, q, k, k, q, lse]);

const V = 24;

export const ATTENTION_SAMPLES: Readonly<Record<string, readonly Sample[]>> = {
  rope: [
    { inputs: [[D, D, 48]], attrs: { headDim: 4, theta: 10000, inverse: 0 } },
    {
      inputs: [[D, D, 48]],
      attrs: {
        headDim: 4,
        theta: 500000,
        inverse: 1,
        factor: 8,
        lowFrequency: 1,
        highFrequency: 4,
        originalLength: 16,
      },
    },
  ],
  attention: attention((q, k) => [q, k, k]),
  attentionStats: attention((q, k) => [q, k]),
  attentionDq: gradient,
  attentionDk: gradient,
  attentionDv: gradient,
  ceStats: [
    {
      inputs: [
        [D, V, V],
        [D, V],
      ],
      attrs: { classes: V },
      ids: { 1: V },
    },
  ],
  ceLoss: [{ inputs: [[D, V, 3]], attrs: { count: D * V, classes: V } }],
  ceGrad: [
    {
      inputs: [[], [D, V, V], [D, V], [D, V, 3]],
      attrs: { count: D * V, classes: V },
      ids: { 2: V },
    },
  ],
};
