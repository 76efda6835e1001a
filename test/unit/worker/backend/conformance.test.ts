import { expect } from "chai";
import { opDefinition, opNames } from "../../../../compiler/ops/index.ts";
import type { Backend } from "../../../../worker/backend/backend.ts";
import { boundOps } from "../../../../worker/backend/binding/bind-instruction.ts";
import { CpuBackend } from "../../../../worker/backend/cpu/cpu-backend.ts";
import { WebAssemblyBackend } from "../../../../worker/backend/gpujs/webassembly-backend.ts";
import { ReferenceBackend } from "../../../../worker/backend/reference/reference-backend.ts";
import { describeBackend, expectClose } from "../../../support/backend-suite.ts";
import { expectedOf, runOp, type Tensor } from "../../../support/conformance.ts";
import { LARGE_CASES, OP_CASES } from "../../../support/op-cases.ts";

const BACKENDS: readonly (readonly [title: string, make: () => Backend])[] = [
  ["reference", () => new ReferenceBackend()],
  ["cpu with 1 thread", () => new CpuBackend({ threads: 1 })],
  ["cpu with 2 threads", () => new CpuBackend({ threads: 2 })],
  ["cpu without BLAS", () => new CpuBackend({ threads: 2, blas: false })],
  ["cpu with the AVX2 build", () => new CpuBackend({ threads: 1, blas: false, maxLevel: 3 })],
  ["cpu with the baseline build", () => new CpuBackend({ threads: 1, blas: false, maxLevel: 2 })],
  ["gpujs in WebAssembly mode", () => new WebAssemblyBackend({ threads: 2 })],
];

for (const [title, make] of BACKENDS) describeBackend(title, make);

describe("cpu kernels on tensors that threads share", () => {
  for (const c of LARGE_CASES) {
    it(`${c.op} of ${c.title} is right, and the same bits for 1, 2 and 3 threads`, () => {
      const [one, ...others] = [1, 2, 3].map((threads) => runOp(new CpuBackend({ threads }), c));
      if (one === undefined) throw new Error("no result");
      expectClose(c, one, expectedOf(c));
      for (const other of others) {
        other.forEach((values, i) => {
          expect(
            Buffer.from(values.buffer).equals(Buffer.from(one[i]?.buffer ?? new ArrayBuffer(0))),
          ).to.equal(true);
        });
      }
    });
  }
});

describe("the cpu backend on values that are not finite", () => {
  const special = [
    Number.NaN,
    Number.POSITIVE_INFINITY,
    Number.NEGATIVE_INFINITY,
    -0,
    1e-42,
    200,
    -200,
  ];
  const values = (i: number): number => special[i % special.length] ?? 0;
  const x: Tensor = { shape: [21], values };
  const ones: Tensor = { shape: [21], values: () => 1 };
  const base = { title: "", attrs: {}, outputs: [x], tolerance: 0 };
  const run = (op: string, ...inputs: Tensor[]): number[] =>
    [...(runOp(new CpuBackend({ threads: 1 }), { ...base, op, inputs })[0] ?? [])].slice(
      0,
      special.length,
    );

  it("passes NaN on through every activation and gradient", () => {
    for (const op of ["silu", "relu", "gelu", "geluTanh", "tanh", "sigmoid"]) {
      expect(run(op, x)[0], op).to.be.NaN;
      if (op !== "relu") expect(run(`${op}Grad`, ones, x)[0], `${op}Grad`).to.be.NaN;
      expect(run(`${op}Grad`, x, ones)[0], `${op}Grad`).to.be.NaN;
    }
  });

  it("saturates at infinities and far out", () => {
    expect(run("sigmoid", x).slice(1)).to.deep.equal([1, 0, 0.5, 0.5, 1, 0]);
    expect(run("tanh", x).slice(1, 3)).to.deep.equal([1, -1]);
    expect(run("tanh", x).slice(5)).to.deep.equal([1, -1]);
    expect(run("relu", x).slice(1)).to.deep.equal([
      Number.POSITIVE_INFINITY,
      0,
      0,
      Math.fround(1e-42),
      200,
      0,
    ]);
    expect(run("silu", x).slice(5)).to.deep.equal([200, -0]);
    expect(run("gelu", x).slice(5)).to.deep.equal([200, -0]);
    expect(run("geluTanh", x).slice(5)).to.deep.equal([200, -0]);
    expect(run("geluTanhGrad", ones, x).slice(5)).to.deep.equal([1, 0]);
    expect(run("sigmoidGrad", ones, x).slice(5)).to.deep.equal([0, 0]);
    expect(run("tanhGrad", ones, x).slice(1, 3)).to.deep.equal([0, 0]);
  });

  it("lets a key that is not a number reach the queries that see it, and no others", () => {
    const [T, bad] = [40, 21];
    const keys: Tensor = { shape: [1, T, 4], values: (i) => (i === 4 * bad ? Number.NaN : 0.5) };
    const plain: Tensor = { shape: [1, T, 4], values: (i) => i };
    const attrs = { heads: 1, kvHeads: 1, headDim: 4, causal: 1, headAxes: 0, kvHeadAxes: 0 };
    const [o = [], lse = []] = runOp(new CpuBackend({ threads: 1 }), {
      ...base,
      op: "attentionWithStats",
      inputs: [plain, keys, plain],
      outputs: [plain, { shape: [1, T, 1] }],
      attrs,
    });
    const seeing = Array.from({ length: T }, (_, t) => t >= bad);
    expect([...lse].map(Number.isNaN)).to.deep.equal(seeing);
    expect([...o].map(Number.isNaN)).to.deep.equal(
      seeing.flatMap((sees) => [sees, sees, sees, sees]),
    );
  });

  it("tells a row of logits with one that is not a number, and takes classes at minus infinity", () => {
    const V = 37;
    const z: Tensor = {
      shape: [2, V],
      values: (i) => (i === 5 ? Number.NaN : i % 2 === 0 ? Number.NEGATIVE_INFINITY : 1),
    };
    const t: Tensor = { shape: [2], dtype: "int32", values: () => 2 };
    const attrs = { classes: V, classAxes: 0 };
    const [s = []] = runOp(new CpuBackend({ threads: 1 }), {
      ...base,
      op: "ceStats",
      inputs: [z, t],
      outputs: [{ shape: [2, 3] }],
      attrs,
    });
    expect(s[1]).to.be.NaN;
    // Row 1 begins at an odd element: 19 of its classes have logit 1, the target among them.
    expect([...s].slice(3)).to.deep.equal([1, 19, 1]);
  });

  it("keeps a gradient norm that is not a number from scaling anything to zero", () => {
    const norm: Tensor = { shape: [], dtype: "float64", values: () => Number.NaN };
    const clip = {
      ...base,
      op: "clipFactor",
      inputs: [norm],
      outputs: [{ shape: [] }],
      attrs: { maxNorm: 1 },
    };
    expect(runOp(new CpuBackend({ threads: 1 }), clip)[0]?.[0]).to.be.NaN;
  });
});

describe("the table of op cases", () => {
  it("holds every op of the registry, and the cpu backend runs them all", () => {
    const cases = [...new Set(OP_CASES.map(({ op }) => op))].sort();
    expect(cases).to.deep.equal(opNames().sort());
    expect(boundOps().sort()).to.deep.equal(cases);
  });

  it("writes over every operand that an op may overwrite", () => {
    const missing = opNames().filter((op) => {
      const { mayOverwrite } = opDefinition(op);
      return (
        mayOverwrite !== undefined &&
        !OP_CASES.some((c) => c.op === op && c.outputs[0] === mayOverwrite)
      );
    });
    expect(missing).to.deep.equal([]);
  });
});
