import { expect } from "chai";
import { InternalError } from "../../../../shared/errors.ts";
import type { DType } from "../../../../shared/program/program.ts";
import { bestSumKernel } from "../../../../worker/collective/best-sum.ts";
import { sumInJavaScript } from "../../../../worker/collective/sum-kernel.ts";

const KERNELS = [{ sum: sumInJavaScript, name: "JavaScript" }, bestSumKernel()];
const DTYPES: readonly DType[] = ["float32", "float64", "int32"];

/** Bytes of `values` that begin `shift` bytes into their buffer. */
function shifted(dtype: DType, values: readonly number[], shift: number): Uint8Array {
  const typed =
    dtype === "float32"
      ? new Float32Array(values)
      : dtype === "float64"
        ? new Float64Array(values)
        : new Int32Array(values);
  const bytes = new Uint8Array(typed.byteLength + shift).subarray(shift);
  bytes.set(new Uint8Array(typed.buffer));
  return bytes;
}

describe("sum kernels", () => {
  for (const { sum, name } of KERNELS) {
    for (const dtype of DTYPES) {
      it(`${name} adds ${dtype} at any alignment, in place and apart, past block ends`, () => {
        for (const count of [0, 1, 7, 1024, 2049, 5000]) {
          const left = Array.from({ length: count }, (_, i) => i - 3);
          const right = Array.from({ length: count }, (_, i) => 2 * i + 1);
          const total = shifted(
            dtype,
            left.map((value, i) => value + (right[i] ?? 0)),
            0,
          );
          for (const shift of [0, 1, 3, 4]) {
            const apart = new Uint8Array(total.length + 2).subarray(2);
            const a = shifted(dtype, left, shift);
            const b = shifted(dtype, right, shift === 0 ? 0 : 5);
            sum(dtype, apart, a, b);
            expect(Buffer.compare(apart, total)).to.equal(0);
            sum(dtype, b, a, b);
            expect(Buffer.compare(b, total)).to.equal(0);
            const c = shifted(dtype, right, 0);
            sum(dtype, a, a, c);
            expect(Buffer.compare(a, total)).to.equal(0);
          }
        }
      });
    }

    it(`${name} refuses operands of unlike length`, () => {
      expect(() =>
        sum("float32", new Uint8Array(8), new Uint8Array(8), new Uint8Array(4)),
      ).to.throw(InternalError, "sum of 8 and 4 bytes of float32 into 8");
    });
  }
});
