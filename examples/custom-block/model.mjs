// A language model of your own. Its block is none of the built-in ones: attention and feed-forward run side by side on
// one normalised input, to which every block adds positions of its own.
// Nothing here says how it is split over ranks; the plan at the end does.
import {
  add,
  addPosition,
  attention,
  Embedding,
  Linear,
  Module,
  Parameter,
  RMSNorm,
  swiglu,
} from "rankmesh";

export const SIZES = { vocab: 256, length: 64, dim: 64, heads: 4, hidden: 128, blocks: 2 };

class ParallelBlock extends Module {
  #heads;

  constructor({ length, dim, heads, hidden }) {
    super();
    this.#heads = heads;
    this.norm = new RMSNorm(dim);
    // A weight of the block's own. Its name comes from the property: `blocks.0.positions`.
    this.positions = new Parameter([length, dim], { kind: "uniform", bound: 0.02 });
    this.q = new Linear(dim, dim);
    this.k = new Linear(dim, dim);
    this.v = new Linear(dim, dim);
    this.gate = new Linear(dim, hidden);
    this.up = new Linear(dim, hidden);
    this.mixed = new Linear(dim, dim);
    this.down = new Linear(hidden, dim);
  }

  forward(x) {
    const h = addPosition(this.norm.call(x), this.positions);
    const heads = { heads: this.#heads };
    const seen = attention(this.q.call(h), this.k.call(h), this.v.call(h), heads);
    const thought = swiglu(this.gate.call(h), this.up.call(h));
    return add(x, add(this.mixed.call(seen), this.down.call(thought)));
  }
}

export default class Net extends Module {
  // Tokens are ids: a row has as many as the data's seqLen.
  static inputs = { tokens: { dims: [SIZES.length], dtype: "int32" } };

  // Layer to style: two all-reduces a block forward, one backward.
  static plan = {
    embedding: "rowwise",
    "blocks.*.q": "colwise",
    "blocks.*.k": "colwise",
    "blocks.*.v": "colwise",
    "blocks.*.gate": "colwise",
    "blocks.*.up": "colwise",
    "blocks.*.mixed": "rowwise",
    "blocks.*.down": "rowwise",
    head: "colwise",
  };

  constructor() {
    super();
    const { vocab, dim, blocks } = SIZES;
    this.embedding = new Embedding(vocab, dim);
    this.blocks = Array.from({ length: blocks }, () => new ParallelBlock(SIZES));
    this.norm = new RMSNorm(dim);
    // One weight for both ends: tokens that are alike are predicted alike.
    this.head = new Linear(dim, vocab, { weight: this.embedding.weight });
  }

  forward(tokens) {
    const h = this.blocks.reduce((x, block) => block.call(x), this.embedding.call(tokens));
    return this.head.call(this.norm.call(h));
  }
}
