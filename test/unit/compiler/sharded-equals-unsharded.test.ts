import { expect } from "chai";
import fc from "fast-check";
import type { ForwardGraph } from "../../../shared/graph/graph.ts";
import {
  type Case,
  compareWithOneDevice,
  feedForwardGraph,
  GraphBuilder,
} from "../../support/compile-cases.ts";

/** float64 on both sides: what is left is the order of sums, amplified by AdamW's division by small roots. */
const LOSS_TOL = 1e-9;
const UPDATE_TOL = 1e-6;

function expectEqual(c: Case): void {
  const result = compareWithOneDevice(c);
  expect(result.unmoved, "weights that did not move").to.deep.equal([]);
  expect(result.lossError, "loss").to.be.below(LOSS_TOL);
  expect(result.updateError, "update").to.be.below(UPDATE_TOL);
  expect(result.replicasEqual, "replicas bit-equal").to.equal(true);
}

const meshes = [
  [1, 2],
  [1, 4],
  [2, 1],
  [3, 1],
  [2, 2],
  [3, 2],
  [2, 4],
] as const;

describe("a program equals one device", () => {
  for (const [dp, tp] of meshes) {
    for (const sharding of dp === 1
      ? (["none"] as const)
      : (["none", "optimizer", "full"] as const)) {
      for (const exchangeFactors of dp === 1 ? [true] : [true, false]) {
        const gradients = exchangeFactors ? "factors exchanged" : "gradients reduced";
        it(`at ${dp} x ${tp}, sharding ${sharding}, ${gradients}: plain, clipped, accumulated, mse with norm`, () => {
          const base: Case = {
            graph: feedForwardGraph(12, 24, true),
            dp,
            tp,
            sharding,
            exchangeFactors,
          };
          expectEqual(base);
          expectEqual({ ...base, clip: 0.5 });
          expectEqual({ ...base, microbatches: 2, batch: 12, clip: 0.5 });
          expectEqual({ ...base, loss: "mse", norm: true });
          expectEqual({
            ...base,
            loss: "mean",
            optimizer: { kind: "sgd", lr: 0.1, momentum: 0.9 },
            clip: 0.1,
          });
        });
      }
    }
  }

  for (const plan of [
    { w1: "rowwise", w3: "rowwise", w2: "colwise" },
    {},
    { "w?": "replicate" },
    { "w*": "colwise(output=replicate)" },
    { w1: "rowwise(input=replicate)", w3: "rowwise(input=replicate)", w2: "rowwise" },
    { w1: "colwise", w3: "colwise", w2: "rowwise(output=shard(1))" },
    { w1: "colwise", w3: "rowwise" },
  ] as const) {
    it(`under the plan ${JSON.stringify(plan)} at 1 x 2, 2 x 2 and 3 x 2`, () => {
      for (const dp of [1, 2, 3]) {
        expectEqual({
          graph: feedForwardGraph(12, 24, true),
          dp,
          tp: 2,
          plan,
          sharding: dp === 2 ? "full" : "none",
        });
      }
    });
  }

  it("with more rows than an update sums per element (tiles), clipped and not", () => {
    for (const clip of [0, 0.5]) {
      expectEqual({
        graph: feedForwardGraph(12, 24),
        dp: 2,
        tp: 2,
        batch: 80,
        clip,
        sharding: "optimizer",
      });
    }
  });

  it("for random models, plans and meshes", () => {
    fc.assert(
      fc.property(randomCase(), (c) => expectEqual(c)),
      { numRuns: 150 },
    );
  });
});

const styles = [
  undefined,
  "colwise",
  "rowwise",
  "replicate",
  "colwise(output=replicate)",
  "rowwise(input=replicate)",
  "rowwise(output=shard(1))",
  "rowwise(output=shard(0))",
  "colwise(output=shard(0))",
  "colwise(input=shard(0))",
] as const;
const activations = ["silu", "relu", "gelu", "tanh", "sigmoid", "identity"] as const;

/** 1 to 5 linear layers with and without bias, mixed activations, residuals; any plan on any mesh. */
function randomCase(): fc.Arbitrary<Case> {
  const layer = fc.record({
    width: fc.constantFrom(12, 24),
    bias: fc.boolean(),
    activation: fc.constantFrom(...activations),
    residual: fc.boolean(),
    style: fc.constantFrom(...styles),
  });
  return fc
    .record({
      layers: fc.array(layer, { minLength: 1, maxLength: 5 }),
      mesh: fc.constantFrom([1, 2], [1, 3], [1, 4], [2, 1], [3, 1], [2, 2], [3, 2], [2, 3]),
      sharding: fc.constantFrom("none", "optimizer", "full"),
      exchangeFactors: fc.boolean(),
      clip: fc.constantFrom(0, 0.3),
      microbatches: fc.constantFrom(1, 2),
      loss: fc.constantFrom("sum", "mse", "mean"),
    })
    .map(({ layers, mesh: [dp = 1, tp = 1], ...rest }): Case => {
      const { graph, plan } = randomModel(layers);
      return { graph, plan, dp, tp, batch: 48, ...rest };
    });
}

function randomModel(
  layers: readonly {
    width: number;
    bias: boolean;
    activation: string;
    residual: boolean;
    style: string | undefined;
  }[],
): { graph: ForwardGraph; plan: Record<string, string> } {
  const builder = new GraphBuilder([12]);
  const plan: Record<string, string> = {};
  let x = 0;
  layers.forEach(({ width, bias, activation, residual, style }, i) => {
    const before = x;
    x = builder.node(activation, [builder.linear(`l${i}`, x, width, bias)], "");
    if (residual && before !== 0 && builder.width(before) === width)
      x = builder.node("add", [before, x], "");
    if (style !== undefined) plan[`l${i}`] = style;
  });
  return { graph: builder.build(x), plan };
}
