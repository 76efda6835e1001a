import { expect } from "chai";
import fc from "fast-check";
import { ResourceExhaustedError } from "../../../../../shared/errors.ts";
import {
  bindOperands,
  type LaunchOperand,
} from "../../../../../worker/backend/gpujs/webgpu/bind-operands.ts";
import type { WgslKernel } from "../../../../../worker/backend/gpujs/webgpu/wgsl-kernel.ts";
import { NULL } from "../../../../../worker/backend/kernels.ts";

const KERNEL: WgslKernel = {
  name: "any",
  operands: { a: "f32", b: "f64", c: "i32", d: "f32" },
  by: "each",
  code: "",
};
const NAMES = ["a", "b", "c", "d"];
const WIDTHS = [4, 8, 4, 4];
/** Two buffers, of addresses from 2^20 and from 2^30 on. */
const locate = (address: number): { buffer: number; offset: number } =>
  address < 2 ** 30
    ? { buffer: 7, offset: address - 2 ** 20 }
    : { buffer: 9, offset: address - 2 ** 30 };

const operand = fc.oneof(
  fc.constant<LaunchOperand>([NULL, 0]),
  fc
    .tuple(fc.constantFrom(2 ** 20, 2 ** 30), fc.nat(100), fc.nat(50))
    .map(([base, words, elements]): LaunchOperand => [base + 4 * words, elements]),
);

describe("bindings of a dispatch", () => {
  it("never overlap, begin aligned, and hold every operand where it lies", () => {
    const operands = fc.tuple(operand, operand, operand, operand);
    fc.assert(
      fc.property(operands, fc.constantFrom(16, 64, 256), (list, alignBytes) => {
        const given: Record<string, LaunchOperand> = {};
        NAMES.forEach((name, i) => {
          given[name] = list[i] ?? [NULL, 0];
        });
        const limits = { alignBytes, maxBindingBytes: 4096 };
        const { pattern, bindings, offsets } = bindOperands(KERNEL, given, locate, limits);
        const ranges = Array.from({ length: bindings.length / 3 }, (_, i) => {
          const [buffer = -1, start = -1, size = -1] = bindings.subarray(3 * i, 3 * i + 3);
          return { buffer, start, end: start + size };
        });
        for (const [i, range] of ranges.entries()) {
          expect(range.start % alignBytes).to.equal(0);
          for (const other of ranges.slice(i + 1)) {
            const apart = range.end <= other.start || other.end <= range.start;
            expect(range.buffer !== other.buffer || apart).to.equal(true);
          }
        }
        list.forEach(([address, elements], i) => {
          const range = ranges[pattern[i] ?? -1];
          if (address === NULL) {
            expect(pattern[i]).to.equal(-1);
            return;
          }
          const { buffer, offset } = locate(address);
          const at = (range?.start ?? -1) + 4 * (offsets[i] ?? -1);
          expect([range?.buffer, at]).to.deep.equal([buffer, offset]);
          expect(at + elements * (WIDTHS[i] ?? 0)).to.be.at.most(range?.end ?? -1);
        });
        // Numbered as they first occur, so that a pipeline is not built twice.
        const used = pattern.filter((binding) => binding >= 0);
        expect([...new Set(used)]).to.deep.equal(ranges.map((_, i) => i));
      }),
    );
  });

  it("are refused where operands that overlap are too large together", () => {
    const operands = { a: [2 ** 20, 600], b: [2 ** 20 + 2000, 300] } as const;
    const limits = { alignBytes: 256, maxBindingBytes: 4096 };
    expect(() => bindOperands(KERNEL, operands, locate, limits)).to.throw(
      ResourceExhaustedError,
      "any: 4400 bytes of operands that overlap, the adapter binds 4096 at a time; use more ranks",
    );
  });
});
