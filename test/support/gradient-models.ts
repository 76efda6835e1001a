// Small models with embeddings, norms, gates, dropout and views, whose gradients are checked by differences.
import type { ForwardGraph } from "../../shared/graph/graph.ts";
import { GraphBuilder, ID_LIMIT } from "./compile-cases.ts";

const eps = { eps: 0.1 };

/** A linear layer, what is checked on its 4 features, and one more layer. */
function between(build: (b: GraphBuilder, x: number) => number, dims = [3]): ForwardGraph {
  const b = new GraphBuilder(dims);
  return b.build(b.linear("out", build(b, b.linear("in", 0, 4, true)), 2));
}

/** Tokens [B, 3], embedded in 4 features. */
function ofTokens(build: (b: GraphBuilder, x: number) => number): ForwardGraph {
  const b = new GraphBuilder([3], "int32");
  const table = b.parameter("table", ID_LIMIT, 4);
  const x = b.node("embedding", [0, table], "embedding", {}, 4);
  return b.build(b.linear("out", build(b, x), 2));
}

export const MODEL_GRADIENTS: Readonly<Record<string, ForwardGraph>> = {
  geluTanh: between((b, x) => b.node("geluTanh", [x], "")),
  embedding: ofTokens((b, x) => b.node("silu", [x], "")),
  "a table that is embedded twice": (() => {
    const b = new GraphBuilder([3], "int32");
    const table = b.parameter("table", ID_LIMIT, 4);
    const x = b.node("embedding", [0, table], "first", {}, 4);
    const y = b.node("mul", [x, b.node("embedding", [0, table], "second", {}, 4)], "");
    return b.build(b.linear("out", y, 2));
  })(),
  addPosition: ofTokens((b, x) =>
    b.node("silu", [b.node("addPosition", [x, b.parameter("positions", 5, 4)], "")], ""),
  ),
  rmsNorm: between((b, x) => b.node("rmsNorm", [x, b.parameter("gain", 4)], "norm", eps)),
  layerNorm: between((b, x) =>
    b.node("layerNorm", [x, b.parameter("gain", 4), b.parameter("shift", 4)], "norm", eps),
  ),
  swiglu: between((b, x) => b.node("swiglu", [x, b.linear("up", x, 4)], "")),
  "swiglu of a value with itself": between((b, x) => b.node("swiglu", [x, x], "")),
  dropout: between((b, x) =>
    b.node("dropout", [x], "", { rate: 0.4, nameLow: 5, nameHigh: 6, seedLow: 7, seedHigh: 8 }),
  ),
  "dropout at rate 0": between((b, x) =>
    b.node("dropout", [x], "", { rate: 0, nameLow: 5, nameHigh: 6 }),
  ),
  "reshape and transpose": between(
    (b, x) => {
      // [B, 3, 4] -> [B, 3, 2, 2] -> [B, 2, 3, 2] -> [B, 2, 6]
      const heads = b.node("reshape", [x], "", { rank: 4, d1: 3, d2: 2, d3: 2 }, 2);
      const turned = b.node("transpose", [heads], "", { a: 1, b: 2 });
      const positions = b.parameter("positions", 2, 6);
      const flat = b.node("reshape", [turned], "", { rank: 3, d1: 2, d2: 6 }, 6);
      return b.node("silu", [b.node("addPosition", [flat, positions], "")], "");
    },
    [3, 3],
  ),
};
