import { expect } from "chai";
import {
  add,
  addPosition,
  attention,
  Dropout,
  Embedding,
  gelu,
  geluTanh,
  type InputDims,
  LayerNorm,
  Linear,
  linear,
  Module,
  Parameter,
  PositionEmbedding,
  RMSNorm,
  reshape,
  rope,
  type SymbolicTensor,
  swiglu,
  trace,
  transpose,
} from "../../../models/module.ts";
import { InvalidArgumentError } from "../../../shared/errors.ts";
import type { ForwardGraph } from "../../../shared/graph/graph.ts";

const TOKENS: InputDims = { tokens: { dims: [6], dtype: "int32" } };

/** A model of one forward and the given layers. */
function modelOf(
  layers: Readonly<Record<string, unknown>>,
  forward: (...inputs: SymbolicTensor[]) => SymbolicTensor,
): Module {
  class Model extends Module {
    override forward(...inputs: SymbolicTensor[]): SymbolicTensor {
      return forward(...inputs);
    }
  }
  return Object.assign(new Model(), layers);
}

function graphOf(
  layers: Readonly<Record<string, unknown>>,
  forward: (...inputs: SymbolicTensor[]) => SymbolicTensor,
  inputs: InputDims = { x: [6, 8] },
): ForwardGraph {
  return trace(modelOf(layers, forward), inputs);
}

/** Dims of what `forward` gives for x [batch, 6, 8]. */
function dimsOf(forward: (x: SymbolicTensor) => SymbolicTensor): readonly number[] {
  let dims: readonly number[] = [];
  graphOf({ scale: new RMSNorm(8) }, (x = fail()) => {
    const y = forward(x);
    dims = y.dims;
    return y;
  });
  return dims;
}

function fail(): never {
  throw new Error("the model got no input");
}

describe("modules for sequences", () => {
  it("take ids as int32 and give numbers", () => {
    const emb = new Embedding(10, 4);
    let seen: readonly string[] = [];
    const graph = graphOf(
      { emb },
      (tokens = fail()) => {
        const y = emb.call(tokens);
        seen = [tokens.dtype, y.dtype];
        return y;
      },
      TOKENS,
    );
    expect(seen).to.deep.equal(["int32", "float32"]);
    expect(graph.inputs).to.deep.equal([{ name: "tokens", dtype: "int32", dims: [6] }]);
    expect(graph.parameters).to.deep.equal([
      { name: "emb.weight", dims: [10, 4], init: { kind: "uniform", bound: 0.5 } },
    ]);
    expect(graph.nodes).to.deep.equal([
      { op: "embedding", inputs: [0, 1], attrs: {}, layer: "emb" },
    ]);
  });

  it("start norms as the identity", () => {
    const [rms, ln] = [new RMSNorm(8, { eps: 1e-6 }), new LayerNorm(8)];
    const graph = graphOf({ rms, ln }, (x = fail()) => ln.call(rms.call(x)));
    expect(graph.parameters).to.deep.equal([
      { name: "rms.weight", dims: [8], init: { kind: "constant", value: 1 } },
      { name: "ln.weight", dims: [8], init: { kind: "constant", value: 1 } },
      { name: "ln.bias", dims: [8], init: { kind: "constant", value: 0 } },
    ]);
    expect(graph.nodes).to.deep.equal([
      { op: "rmsNorm", inputs: [0, 1], attrs: { eps: 1e-6 }, layer: "rms" },
      { op: "layerNorm", inputs: [4, 2, 3], attrs: { eps: 1e-5 }, layer: "ln" },
    ]);
  });

  it("add positions to fewer tokens than there are positions, and not to more", () => {
    const wpe = new PositionEmbedding(9, 8);
    expect(graphOf({ wpe }, (x = fail()) => wpe.call(x)).parameters).to.deep.equal([
      { name: "wpe.weight", dims: [9, 8], init: { kind: "uniform", bound: 1 / Math.sqrt(8) } },
    ]);
    const short = new PositionEmbedding(5, 8);
    expect(() => graphOf({ short }, (x = fail()) => short.call(x))).to.throw(
      InvalidArgumentError,
      /layer "short", op addPosition: operands \[batch, 6, 8\] and \[5, 8\]: /,
    );
  });

  it("hold a shared weight once, under the name that comes first", () => {
    const emb = new Embedding(10, 8);
    const head = new Linear(8, 10, { weight: emb.weight });
    const graph = graphOf({ emb, head }, (tokens = fail()) => head.call(emb.call(tokens)), TOKENS);
    expect(graph.parameters.map(({ name }) => name)).to.deep.equal(["emb.weight"]);
    expect(graph.nodes.map(({ op, inputs, layer }) => [op, inputs, layer])).to.deep.equal([
      ["embedding", [0, 1], "emb"],
      ["linear", [2, 1], "head"],
    ]);
    const reversed = graphOf(
      { head, emb },
      (tokens = fail()) => head.call(emb.call(tokens)),
      TOKENS,
    );
    expect(reversed.parameters.map(({ name }) => name)).to.deep.equal(["head.weight"]);
  });

  it("refuse to share a weight of other dims", () => {
    const emb = new Embedding(10, 8);
    expect(() => new Linear(8, 12, { weight: emb.weight })).to.throw(
      InvalidArgumentError,
      "Linear: the shared weight is [10, 8], but the layer's is [12, 8]",
    );
    expect(() => new Linear(8, 12, { weight: emb as unknown as Parameter })).to.throw(
      InvalidArgumentError,
      "Linear: weight must be a Parameter to share, got a module (call it: Embedding.call(x))",
    );
  });

  it("run ops on parameters of a block's own", () => {
    const block = {
      mix: new Parameter([8, 8], { kind: "uniform", bound: 0.1 }),
      shift: new Parameter([8], { kind: "constant", value: 0 }),
      places: new Parameter([6, 8], { kind: "constant", value: 0 }),
    };
    const graph = graphOf(block, (x = fail()) =>
      addPosition(linear(x, block.mix, block.shift), block.places),
    );
    expect(graph.parameters.map(({ name }) => name)).to.deep.equal(["mix", "shift", "places"]);
    expect(graph.nodes.map(({ op }) => op)).to.deep.equal(["linear", "bias", "addPosition"]);
  });

  it("draw other random numbers in every dropout and every call of one", () => {
    const [first, second] = [new Dropout(0.5), new Dropout(0.25)];
    const forward = (x: SymbolicTensor = fail()) =>
      second.call(first.call(second.call(first.call(x))));
    const graph = graphOf({ first, second }, forward);
    const names = graph.nodes.map(({ attrs }) => `${attrs["nameLow"]}:${attrs["nameHigh"]}`);
    expect(new Set(names).size).to.equal(4);
    expect(graph.nodes.map(({ attrs }) => attrs["rate"])).to.deep.equal([0.5, 0.25, 0.5, 0.25]);
    expect(graphOf({ first, second }, forward), "traced again").to.deep.equal(graph);
    for (const { attrs } of graph.nodes) {
      for (const word of [attrs["nameLow"], attrs["nameHigh"]]) {
        expect(word).to.satisfy((w: number) => Number.isInteger(w) && w >= 0 && w < 2 ** 32);
      }
    }
  });

  it("refuse a tensor kept from another trace, wherever it comes in", () => {
    let old: SymbolicTensor | undefined;
    const inner = new Linear(8, 8);
    graphOf({ inner }, (x = fail()) => {
      old = x;
      return inner.call(x);
    });
    const foreign = "a tensor of another model or trace";
    for (const [forward, message] of [
      [() => old ?? fail(), `forward must return a tensor of its own, got ${foreign}`],
      [() => gelu(old ?? fail()), `model, op gelu: ${foreign}`],
      [() => inner.call(old ?? fail()), `Linear.call: ${foreign}`],
    ] as const) {
      expect(() => graphOf({ inner }, forward)).to.throw(InvalidArgumentError, message);
    }
  });

  it("leave a dropout of rate 0 out", () => {
    const [none, rms] = [new Dropout(0), new RMSNorm(8)];
    const graph = graphOf({ none, rms }, (x = fail()) => none.call(rms.call(x)));
    expect(graph.nodes.map(({ op }) => op)).to.deep.equal(["rmsNorm"]);
  });

  for (const [what, make, message] of [
    ["a dropout rate of 1", () => new Dropout(1), "rate must be at least 0 and below 1, got 1"],
    ["a dropout rate of NaN", () => new Dropout(NaN), "got NaN"],
    ["an eps of 0", () => new RMSNorm(8, { eps: 0 }), "RMSNorm: eps must be a number above 0"],
    ["no features", () => new LayerNorm(0), "features must be a positive integer, got 0"],
    ["half a row", () => new Embedding(1.5, 2), "rows must be a positive integer, got 1.5"],
    [
      "a parameter of dim -1",
      () => new Parameter([-1], { kind: "constant", value: 0 }),
      "Parameter: every dim must be a positive integer, got -1",
    ],
    [
      "a parameter of no known init",
      () => new Parameter([1], { kind: "normal" } as unknown as { kind: "constant"; value: 0 }),
      'Parameter: init.kind must be "uniform" or "constant", got normal',
    ],
    [
      "a parameter with a NaN bound",
      () => new Parameter([1], { kind: "uniform", bound: NaN }),
      "Parameter: uniform init needs a finite bound, at least 0, got NaN",
    ],
  ] as const) {
    it(`refuse ${what}`, () => {
      expect(make).to.throw(InvalidArgumentError, message);
    });
  }
});

describe("functions for sequences", () => {
  it("keep the dims of what they rotate, gate or mix", () => {
    expect(dimsOf((x) => rope(x, { headDim: 4 }))).to.deep.equal([6, 8]);
    expect(dimsOf((x) => swiglu(x, x))).to.deep.equal([6, 8]);
    expect(dimsOf((x) => geluTanh(x))).to.deep.equal([6, 8]);
    expect(dimsOf((x) => attention(x, x, x, { heads: 2 }))).to.deep.equal([6, 8]);
  });

  it("write down what an op needs to know", () => {
    const scaling = { factor: 8, lowFrequency: 1, highFrequency: 4, originalLength: 8192 };
    const kv = new Linear(8, 4);
    const graph = graphOf({ kv }, (x = fail()) =>
      attention(rope(x, { headDim: 4, theta: 100, scaling }), kv.call(x), kv.call(x), {
        heads: 2,
        kvHeads: 1,
      }),
    );
    expect(graph.nodes[0]?.attrs).to.deep.equal({
      headDim: 4,
      theta: 100,
      inverse: 0,
      ...scaling,
    });
    expect(graph.nodes[3]?.attrs).to.deep.equal({ heads: 2, kvHeads: 1, headDim: 4, causal: 1 });
  });

  it("reshape and transpose all but the batch", () => {
    expect(dimsOf((x) => reshape(x, [6, 2, 4]))).to.deep.equal([6, 2, 4]);
    expect(dimsOf((x) => reshape(x, [-1]))).to.deep.equal([48]);
    expect(dimsOf((x) => reshape(x, [3, -1, 2]))).to.deep.equal([3, 8, 2]);
    expect(dimsOf((x) => transpose(x, 1, 2))).to.deep.equal([8, 6]);
    expect(dimsOf((x) => transpose(reshape(x, [6, 2, 4]), -2, 1))).to.deep.equal([2, 6, 4]);
    expect(dimsOf((x) => add(transpose(x, 1, 1), x))).to.deep.equal([6, 8]);
  });

  const wrong: readonly [string, (x: SymbolicTensor) => SymbolicTensor, string][] = [
    [
      "a reshape that loses numbers",
      (x) => reshape(x, [6, 7]),
      "reshape: [batch, 6, 8] to [batch, 6, 7]: 48 numbers a row do not fit; the batch stays as it is",
    ],
    ["a reshape with two open dims", (x) => reshape(x, [-1, -1]), "more than one dim open"],
    ["a reshape that does not divide", (x) => reshape(x, [5, -1]), "48 numbers a row do not fit"],
    ["a reshape to 0", (x) => reshape(x, [0, -1]), "every dim must be a positive integer, got 0"],
    [
      "a transpose of the batch",
      (x) => transpose(x, 0, 1),
      "transpose: dim 0 of [batch, 6, 8] can't be swapped; use 1 to 2",
    ],
    ["a transpose past the end", (x) => transpose(x, 1, 3), "dim 3 of [batch, 6, 8]"],
    [
      "heads that do not divide the features",
      (x) => attention(x, x, x, { heads: 3 }),
      "attention: 8 features of q are no whole 3 heads",
    ],
    [
      "keys of another width",
      (x) => attention(x, x, x, { heads: 4, kvHeads: 2 }),
      "model, op attention: operands [batch, 6, 8] and [batch, 6, 8] and [batch, 6, 8]: ",
    ],
    ["an odd head", (x) => rope(x, { headDim: 1 }), "model, op rope: operands [batch, 6, 8]: "],
    ["no head", (x) => rope(x, { headDim: 0 }), "rope: headDim must be a positive integer, got 0"],
    ["no tensor", () => swiglu(3 as never, 4 as never), "swiglu: expected a tensor, got 3"],
  ];
  for (const [what, forward, message] of wrong) {
    it(`name module and op for ${what}`, () => {
      expect(() => dimsOf(forward)).to.throw(InvalidArgumentError, message);
    });
  }

  it("say that ids are no numbers to compute with", () => {
    const head = new Linear(6, 2);
    expect(() => graphOf({ head }, (tokens = fail()) => head.call(tokens), TOKENS)).to.throw(
      InvalidArgumentError,
      'layer "head", op linear: operands int32 [batch, 6] and [2, 6]: ',
    );
  });
});
