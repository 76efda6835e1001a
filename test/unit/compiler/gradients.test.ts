import { expect } from "chai";
import { trace } from "../../../compiler/compile.ts";
import { OneDevice } from "../../../compiler/interpret/run-graph.ts";
import type { ForwardGraph } from "../../../shared/graph/graph.ts";
import {
  batchValues,
  type Case,
  GraphBuilder,
  numbers,
  requestOf,
} from "../../support/compile-cases.ts";
import { MODEL_GRADIENTS } from "../../support/gradient-models.ts";
import { ATTENTION_GRADIENTS, LOGIT_MODELS } from "../../support/gradient-models-attention.ts";

/** Central differences in float64 with this step are good to about its square. */
const STEP = 1e-5;
const GRADIENT_TOL = 1e-6;

const LOSSES = ["sum", "mean", "mse"] as const;

const unary = ["silu", "relu", "gelu", "tanh", "sigmoid", "identity"] as const;

function model(build: (b: GraphBuilder, x: number) => number): ForwardGraph {
  const b = new GraphBuilder([3]);
  return b.build(b.linear("out", build(b, b.linear("in", 0, 4, true)), 2));
}

const models: Readonly<Record<string, ForwardGraph>> = {
  ...MODEL_GRADIENTS,
  ...ATTENTION_GRADIENTS,
  ...Object.fromEntries(unary.map((op) => [op, model((b, x) => b.node(op, [x], ""))])),
  mul: model((b, x) => b.node("mul", [x, b.node("silu", [x], "")], "")),
  add: model((b, x) => b.node("add", [x, b.linear("side", x, 4)], "")),
  "add of a value to itself": model((b, x) => b.node("mul", [b.node("add", [x, x], ""), x], "")),
  sub: model((b, x) => b.node("sub", [b.node("tanh", [x], ""), x], "")),
  scale: model((b, x) => b.node("scale", [x], "", { factor: -1.7 })),
};

/** Loss of one step from the given parameters, and the parameters after it. */
function step(
  c: Case,
  parameters: ReadonlyMap<string, Float64Array>,
): { loss: number; after: (name: string) => Float64Array } {
  const request = requestOf(c);
  const training = trace(request, []);
  if (training === undefined) throw new Error("does not trace");
  const device = new OneDevice(request, training, parameters);
  const batch = new Map(
    training.inputs.map(({ name, leaf }, i) => {
      const { shape, dtype } = training.graph.node(leaf).type;
      const count = shape.reduce((a, b) => a * b, 1);
      return [name, batchValues(dtype, count, 50 + i)] as const;
    }),
  );
  return { loss: device.runStep(batch).loss, after: (name) => device.parameter(name) };
}

const byLoss = [
  ...LOSSES.map((loss) => [loss, models] as const),
  ["cross_entropy", LOGIT_MODELS] as const,
];

describe("gradients", () => {
  for (const [loss, graphs] of byLoss) {
    for (const [name, graph] of Object.entries(graphs)) {
      it(`of a model with ${name} and loss ${loss} are its central differences`, () => {
        // With plain SGD at lr 1 the update is the gradient.
        const c: Case = { graph, loss, batch: 2, optimizer: { kind: "sgd", lr: 1, momentum: 0 } };
        const start = new Map(
          graph.parameters.map(
            (p, i) =>
              [
                p.name,
                numbers(
                  p.dims.reduce((a, b) => a * b, 1),
                  i + 1,
                ),
              ] as const,
          ),
        );
        const { after } = step(c, start);
        for (const [parameter, values] of start) {
          values.forEach((value, i) => {
            const moved = (by: number): number => {
              const changed = new Map(start).set(
                parameter,
                values.map((v, j) => (j === i ? v + by : v)),
              );
              return step(c, changed).loss;
            };
            const difference = (moved(STEP) - moved(-STEP)) / (2 * STEP);
            const gradient = value - (after(parameter)[i] ?? Number.NaN);
            expect(gradient, `${parameter}[${i}]`).to.be.closeTo(
              difference,
              GRADIENT_TOL * Math.max(1, Math.abs(difference)),
            );
          });
        }
      });
    }
  }
});
