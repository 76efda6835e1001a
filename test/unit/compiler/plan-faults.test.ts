import { expect } from "chai";
import { compile } from "../../../compiler/compile.ts";
import { matchesPattern } from "../../../compiler/plan/match.ts";
import { parseStyle } from "../../../compiler/plan/style.ts";
import { InvalidArgumentError } from "../../../shared/errors.ts";
import {
  type Case,
  feedForwardGraph,
  GraphBuilder,
  requestOf,
} from "../../support/compile-cases.ts";

function faultsOf(c: Case): string[] {
  try {
    compile(requestOf(c));
  } catch (error) {
    if (error instanceof InvalidArgumentError)
      return error.faults.map((f) => `${f.path}: ${f.message}`);
    throw error;
  }
  return [];
}

const graph = feedForwardGraph(48, 80);

describe("plan faults", () => {
  it("name the nearest layers for a pattern that matches none", () => {
    expect(faultsOf({ graph, tp: 2, plan: { w4: "colwise" } })[0]).to.match(
      /^plan\["w4"\]: matches no layer; nearest: "w1"/,
    );
  });

  it("name both patterns that match a layer", () => {
    const [fault] = faultsOf({ graph, tp: 2, plan: { w1: "colwise", "w?": "replicate" } });
    expect(fault).to.match(/layer "w1" is matched twice, by "w1" and "w\?"/);
  });

  it("name the nearest style", () => {
    expect(faultsOf({ graph, tp: 2, plan: { w1: "colwize" } })[0]).to.match(
      /unknown style "colwize".*did you mean "colwise"/,
    );
  });

  it("give numbers and sizes that work when features do not divide", () => {
    const faults = faultsOf({ graph, tp: 3 });
    expect(faults).to.have.length(3);
    expect(faults[0]).to.match(
      /colwise "w1": 80 out-features are not divisible by 3 ranks; use 2, 4, 5, 8, 10, 16, 20 or 40 ranks, or a multiple of 3/,
    );
    expect(faults[2]).to.match(/rowwise "w2": 80 in-features/);
  });

  it("come all at once: batch, pattern, style and size", () => {
    const faults = faultsOf({
      graph,
      dp: 2,
      tp: 3,
      batch: 7,
      plan: { w1: "colwise", nope: "rowwise", w2: "row" },
    });
    expect(faults.map((f) => f.split(":")[0])).to.have.members([
      "data.batchSize",
      'plan["nope"]',
      'plan["w2"]',
      'plan["w1"]',
    ]);
  });

  it("say what a module that only holds layers is", () => {
    const builder = new GraphBuilder([12]);
    const nested = builder.build(builder.linear("blocks.0.fc", 0, 12));
    expect(faultsOf({ graph: nested, tp: 2, plan: { "blocks.0": "colwise" } })[0]).to.match(
      /holds some; name them: blocks.0.fc/,
    );
  });

  it("name module, op and shapes of a graph that does not fit", () => {
    const bad = { ...graph, parameters: graph.parameters.map((p) => ({ ...p, dims: [80, 47] })) };
    expect(faultsOf({ graph: bad })[0]).to.match(
      /layer "w1", op linear: .*\[6, 48\] x weight \[80, 47\]/,
    );
  });

  it("count the inputs of every node", () => {
    for (const inputs of [[], [0], [0, 1, 1]]) {
      const nodes = graph.nodes.map((n, i) => (i === 0 ? { ...n, inputs } : n));
      expect(faultsOf({ graph: { ...graph, nodes } })[0]).to.match(
        new RegExp(
          `nodes\\[0\\].inputs: layer "w1", op linear: has ${inputs.length} inputs; must have 2`,
        ),
      );
    }
  });

  it("miss the factor of a scale", () => {
    const last = graph.inputs.length + graph.parameters.length + graph.nodes.length - 1;
    const nodes = [...graph.nodes, { op: "scale", inputs: [last], attrs: {}, layer: "" }];
    expect(faultsOf({ graph: { ...graph, nodes, output: last + 1 } })[0]).to.match(/"factor"/);
  });

  it("refuse attributes that an op does not take, the compiler's own among them", () => {
    for (const [name, value] of Object.entries({ zzz: 3, fromStep: 1, sequenceAxes: 3 })) {
      const nodes = graph.nodes.map((n) => ({ ...n, attrs: { [name]: value } }));
      expect(faultsOf({ graph: { ...graph, nodes } })[0]).to.match(
        new RegExp(`nodes\\[0\\].attrs: .*op linear: unknown attribute "${name}"; it takes none`),
      );
    }
  });

  it("refuse an op that is not a model's", () => {
    for (const op of ["adamw", "mean", "ceLoss", "linearDw", "constructor"]) {
      const bad = { ...graph, nodes: graph.nodes.map((n) => ({ ...n, op })) };
      expect(faultsOf({ graph: bad })[0]).to.match(/not an op that models may use/);
    }
  });
});

describe("style strings", () => {
  it("parse names and options", () => {
    expect(parseStyle(" rowwise( input=replicate , output=shard(-1) ) ")).to.deep.equal({
      name: "rowwise",
      input: { kind: "replicate" },
      output: { kind: "shard", dim: -1 },
      optional: false,
    });
  });

  for (const text of [
    "",
    "colwise(",
    "colwise(output)",
    "colwise(output=shard)",
    "colwise(in=replicate)",
    "colwise(output=replicate,output=replicate)",
    "colwise(optional=1)",
    "x".repeat(1e6),
  ]) {
    it(`refuse ${JSON.stringify(text.slice(0, 50))} with a short message`, () => {
      expect(() => parseStyle(text))
        .to.throw(InvalidArgumentError)
        .with.property("message")
        .that.has.length.below(200);
    });
  }
});

describe("layer patterns", () => {
  for (const [pattern, layer, matches] of [
    ["layers.*.w?", "layers.3.w1", true],
    ["layers.*", "layers.3.w1", false],
    ["*", "w1", true],
    ["*", "layers.0", false],
    ["w*1", "w1", true],
    ["w*1", "wab1", true],
    ["w*1", "w12", false],
    ["a.*b*c.d", "a.xbyc.d", true],
  ] as const) {
    it(`${pattern} ${matches ? "matches" : "does not match"} ${layer}`, () => {
      expect(matchesPattern(pattern, layer)).to.equal(matches);
    });
  }

  it("stay fast on hostile patterns", () => {
    expect(matchesPattern(`${"*a".repeat(2000)}b`, "a".repeat(4000))).to.equal(false);
  });
});
