// Small models with rotary embeddings, attention and logits, whose gradients are checked by differences.
import type { ForwardGraph } from "../../shared/graph/graph.ts";
import { GraphBuilder, ID_LIMIT } from "./compile-cases.ts";

const HEAD_DIM = 2;
const rotation = { headDim: HEAD_DIM, theta: 10, inverse: 0 };
const scaling = { factor: 2, lowFrequency: 1, highFrequency: 4, originalLength: 8 };

/** Tokens [B, 3, 3] through attention of so many heads, its queries and keys turned by `turn`. */
function attention(
  heads: number,
  kvHeads: number,
  causal: number,
  turn: (b: GraphBuilder, x: number) => number = (_, x) => x,
): ForwardGraph {
  const b = new GraphBuilder([3, 3]);
  const q = turn(b, b.linear("q", 0, heads * HEAD_DIM));
  const k = turn(b, b.linear("k", 0, kvHeads * HEAD_DIM));
  const v = b.linear("v", 0, kvHeads * HEAD_DIM);
  const attrs = { heads, kvHeads, headDim: HEAD_DIM, causal };
  return b.build(b.linear("out", b.node("attention", [q, k, v], "", attrs), 2));
}

export const ATTENTION_GRADIENTS: Readonly<Record<string, ForwardGraph>> = {
  attention: attention(2, 2, 0),
  "causal attention with shared keys": attention(2, 1, 1),
  "attention turned by position": attention(1, 1, 1, (b, x) => b.node("rope", [x], "", rotation)),
  "attention turned and turned back": attention(2, 1, 1, (b, x) =>
    b.node("rope", [x], "", { ...rotation, ...scaling, inverse: 1 }),
  ),
  "attention of a value with itself": (() => {
    const b = new GraphBuilder([3, 3]);
    const x = b.linear("in", 0, 4);
    const attrs = { heads: 2, kvHeads: 2, headDim: 2, causal: 1 };
    return b.build(b.linear("out", b.node("attention", [x, x, x], "", attrs), 2));
  })(),
};

/** Models whose outputs are logits, for the loss cross_entropy. */
export const LOGIT_MODELS: Readonly<Record<string, ForwardGraph>> = {
  "logits of a row": logits([3]),
  "logits of three tokens": logits([3, 3]),
};

function logits(dims: readonly number[]): ForwardGraph {
  const b = new GraphBuilder(dims);
  return b.build(b.linear("out", b.linear("in", 0, 4, true), ID_LIMIT, true));
}
