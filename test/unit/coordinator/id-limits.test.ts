import { expect } from "chai";
import { idLimits } from "../../../coordinator/planning/id-limits.ts";
import { mlpGraph } from "../../../models/built-in.ts";
import { llamaGraph } from "../../../models/llama.ts";
import type { ForwardGraph } from "../../../shared/graph/graph.ts";
import type { LlamaModel } from "../../../shared/job/job-spec.ts";
import { requireJobSpec } from "../../../shared/job/resolve.ts";

const uniform = { kind: "uniform", bound: 1 } as const;

/** Two tables read the same ids, one reads others. */
const GRAPH: ForwardGraph = {
  inputs: [
    { name: "ids", dtype: "int32", dims: [3] },
    { name: "others", dtype: "int32", dims: [3] },
  ],
  parameters: [
    { name: "a.weight", dims: [20, 4], init: uniform },
    { name: "b.weight", dims: [10, 4], init: uniform },
    { name: "c.weight", dims: [30, 4], init: uniform },
  ],
  nodes: [
    { op: "embedding", inputs: [0, 2], attrs: {}, layer: "a" },
    { op: "embedding", inputs: [0, 3], attrs: {}, layer: "b" },
    { op: "embedding", inputs: [1, 4], attrs: {}, layer: "c" },
    { op: "add", inputs: [5, 6], attrs: {}, layer: "" },
    { op: "add", inputs: [8, 7], attrs: {}, layer: "" },
  ],
  output: 9,
  defaultPlan: {},
};

describe("the ids that inputs may hold", () => {
  it("are the rows of the smallest table that reads them, and the classes of the output", () => {
    expect(idLimits(GRAPH, "cross_entropy")).to.deep.equal({ ids: 10, others: 30, targets: 4 });
    expect(idLimits(GRAPH, "mean")).to.deep.equal({ ids: 10, others: 30 });
  });

  it("of a classifier are its classes, and floats have none", () => {
    const graph = mlpGraph({ dims: [6, 8, 5], activation: "relu", bias: true });
    expect(idLimits(graph, "cross_entropy")).to.deep.equal({ targets: 5 });
  });

  it("of a language model are its vocabulary", () => {
    const spec = requireJobSpec({
      model: { llama: { vocab: 77, layers: 1 } },
      data: { random: { seqLen: 8 } },
    });
    const { llama } = spec.model as { readonly llama: LlamaModel };
    expect(idLimits(llamaGraph(llama, 8, "auto"), "cross_entropy")).to.deep.equal({
      tokens: 77,
      targets: 77,
    });
  });

  it("say nothing of a graph that does not fit together", () => {
    const nodes = [{ op: "linear", inputs: [2, 99], attrs: {}, layer: "" }];
    expect(idLimits({ ...GRAPH, nodes, output: 5 }, "cross_entropy")).to.deep.equal({});
    const wrong = [{ op: "embedding", inputs: [0, 0], attrs: {}, layer: "" }];
    expect(idLimits({ ...GRAPH, nodes: wrong, output: 5 }, "cross_entropy")).to.deep.equal({});
  });
});
