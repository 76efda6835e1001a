import { add, Linear, Module, mul, type SymbolicTensor, silu, trace } from "../models/module.ts";
import type { ForwardGraph } from "../shared/graph/graph.ts";

/** x + w2(silu(w1 x) * w3 x) */
class Block extends Module {
  readonly w1: Linear;
  readonly w2: Linear;
  readonly w3: Linear;

  constructor(dim: number, hidden: number) {
    super();
    this.w1 = new Linear(dim, hidden);
    this.w2 = new Linear(hidden, dim);
    this.w3 = new Linear(dim, hidden);
  }

  override forward(x: SymbolicTensor): SymbolicTensor {
    return add(x, this.w2.call(mul(silu(this.w1.call(x)), this.w3.call(x))));
  }
}

class DeepStack extends Module {
  readonly blocks: readonly Block[];

  constructor(numBlocks: number, dim: number, hidden: number) {
    super();
    this.blocks = Array.from({ length: numBlocks }, () => new Block(dim, hidden));
  }

  override forward(x: SymbolicTensor): SymbolicTensor {
    return this.blocks.reduce((h, block) => block.call(h), x);
  }
}

/** Feed-forward blocks with residuals: three linear layers each, planned as the reference's. */
export function deepStackGraph(numBlocks: number, dim: number, hidden: number): ForwardGraph {
  const plan = { "blocks.*.w1": "colwise", "blocks.*.w3": "colwise", "blocks.*.w2": "rowwise" };
  return trace(new DeepStack(numBlocks, dim, hidden), { x: [dim] }, plan);
}
