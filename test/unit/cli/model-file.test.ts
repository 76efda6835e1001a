import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import { traceModelFile } from "../../../cli/model-file.ts";
import { InvalidArgumentError } from "../../../shared/errors.ts";
import { caught } from "../../support/caught.ts";
import { fixturePath } from "../../support/fixtures.ts";

const NET = `
import { Linear, Module, silu } from "rankmesh";
class Net extends Module {
  constructor(width = 8) {
    super();
    this.up = new Linear(4, width, { bias: true });
    this.down = new Linear(width, 4);
  }
  forward(x) {
    return this.down.call(silu(this.up.call(x)));
  }
}
`;

const LANGUAGE = `
import { Embedding, Linear, Module, RMSNorm } from "rankmesh";
class Net extends Module {
  constructor() {
    super();
    this.emb = new Embedding(10, 8);
    this.norm = new RMSNorm(8);
    this.head = new Linear(8, 10, { weight: this.emb.weight });
  }
  forward(tokens) {
    return this.head.call(this.norm.call(this.emb.call(tokens)));
  }
}
`;

/** Two rows of three tokens and their targets. */
function tokensFile(): Uint8Array {
  const tensor = (begin: number) => ({
    dtype: "I32",
    shape: [2, 3],
    data_offsets: [begin, begin + 24],
  });
  const header = Buffer.from(JSON.stringify({ tokens: tensor(0), targets: tensor(24) }));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(header.length));
  return Buffer.concat([length, header, Buffer.alloc(48)]);
}

describe("model files", () => {
  let folder = "";
  let count = 0;
  before(async () => {
    // Outside the checkout, with no node_modules above it.
    folder = await mkdtemp(join(tmpdir(), "rankmesh-model-"));
  });
  after(() => rm(folder, { recursive: true, force: true }));

  async function load(source: string, spec: Record<string, unknown> = {}) {
    count += 1;
    const path = join(folder, `model-${count}.mjs`);
    await writeFile(path, source);
    return traceModelFile(path, spec, folder);
  }

  for (const [what, source] of [
    ["a class with static inputs", `${NET} Net.inputs = { x: [4] }; export default Net;`],
    [
      "an instance with inputs",
      `${NET} const net = new Net(); net.inputs = { x: [4] }; export default net;`,
    ],
    ["a function", `${NET} Net.inputs = { x: [4] }; export default () => new Net(8);`],
    ["an async function", `${NET} Net.inputs = { x: [4] }; export default async () => new Net(8);`],
  ] as const) {
    it(`traces ${what}`, async () => {
      const graph = await load(source);
      expect(graph.parameters.map((p) => [p.name, p.dims])).to.deep.equal([
        ["up.weight", [8, 4]],
        ["up.bias", [8]],
        ["down.weight", [4, 8]],
      ]);
      expect(graph.nodes.map((n) => `${n.layer}:${n.op}`)).to.deep.equal([
        "up:linear",
        "up:bias",
        ":silu",
        "down:linear",
      ]);
      expect(graph.inputs).to.deep.equal([{ name: "x", dtype: "float32", dims: [4] }]);
    });
  }

  it("takes a plan of the model's own as the default", async () => {
    const graph = await load(
      `${NET} Net.inputs = { x: [4] }; Net.plan = { up: "colwise", down: "rowwise" }; export default Net;`,
    );
    expect(graph.defaultPlan).to.deep.equal({ up: "colwise", down: "rowwise" });
  });

  for (const loss of ["sum", "mse"] as const) {
    it(`takes input dims from the data's header where the model gives none, loss ${loss}`, async () => {
      const path = fixturePath(`reference/feedforward-${loss}/data.safetensors`);
      const graph = await load(
        `import { Linear, Module } from "rankmesh";
         export default class extends Module { constructor() { super(); this.a = new Linear(48, 3); } forward(x) { return this.a.call(x); } }`,
        { loss, data: { safetensors: { path } } },
      );
      expect(graph.inputs).to.deep.equal([{ name: "x", dtype: "float32", dims: [48] }]);
    });
  }

  for (const [what, data] of [
    ["text", { text: { path: "none.txt", seqLen: 6 } }],
    ["tokens", { tokens: { path: "none.bin", seqLen: 6 } }],
    ["random tokens", { random: { seqLen: 6 } }],
    ["a stream of tokens", { stream: { seqLen: 6 } }],
  ] as const) {
    it(`takes tokens of the data's length where the model gives no inputs: ${what}`, async () => {
      const graph = await load(`${LANGUAGE} export default Net;`, { data });
      expect(graph.inputs).to.deep.equal([{ name: "tokens", dtype: "int32", dims: [6] }]);
    });
  }

  it("traces inputs that are ids where the model says so", async () => {
    const graph = await load(
      `${LANGUAGE} Net.inputs = { tokens: { dims: [5], dtype: "int32" } }; export default Net;`,
    );
    expect(graph.inputs).to.deep.equal([{ name: "tokens", dtype: "int32", dims: [5] }]);
    expect(graph.parameters.map(({ name }) => name)).to.deep.equal(["emb.weight", "norm.weight"]);
    expect(graph.nodes.map((n) => `${n.layer}:${n.op}`)).to.deep.equal([
      "emb:embedding",
      "norm:rmsNorm",
      "head:linear",
    ]);
  });

  it("takes `tokens` of the data file's own type, and not the targets of the loss", async () => {
    const path = join(folder, "tokens.safetensors");
    await writeFile(path, tokensFile());
    const graph = await load(`${LANGUAGE} export default Net;`, {
      loss: "cross_entropy",
      data: { safetensors: { path } },
    });
    expect(graph.inputs).to.deep.equal([{ name: "tokens", dtype: "int32", dims: [3] }]);
  });

  it("takes `x` for a model of one input where the data file holds more than the job reads", async () => {
    const path = fixturePath("reference/feedforward-mse/data.safetensors");
    const graph = await load(
      `import { Linear, Module } from "rankmesh";
       export default class extends Module { constructor() { super(); this.a = new Linear(48, 3); } forward(x) { return this.a.call(x); } }`,
      { loss: "sum", data: { safetensors: { path } } },
    );
    expect(graph.inputs).to.deep.equal([{ name: "x", dtype: "float32", dims: [48] }]);
  });

  it("does not guess which tensors of a data file a model of two inputs takes", async () => {
    const path = fixturePath("reference/feedforward-mse/data.safetensors");
    const error = await caught(
      load(
        `import { add, Module } from "rankmesh";
         export default class extends Module { forward(a, b) { return add(a, b); } }`,
        { loss: "sum", data: { safetensors: { path } } },
      ),
    );
    expect(error.message).to.match(
      /declares no inputs, and .* has 2 tensors \(x, y\) to choose from/,
    );
  });

  for (const [what, source, message] of [
    ["has no default export", "export const x = 1;", /has no default export/],
    ["exports something else", "export default 42;", /default export is of type number/],
    ["throws while it loads", "throw new Error('boom');", /:1: boom/],
    ["has a syntax error", "export default class {", /model-\d+\.mjs: Unexpected/],
    [
      "imports what is not there",
      `import { Lineal } from "rankmesh"; export default Lineal;`,
      /Lineal/,
    ],
    [
      "declares no inputs without data",
      `${NET} export default Net;`,
      /declares no inputs.*static inputs = /,
    ],
    [
      "has inputs that are no dims",
      `${NET} Net.inputs = { x: "4" }; export default Net;`,
      /inputs must map names to dims/,
    ],
    [
      "has inputs of no known type",
      `${NET} Net.inputs = { x: { dims: [4], dtype: "int64" } }; export default Net;`,
      /inputs must map names to dims/,
    ],
    [
      "computes with ids",
      `${NET} Net.inputs = { x: { dims: [4], dtype: "int32" } }; export default Net;`,
      /layer "up", op linear: operands int32 \[batch, 4\]/,
    ],
    [
      "does not fit its input",
      `${NET} Net.inputs = { x: [5] }; export default Net;`,
      /layer "up", op linear: .*5/,
    ],
    [
      "throws in its forward",
      `import { Module } from "rankmesh";
       export default class Net extends Module {
         forward(x) { return x.nothing.there; }
       }
       Net.inputs = { x: [4] };`,
      /:3: forward of Net: .*undefined/,
    ],
  ] as const) {
    it(`says what is wrong when a model ${what}`, async () => {
      const error = await caught(load(source));
      expect(error).to.be.instanceOf(InvalidArgumentError);
      expect(error.message).to.match(message);
      expect(error.message).to.include(`model file ${folder}`);
    });
  }

  it("says so when there is no such file", async () => {
    const error = await caught(traceModelFile(join(folder, "none.mjs"), {}, folder));
    expect(error.message).to.equal(`model file ${join(folder, "none.mjs")}: there is no such file`);
  });
});
