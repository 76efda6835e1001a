import type { ForwardGraph } from "../shared/graph/graph.ts";
import type { Gpt2Model } from "../shared/job/job-spec.ts";
import {
  add,
  attention,
  Dropout,
  Embedding,
  geluTanh,
  LayerNorm,
  Linear,
  Module,
  PositionEmbedding,
  type SymbolicTensor,
  trace,
} from "./module.ts";
import { type SequenceParallel, sequenceStyles } from "./sequence-parallel.ts";

// Names are Hugging Face's, but that q, k and v are layers of their own there and all weights are [out, in].

class Attention extends Module {
  readonly q: Linear;
  readonly k: Linear;
  readonly v: Linear;
  readonly proj: Linear;
  readonly #heads: number;

  constructor({ dim, heads }: Gpt2Model) {
    super();
    this.q = new Linear(dim, dim, { bias: true });
    this.k = new Linear(dim, dim, { bias: true });
    this.v = new Linear(dim, dim, { bias: true });
    this.proj = new Linear(dim, dim, { bias: true });
    this.#heads = heads;
  }

  override forward(x: SymbolicTensor): SymbolicTensor {
    const mixed = attention(this.q.call(x), this.k.call(x), this.v.call(x), { heads: this.#heads });
    return this.proj.call(mixed);
  }
}

class Mlp extends Module {
  readonly fc: Linear;
  readonly proj: Linear;

  constructor({ dim }: Gpt2Model) {
    super();
    this.fc = new Linear(dim, 4 * dim, { bias: true });
    this.proj = new Linear(4 * dim, dim, { bias: true });
  }

  override forward(x: SymbolicTensor): SymbolicTensor {
    return this.proj.call(geluTanh(this.fc.call(x)));
  }
}

class Block extends Module {
  readonly ln_1: LayerNorm;
  readonly attn: Attention;
  readonly ln_2: LayerNorm;
  readonly mlp: Mlp;
  readonly attn_dropout: Dropout;
  readonly mlp_dropout: Dropout;

  constructor(model: Gpt2Model) {
    super();
    this.ln_1 = new LayerNorm(model.dim, { eps: model.normEps });
    this.attn = new Attention(model);
    this.ln_2 = new LayerNorm(model.dim, { eps: model.normEps });
    this.mlp = new Mlp(model);
    this.attn_dropout = new Dropout(model.dropout);
    this.mlp_dropout = new Dropout(model.dropout);
  }

  override forward(x: SymbolicTensor): SymbolicTensor {
    const h = add(x, this.attn_dropout.call(this.attn.call(this.ln_1.call(x))));
    return add(h, this.mlp_dropout.call(this.mlp.call(this.ln_2.call(h))));
  }
}

/** Logits [batch, tokens, vocab] of the next token, from int32 tokens [batch, tokens]. */
class Gpt2 extends Module {
  readonly wte: Embedding;
  readonly wpe: PositionEmbedding;
  readonly dropout: Dropout;
  readonly h: readonly Block[];
  readonly ln_f: LayerNorm;
  readonly lm_head: Linear;

  constructor(model: Gpt2Model) {
    super();
    const { dim, vocab, contextLength, layers, dropout, normEps, tied } = model;
    this.wte = new Embedding(vocab, dim);
    this.wpe = new PositionEmbedding(contextLength, dim);
    this.dropout = new Dropout(dropout);
    this.h = Array.from({ length: layers }, () => new Block(model));
    this.ln_f = new LayerNorm(dim, { eps: normEps });
    this.lm_head = new Linear(dim, vocab, tied ? { weight: this.wte.weight } : {});
  }

  override forward(tokens: SymbolicTensor): SymbolicTensor {
    const embedded = this.dropout.call(this.wpe.call(this.wte.call(tokens)));
    const h = this.h.reduce((value, block) => block.call(value), embedded);
    return this.lm_head.call(this.ln_f.call(h));
  }
}

/** GPT-2 for sequences of `seqLen` tokens, at most its context. Its plan is Llama's: see `llamaGraph`. */
export function gpt2Graph(
  model: Gpt2Model,
  seqLen: number,
  sequenceParallel: SequenceParallel,
): ForwardGraph {
  const inputs = { tokens: { dims: [seqLen], dtype: "int32" } } as const;
  return trace(new Gpt2(model), inputs, gpt2Plan(sequenceParallel));
}

function gpt2Plan(sequenceParallel: SequenceParallel): Record<string, string> {
  const { embedding, rowwise, norm } = sequenceStyles(sequenceParallel);
  return {
    wte: embedding,
    ...norm("wpe"),
    ...norm("h.*.ln_1"),
    "h.*.attn.q": "colwise",
    "h.*.attn.k": "colwise",
    "h.*.attn.v": "colwise",
    "h.*.attn.proj": rowwise,
    ...norm("h.*.ln_2"),
    "h.*.mlp.fc": "colwise",
    "h.*.mlp.proj": rowwise,
    ...norm("ln_f"),
    lm_head: "colwise(optional)",
  };
}
