import { expect } from "chai";
import { opDefinition, opNames } from "../../../../compiler/ops/index.ts";
import type { Layout } from "../../../../shared/mesh/placement.ts";
import { shardIntervals } from "../../../../shared/mesh/placement.ts";
import type { StoredTensor } from "../../../../shared/program/program.ts";
import { fillUniformSlice } from "../../../../shared/random/uniform.ts";
import type { Backend } from "../../../../worker/backend/backend.ts";
import { boundOps } from "../../../../worker/backend/binding/bind-instruction.ts";
import { CpuBackend } from "../../../../worker/backend/cpu/cpu-backend.ts";
import { WebAssemblyBackend } from "../../../../worker/backend/gpujs/webassembly-backend.ts";
import { ReferenceBackend } from "../../../../worker/backend/reference/reference-backend.ts";
import {
  expectedOf,
  type OpCase,
  precisionOf,
  programOf,
  pseudoRandom,
  runOp,
  type Tensor,
  worstError,
} from "../../../support/conformance.ts";
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

/** Largest relative difference of a fused update from the two ops it fuses: float32 roundings in another order. */
const FUSED_TOL = 1e-6;

interface SliceCase {
  readonly globalShape: readonly number[];
  readonly layout: Layout;
  readonly sizes: readonly number[];
  readonly rank: number;
}

const SLICES: readonly SliceCase[] = [
  { globalShape: [], layout: ["R"], sizes: [1], rank: 0 },
  { globalShape: [7], layout: ["R"], sizes: [2], rank: 1 },
  { globalShape: [300], layout: ["S0"], sizes: [3], rank: 2 },
  { globalShape: [6, 77], layout: ["S0"], sizes: [2], rank: 1 },
  { globalShape: [77, 6], layout: ["S1"], sizes: [2], rank: 1 },
  { globalShape: [50, 333], layout: ["S1"], sizes: [3], rank: 1 },
  { globalShape: [5, 6, 7], layout: ["S1"], sizes: [3], rank: 2 },
  { globalShape: [4, 6, 10], layout: ["S2", "S0"], sizes: [2, 2], rank: 3 },
  { globalShape: [8, 9], layout: ["S0", "S0"], sizes: [2, 2], rank: 2 },
  { globalShape: [2, 3, 2, 3, 2, 3, 2, 4], layout: ["S7", "S4"], sizes: [2, 2], rank: 1 },
  { globalShape: [0, 4], layout: ["R"], sizes: [1], rank: 0 },
];

/** Fails with the worst element when `got` is further from `want` than the case allows. */
function expectClose(
  op: OpCase,
  got: readonly ArrayLike<number>[],
  want: readonly number[][],
): void {
  want.forEach((values, i) => {
    const { error, at } = worstError(got[i] ?? [], values);
    const message = `output ${i} at ${at}: got ${got[i]?.[at]}, want ${values[at]}; relative error`;
    expect(error, message).to.be.at.most(op.tolerance);
  });
}

for (const [title, make] of BACKENDS) {
  describe(`backend ${title}`, () => {
    const backend = make();
    const cases = OP_CASES.filter((c) => backend.precisions.includes(precisionOf(c)));
    for (const op of new Set(cases.map((c) => c.op))) {
      describe(op, () => {
        for (const c of cases.filter((candidate) => candidate.op === op)) {
          it(`is right for ${c.title}`, () => expectClose(c, runOp(backend, c), expectedOf(c)));
        }
      });
    }

    describe("initial values", () => {
      for (const c of SLICES) {
        it(`are those of the whole tensor for ${sliceTitle(c)}`, () => {
          const { got, want, constant } = initialize(backend, c);
          expect([...got]).to.deep.equal([...want]);
          expect([...constant].every((x) => x === 0.25)).to.equal(true);
        });
      }
    });

    it("updates from factors as linearDw and adamw do in two steps", () => {
      const [M, O, I] = [8, 30, 50];
      const [dy, x]: Tensor[] = [{ shape: [M, O] }, { shape: [M, I] }];
      const state = [11, 12, 13].map(
        (salt): Tensor => ({ shape: [O, I], values: (i) => Math.abs(pseudoRandom(i, salt)) }),
      );
      const [w, m, v] = state as [Tensor, Tensor, Tensor];
      const base = { title: "", tolerance: FUSED_TOL };
      const factors = [dy, x] as Tensor[];
      const [dw] = runOp(backend, { ...base, op: "linearDw", inputs: factors, outputs: [w] });
      const g: Tensor = { shape: [O, I], values: (i) => dw?.[i] ?? Number.NaN };
      const attrs = { hasFactor: 0, tileRows: 0 };
      const two: OpCase = { ...base, op: "adamw", inputs: [w, g, m, v], outputs: [0, 2, 3], attrs };
      const one: OpCase = {
        ...base,
        op: "adamwFromFactors",
        inputs: [...factors, w, m, v],
        outputs: [2, 3, 4],
        attrs,
      };
      expectClose(
        one,
        runOp(backend, one),
        runOp(backend, two).map((values) => [...values]),
      );
    });
  });
}

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

function sliceTitle({ globalShape, layout, sizes, rank }: SliceCase): string {
  return `[${globalShape.join(", ")}] as ${layout.join(" ")} on a mesh of ${sizes.join(" x ")} at rank ${rank}`;
}

/** A slice as the backend makes it, as JavaScript makes it, and filled with a constant. */
function initialize(
  backend: Backend,
  { globalShape, layout, sizes, rank }: SliceCase,
): { got: Float32Array; want: Float32Array; constant: Float32Array } {
  const mesh = { axes: sizes.map((size, axis) => ({ name: `axis${axis}`, size })) };
  const intervals = shardIntervals(globalShape, layout, mesh, rank);
  const shape = intervals.map(({ start, end }) => end - start);
  const op: OpCase = {
    op: "fill",
    title: "",
    inputs: [],
    outputs: [{ shape }],
    attrs: { value: 0 },
    mesh,
    rank,
    tolerance: 0,
  };
  const { program, instruction } = programOf(op);
  const slot = instruction.outputs[0] ?? -1;
  const name = "layers.0.w1.weight";
  const [seed, bound] = [2 ** 40 + 12345, 1 / Math.sqrt(300)];
  const uniform = { kind: "uniform", bound } as const;
  const tensor: StoredTensor = {
    name,
    role: "parameter",
    globalShape,
    layout,
    slot,
    init: uniform,
  };
  const length = shape.reduce((product, n) => product * n, 1);
  const [got, want, constant] = [
    new Float32Array(length),
    new Float32Array(length),
    new Float32Array(length),
  ];
  fillUniformSlice(want, { seed, name, bound, globalShape, intervals });
  const loaded = backend.load(program, rank);
  loaded.initialize(tensor, seed);
  loaded.read(slot, new Uint8Array(got.buffer));
  loaded.initialize({ ...tensor, init: { kind: "constant", value: 0.25 } }, seed);
  loaded.read(slot, new Uint8Array(constant.buffer));
  loaded.dispose();
  return { got, want, constant };
}

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
