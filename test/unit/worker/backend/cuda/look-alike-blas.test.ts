import { expect } from "chai";
import { fromBfloat16, toBfloat16 } from "../../../../../shared/bfloat16.ts";
import { pseudoRandom } from "../../../../support/conformance.ts";
import { made, ok } from "../../../../support/cuda-calls.ts";
import { buildLookAlike, lookAlike } from "../../../../support/look-alike.ts";
import { LookAlikeDevice } from "../../../../support/look-alike-device.ts";

const [R_32F, R_16BF, R_64F] = [0, 14, 1];
const [COMPUTE_32F, GEMM_DEFAULT] = [68, -1];
const [NOT_INITIALIZED, INVALID_VALUE, INTERNAL_ERROR, NOT_SUPPORTED] = [1, 7, 14, 15];

/** Column-major: `at(row, column)`, stored by columns `ld` apart. */
interface Matrix {
  readonly rows: number;
  readonly columns: number;
  readonly ld: number;
  readonly values: readonly number[];
}

function matrix(rows: number, columns: number, ld: number, salt: number, half: boolean): Matrix {
  const values = Array.from({ length: ld * columns }, (_, i) => pseudoRandom(i, salt));
  return {
    rows,
    columns,
    ld,
    values: half ? values.map((v) => fromBfloat16(toBfloat16(v))) : values,
  };
}

const at = (x: Matrix, row: number, column: number): number =>
  Math.fround(x.values[column * x.ld + row] ?? 0);

describe("the look-alike's cuBLAS", () => {
  let device: LookAlikeDevice;
  let handle: bigint;
  let stream: bigint;
  before(buildLookAlike);
  beforeEach(() => {
    device = new LookAlikeDevice();
    stream = device.stream();
    handle = made((out) => device.cuda.cublasCreate_v2(out));
    ok(device.cuda.cublasSetStream_v2(handle, stream));
  });
  afterEach(() => {
    device.cuda.cublasDestroy_v2(handle);
    device.close();
  });

  const upload = (values: readonly number[], half: boolean): bigint =>
    device.upload(half ? Uint16Array.from(values, toBfloat16) : Float32Array.from(values));
  const read = (address: bigint, count: number, half: boolean): number[] => {
    if (!half) return [...device.floats(address, count)];
    const bits = new Uint16Array(device.floats(address, Math.ceil(count / 2)).buffer);
    return [...bits.subarray(0, count)].map(fromBfloat16);
  };

  const [m, n, k] = [5, 7, 6];
  const [alpha, beta] = [0.5, 2];

  for (const [input, output] of [
    ["float32", "float32"],
    ["bfloat16", "float32"],
    ["bfloat16", "bfloat16"],
  ] as const) {
    for (const [ta, tb] of [
      [0, 0],
      [1, 0],
      [0, 1],
      [1, 1],
    ] as const) {
      it(`multiplies ${input} to ${output}${ta ? ", A transposed" : ""}${tb ? ", B transposed" : ""}`, () => {
        const [halfIn, halfOut] = [input === "bfloat16", output === "bfloat16"];
        const a = ta ? matrix(k, m, 9, 1, halfIn) : matrix(m, k, 8, 1, halfIn);
        const b = tb ? matrix(n, k, 8, 2, halfIn) : matrix(k, n, 9, 2, halfIn);
        const c = matrix(m, n, 8, 3, halfOut);
        const [da, db, dc] = [
          upload(a.values, halfIn),
          upload(b.values, halfIn),
          upload(c.values, halfOut),
        ];
        const scalar = (value: number): Float32Array => Float32Array.of(value);
        const [tin, tout] = [halfIn ? R_16BF : R_32F, halfOut ? R_16BF : R_32F];
        ok(
          device.cuda.cublasGemmEx(
            handle,
            ta,
            tb,
            m,
            n,
            k,
            scalar(alpha),
            da,
            tin,
            a.ld,
            db,
            tin,
            b.ld,
            scalar(beta),
            dc,
            tout,
            c.ld,
            COMPUTE_32F,
            GEMM_DEFAULT,
          ),
        );
        // Queued like a kernel.
        expect(lookAlike().waiting()).to.equal(1);
        ok(device.cuda.cuStreamSynchronize(stream));
        const got = read(dc, c.ld * n, halfOut);
        for (let j = 0; j < n; j++) {
          for (let i = 0; i < c.ld; i++) {
            let want = at(c, i, j);
            if (i < m) {
              want *= beta;
              for (let t = 0; t < k; t++)
                want += alpha * (ta ? at(a, t, i) : at(a, i, t)) * (tb ? at(b, j, t) : at(b, t, j));
            }
            const tolerance = halfOut ? Math.abs(want) * 2 ** -8 + 1e-6 : 1e-5;
            expect(got[j * c.ld + i], `row ${i}, column ${j}`).to.be.closeTo(want, tolerance);
          }
        }
      });
    }
  }

  it("multiplies a batch of matrices, each a stride apart", () => {
    const a = Float32Array.from({ length: 12 }, (_, i) => i + 1);
    const b = Float32Array.of(1, 0, 0, 1, 0, 2, 2, 0);
    const [da, db, dc] = [device.upload(a), device.upload(b), device.upload(new Float32Array(12))];
    const [one, zero] = [Float32Array.of(1), Float32Array.of(0)];
    ok(
      device.cuda.cublasGemmStridedBatchedEx(
        handle,
        0,
        0,
        2,
        2,
        2,
        one,
        da,
        R_32F,
        2,
        6,
        db,
        R_32F,
        2,
        4,
        zero,
        dc,
        R_32F,
        2,
        6,
        2,
        COMPUTE_32F,
        GEMM_DEFAULT,
      ),
    );
    ok(device.cuda.cuStreamSynchronize(stream));
    const got = [...device.floats(dc, 12)];
    expect(got).to.deep.equal([1, 2, 3, 4, 0, 0, 18, 20, 14, 16, 0, 0]);
  });

  const sgemm = (x: bigint, size: number, c = x): number => {
    const [one, zero] = [Float32Array.of(1), Float32Array.of(0)];
    return device.cuda.cublasSgemm_v2(
      handle,
      0,
      0,
      size,
      size,
      size,
      one,
      x,
      size,
      x,
      size,
      zero,
      c,
      size,
    );
  };

  it("takes what is in C for nothing where beta is 0: NaN, too", () => {
    const x = device.upload(Float32Array.of(1, 2, 3, 4));
    const c = device.alloc(16);
    ok(sgemm(x, 2, c));
    ok(device.cuda.cuStreamSynchronize(stream));
    expect([...device.floats(c, 4)]).to.deep.equal([7, 10, 15, 22]);
  });

  it("is recorded in graphs", () => {
    const { cuda } = device;
    const x = device.upload(Float32Array.of(1, 2, 3, 4));
    const c = device.alloc(16);
    ok(cuda.cuStreamBeginCapture_v2(stream, 1));
    ok(sgemm(x, 2, c));
    const graph = made((out) => cuda.cuStreamEndCapture(stream, out));
    const exec = made((out) => cuda.cuGraphInstantiateWithFlags(out, graph, 0));
    ok(cuda.cuGraphLaunch(exec, stream));
    ok(cuda.cuStreamSynchronize(stream));
    expect([...device.floats(c, 4)]).to.deep.equal([7, 10, 15, 22]);
  });

  it("ends the context when a matrix reaches out of memory", () => {
    const x = device.upload(Float32Array.of(1, 2, 3, 4));
    ok(sgemm(x, 3));
    expect(device.cuda.cuStreamSynchronize(stream)).to.equal(700);
    expect(lookAlike().heard().join()).to.match(
      /matrix A at 0x.*: 36 bytes reach out of device memory/,
    );
    expect(sgemm(x, 2)).to.equal(INTERNAL_ERROR);
  });

  it("refuses types, leading dimensions, workspaces and handles that it cannot take", () => {
    const { cuda } = device;
    const x = device.alloc(64);
    const [one, zero] = [Float32Array.of(1), Float32Array.of(0)];
    const gemm = (type: number, ld: number): number =>
      cuda.cublasGemmEx(
        handle,
        0,
        0,
        2,
        2,
        2,
        one,
        x,
        type,
        ld,
        x,
        type,
        2,
        zero,
        x,
        type,
        2,
        COMPUTE_32F,
        GEMM_DEFAULT,
      );
    expect(gemm(R_64F, 2)).to.equal(NOT_SUPPORTED);
    expect(gemm(R_32F, 1)).to.equal(INVALID_VALUE);
    expect(gemm(R_32F, 2)).to.equal(0);
    expect(cuda.cublasSetWorkspace_v2(handle, x, 65)).to.equal(INVALID_VALUE);
    expect(cuda.cublasSetWorkspace_v2(handle, x + 8n, 8)).to.equal(INVALID_VALUE);
    expect(cuda.cublasSetWorkspace_v2(handle, x, 64)).to.equal(0);
    expect(cuda.cublasSetMathMode(handle + 8n, 0)).to.equal(NOT_INITIALIZED);
    lookAlike().fault("cublasGemmEx", 2, 13);
    expect([gemm(R_32F, 2), gemm(R_32F, 2), gemm(R_32F, 2)]).to.deep.equal([0, 13, 0]);
  });
});
