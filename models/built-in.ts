import type { ForwardGraph } from "../shared/graph/graph.ts";
import type { Activation, FeedForwardModel, MlpModel } from "../shared/job/job-spec.ts";
import {
  gelu,
  Linear,
  Module,
  mul,
  relu,
  type SymbolicTensor,
  sigmoid,
  silu,
  tanh,
  trace,
} from "./module.ts";

/** w2(silu(w1 x) * w3 x), the feed-forward block of the reference documentation. */
class FeedForward extends Module {
  readonly w1: Linear;
  readonly w2: Linear;
  readonly w3: Linear;

  constructor({ dim, hidden }: FeedForwardModel) {
    super();
    this.w1 = new Linear(dim, hidden);
    this.w2 = new Linear(hidden, dim);
    this.w3 = new Linear(dim, hidden);
  }

  override forward(x: SymbolicTensor): SymbolicTensor {
    return this.w2.call(mul(silu(this.w1.call(x)), this.w3.call(x)));
  }
}

const activations: Readonly<Record<Activation, (x: SymbolicTensor) => SymbolicTensor>> = {
  silu,
  relu,
  gelu,
  tanh,
  sigmoid,
};

/** Linear layers with an activation between them. */
class Mlp extends Module {
  readonly layers: readonly Linear[];
  readonly #activation: (x: SymbolicTensor) => SymbolicTensor;

  constructor({ dims, activation, bias }: MlpModel) {
    super();
    this.layers = dims.slice(1).map((out, i) => new Linear(dims[i] ?? 0, out, { bias }));
    this.#activation = activations[activation];
  }

  override forward(x: SymbolicTensor): SymbolicTensor {
    return this.layers.reduce((h, layer, i) => layer.call(i === 0 ? h : this.#activation(h)), x);
  }
}

/** Column-wise in, row-wise out: one all-reduce puts the result together. */
export function feedForwardGraph(model: FeedForwardModel): ForwardGraph {
  return trace(
    new FeedForward(model),
    { x: [model.dim] },
    { w1: "colwise", w3: "colwise", w2: "rowwise" },
  );
}

/** Column-wise and row-wise in turn; an odd last layer stays whole. */
export function mlpGraph(model: MlpModel): ForwardGraph {
  const layers = model.dims.length - 1;
  const plan: Record<string, string> = {};
  for (let i = 0; i + 1 < layers; i += 2) {
    plan[`layers.${i}`] = "colwise";
    plan[`layers.${i + 1}`] = "rowwise";
  }
  return trace(new Mlp(model), { x: [model.dims[0] ?? 0] }, plan);
}
