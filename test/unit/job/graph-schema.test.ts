import { expect } from "chai";
import { resolveJobSpec } from "../../../shared/job/resolve.ts";

const GOOD = {
  inputs: [{ name: "x", dims: [4] }],
  parameters: [
    { name: "a.weight", dims: [3, 4], bound: 0.5 },
    { name: "b.weight", dims: [2, 3], constant: 1 },
  ],
  nodes: [
    { op: "linear", inputs: [0, 1], layer: "a" },
    { op: "linear", inputs: [3, 2], layer: "b" },
  ],
  output: 4,
};

function faultsOf(graph: unknown, loss = "sum"): string[] {
  const result = resolveJobSpec({ model: { graph }, loss, data: { stream: {} } });
  return result.ok ? [] : result.faults.map((fault) => `${fault.path}: ${fault.message}`);
}

/** The good graph with some of its keys exchanged. */
function spoilt(keys: Record<string, unknown>): unknown {
  return { ...GOOD, ...keys };
}

/** The good graph's nodes with another first one. */
function firstNode(node: object): unknown {
  return spoilt({ nodes: [node, ...GOOD.nodes.slice(1)] });
}

function firstParameter(parameter: object): unknown {
  return spoilt({ parameters: [parameter, ...GOOD.parameters.slice(1)] });
}

describe("a graph from outside", () => {
  it("becomes a ForwardGraph with its defaults", () => {
    const result = resolveJobSpec({ model: { graph: GOOD }, data: { stream: {} } });
    if (!result.ok) throw new Error(JSON.stringify(result.faults));
    expect(result.spec.model).to.deep.equal({
      graph: {
        inputs: [{ name: "x", dtype: "float32", dims: [4] }],
        parameters: [
          { name: "a.weight", dims: [3, 4], init: { kind: "uniform", bound: 0.5 } },
          { name: "b.weight", dims: [2, 3], init: { kind: "constant", value: 1 } },
        ],
        nodes: [
          { op: "linear", inputs: [0, 1], attrs: {}, layer: "a" },
          { op: "linear", inputs: [3, 2], attrs: {}, layer: "b" },
        ],
        output: 4,
        defaultPlan: {},
      },
    });
  });

  const cases: readonly [string, unknown, string][] = [
    [
      "a node that takes its own value",
      firstNode({ op: "silu", inputs: [3], layer: "a" }),
      "model.graph.nodes[0].inputs[0]: is value 3; node 0 makes value 3 and takes only earlier ones",
    ],
    [
      "a node that takes a later value",
      firstNode({ op: "silu", inputs: [4], layer: "a" }),
      "model.graph.nodes[0].inputs[0]: is value 4; node 0 makes value 3 and takes only earlier ones",
    ],
    [
      "a negative value number",
      firstNode({ op: "silu", inputs: [-1], layer: "a" }),
      "model.graph.nodes[0].inputs[0]: is -1; must be an integer at least 0",
    ],
    [
      "an output outside the graph",
      spoilt({ output: 5 }),
      "model.graph.output: is value 5; the graph has values 0 to 4",
    ],
    [
      "two parameters of one name",
      spoilt({ parameters: [GOOD.parameters[0], { name: "a.weight", dims: [1], bound: 1 }] }),
      "model.graph.parameters[1].name: is the name of entry 0 too; names must be unique",
    ],
    [
      "a dim of 0",
      spoilt({ inputs: [{ name: "x", dims: [0] }] }),
      "model.graph.inputs[0].dims[0]: is 0; must be an integer at least 1",
    ],
    [
      "a parameter too large for any device",
      firstParameter({ name: "w", dims: [2 ** 24, 2 ** 24], bound: 1 }),
      "model.graph.parameters[0].dims: [16777216, 16777216] has 281474976710656 elements; at most 1099511627776",
    ],
    [
      "a row too large for any batch",
      spoilt({ inputs: [{ name: "x", dims: [2 ** 20, 2 ** 20] }] }),
      "model.graph.inputs[0].dims: [1048576, 1048576] has 1099511627776 elements a row; at most 16777216",
    ],
    [
      "a parameter that starts as nothing",
      firstParameter({ name: "w", dims: [1] }),
      "model.graph.parameters[0]: must say how it starts with exactly one of bound (uniform on [-bound, bound)) and constant",
    ],
    [
      "an infinite attribute",
      firstNode({
        op: "scale",
        inputs: [0],
        attrs: { factor: Infinity },
      }),
      'model.graph.nodes[0].attrs["factor"]: is Infinity; must be a finite number',
    ],
    [
      "an unknown dtype",
      spoilt({ inputs: [{ name: "x", dtype: "float16" }] }),
      'model.graph.inputs[0].dtype: "float16" is unknown; must be one of float32, int32',
    ],
    [
      "no inputs",
      spoilt({ inputs: [] }),
      "model.graph.inputs: has 0 entries; must be a list of 1 to 64 inputs",
    ],
    [
      "an unknown key",
      spoilt({ ouput: 3 }),
      'model.graph.ouput: unknown key; did you mean "output"?',
    ],
  ];
  for (const [what, graph, fault] of cases) {
    it(`is refused for ${what}`, () => {
      const faults = faultsOf(graph);
      expect(faults).to.have.length(1);
      expect(faults[0]?.slice(0, fault.length)).to.equal(fault);
    });
  }

  it("is refused for an input named as the target of mse, with that loss only", () => {
    const graph = spoilt({ inputs: [{ name: "y", dims: [4] }] });
    expect(faultsOf(graph)).to.deep.equal([]);
    expect(faultsOf(graph, "mse")).to.deep.equal([
      'model.graph.inputs[0].name: "y" is the name of the target that loss mse adds; give the input another name',
    ]);
  });
});
