import type { ForwardGraph } from "../shared/graph/graph.ts";
import type { LlamaModel } from "../shared/job/job-spec.ts";
import {
  add,
  attention,
  Dropout,
  Embedding,
  Linear,
  Module,
  RMSNorm,
  rope,
  type SymbolicTensor,
  swiglu,
  trace,
} from "./module.ts";
import { type SequenceParallel, sequenceStyles } from "./sequence-parallel.ts";

// Names of modules and parameters are those of Meta's Llama 3.

/** Causal grouped-query attention on rotated queries and keys. */
class Attention extends Module {
  readonly wq: Linear;
  readonly wk: Linear;
  readonly wv: Linear;
  readonly wo: Linear;
  readonly #model: LlamaModel;

  constructor(model: LlamaModel) {
    super();
    const { dim, heads, kvHeads } = model;
    const kvDim = (dim / heads) * kvHeads;
    this.wq = new Linear(dim, dim);
    this.wk = new Linear(dim, kvDim);
    this.wv = new Linear(dim, kvDim);
    this.wo = new Linear(dim, dim);
    this.#model = model;
  }

  override forward(x: SymbolicTensor): SymbolicTensor {
    const { dim, heads, kvHeads, ropeTheta, ropeScaling } = this.#model;
    const rotation = { headDim: dim / heads, theta: ropeTheta, scaling: ropeScaling };
    const q = rope(this.wq.call(x), rotation);
    const k = rope(this.wk.call(x), rotation);
    return this.wo.call(attention(q, k, this.wv.call(x), { heads, kvHeads }));
  }
}

/** w2(silu(w1 x) * w3 x). */
class FeedForward extends Module {
  readonly w1: Linear;
  readonly w2: Linear;
  readonly w3: Linear;

  constructor({ dim, hidden }: LlamaModel) {
    super();
    this.w1 = new Linear(dim, hidden);
    this.w2 = new Linear(hidden, dim);
    this.w3 = new Linear(dim, hidden);
  }

  override forward(x: SymbolicTensor): SymbolicTensor {
    return this.w2.call(swiglu(this.w1.call(x), this.w3.call(x)));
  }
}

class Block extends Module {
  readonly attention: Attention;
  readonly feed_forward: FeedForward;
  readonly attention_norm: RMSNorm;
  readonly ffn_norm: RMSNorm;
  readonly attention_dropout: Dropout;
  readonly ffn_dropout: Dropout;

  constructor(model: LlamaModel) {
    super();
    this.attention = new Attention(model);
    this.feed_forward = new FeedForward(model);
    this.attention_norm = new RMSNorm(model.dim, { eps: model.normEps });
    this.ffn_norm = new RMSNorm(model.dim, { eps: model.normEps });
    this.attention_dropout = new Dropout(model.dropout);
    this.ffn_dropout = new Dropout(model.dropout);
  }

  override forward(x: SymbolicTensor): SymbolicTensor {
    const attended = this.attention.call(this.attention_norm.call(x));
    const h = add(x, this.attention_dropout.call(attended));
    const fed = this.feed_forward.call(this.ffn_norm.call(h));
    return add(h, this.ffn_dropout.call(fed));
  }
}

/** Logits [batch, tokens, vocab] of the next token, from int32 tokens [batch, tokens]. */
class Llama extends Module {
  readonly tok_embeddings: Embedding;
  readonly layers: readonly Block[];
  readonly norm: RMSNorm;
  readonly output: Linear;

  constructor(model: LlamaModel) {
    super();
    const { dim, vocab, layers, normEps, tied } = model;
    this.tok_embeddings = new Embedding(vocab, dim);
    this.layers = Array.from({ length: layers }, () => new Block(model));
    this.norm = new RMSNorm(dim, { eps: normEps });
    const shared = tied ? { weight: this.tok_embeddings.weight } : {};
    this.output = new Linear(dim, vocab, shared);
  }

  override forward(tokens: SymbolicTensor): SymbolicTensor {
    const h = this.layers.reduce(
      (value, block) => block.call(value),
      this.tok_embeddings.call(tokens),
    );
    return this.output.call(this.norm.call(h));
  }
}

/**
 * Llama 3 for sequences of `seqLen` tokens. Its plan is that of the reference documentation: the vocabulary split over
 * the ranks at both ends, column-wise then row-wise inside, two reductions a block and direction.
 */
export function llamaGraph(
  model: LlamaModel,
  seqLen: number,
  sequenceParallel: SequenceParallel,
): ForwardGraph {
  const inputs = { tokens: { dims: [seqLen], dtype: "int32" } } as const;
  return trace(new Llama(model), inputs, llamaPlan(sequenceParallel));
}

function llamaPlan(sequenceParallel: SequenceParallel): Record<string, string> {
  const { embedding, rowwise, norm } = sequenceStyles(sequenceParallel);
  return {
    tok_embeddings: embedding,
    ...norm("layers.*.attention_norm"),
    "layers.*.attention.wq": "colwise",
    "layers.*.attention.wk": "colwise",
    "layers.*.attention.wv": "colwise",
    "layers.*.attention.wo": rowwise,
    ...norm("layers.*.ffn_norm"),
    "layers.*.feed_forward.w1": "colwise",
    "layers.*.feed_forward.w3": "colwise",
    "layers.*.feed_forward.w2": rowwise,
    ...norm("norm"),
    output: "colwise(optional)",
  };
}
