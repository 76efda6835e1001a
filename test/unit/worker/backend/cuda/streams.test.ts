import { expect } from "chai";
import { CpuBackend } from "../../../../../worker/backend/cpu/cpu-backend.ts";
import { CudaBackend } from "../../../../../worker/backend/cuda/cuda-backend.ts";
import { type OpCase, runOp, type Tensor } from "../../../../support/conformance.ts";
import { lookAlike } from "../../../../support/look-alike.ts";

const base = { title: "", attrs: {}, tolerance: 0, alignment: 256 };

describe("cuda kernels that stream tensors, on the look-alike", () => {
  let backend: CudaBackend;
  before(() => {
    lookAlike();
    backend = new CudaBackend();
  });
  after(() => backend.close());

  const run = (op: Pick<OpCase, "op" | "inputs" | "outputs"> & Partial<OpCase>): number[] => [
    ...(runOp(backend, { ...base, ...op })[0] ?? []),
  ];

  // 1024 parts of 4096 elements are what blocks take at once.
  it("sum more elements than all blocks take at once", () => {
    const n = 1024 * 4096 + 2 * 4096 + 5;
    const ones: Tensor = { shape: [n], values: () => 1 };
    expect(run({ op: "sum", inputs: [ones], outputs: [{ shape: [] }] })).to.deep.equal([n]);
  });

  it("give activations and slopes of values that are not finite as C does", () => {
    const special = [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, -0, 200, -200];
    const x: Tensor = { shape: [18], values: (i) => special[i % special.length] ?? 0 };
    const ones: Tensor = { shape: [18], values: () => 1 };
    const cpu = new CpuBackend({ threads: 1 });
    for (const name of ["silu", "relu", "gelu", "geluTanh", "tanh", "sigmoid"]) {
      const cases = [
        { op: name, inputs: [x] },
        { op: `${name}Grad`, inputs: [ones, x] },
        { op: `${name}Grad`, inputs: [x, ones] },
      ];
      for (const c of cases) {
        const [want = []] = runOp(cpu, { ...base, ...c, outputs: [x] });
        const got = run({ ...c, outputs: [x] });
        got.forEach((value, i) => {
          const message = `${c.op} of ${special[i % special.length]}: got ${value}, want ${want[i]}`;
          expect(Math.abs(value - (want[i] ?? 0)) < 1e-6 || Object.is(value, want[i]), message).to
            .be.true;
        });
      }
    }
  });

  it("keep bfloat16 values that are not finite, and what no float32 rounds to", () => {
    const half = (...values: number[]): Tensor => ({
      shape: [values.length],
      dtype: "bfloat16",
      values: (i) => values[i] ?? 0,
    });
    const x = half(Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, -0, 3e38);
    const tripled = run({ op: "scale", inputs: [x], outputs: [x], attrs: { factor: 3 } });
    expect(tripled).to.deep.equal([
      Number.NaN,
      Number.POSITIVE_INFINITY,
      Number.NEGATIVE_INFINITY,
      -0,
      Number.POSITIVE_INFINITY,
    ]);
    // Halfway between two bfloat16 numbers: to the even one. A number just above it: up.
    const between: Tensor = {
      shape: [3],
      values: (i) => [1 + 2 ** -8, 1 + 3 * 2 ** -8, 1 + 2 ** -8 + 2 ** -20][i] ?? 0,
    };
    const rounded = run({
      op: "cast",
      inputs: [between],
      outputs: [half(0, 0, 0)],
      attrs: { to: 1 },
    });
    expect(rounded).to.deep.equal([1, 1 + 2 ** -6, 1 + 2 ** -7]);
  });

  it("leave a gradient's norm that is not a number as it is", () => {
    const norm: Tensor = { shape: [], dtype: "float64", values: () => Number.NaN };
    const clip = { op: "clipFactor", inputs: [norm], outputs: [{ shape: [] }] };
    expect(run({ ...clip, attrs: { maxNorm: 1 } })[0]).to.be.NaN;
  });
});
