import { InternalError } from "../../../../../shared/errors.ts";
import type { Kernels } from "../../../kernels.ts";
import type { Launcher } from "../launcher.ts";
import type { WgslKernel } from "../wgsl-kernel.ts";

/** All of it in words of four bytes: no element is smaller. */
const COPY = {
  name: "copy",
  operands: { x: "u32", y: "u32" },
  params: { row: "u32", fromStride: "u32", toStride: "u32" },
  by: "each",
  code: `
    fn run(i: u32) {
      let r = i / params.row;
      let c = i % params.row;
      set_y(r * params.toStride + c, x(r * params.fromStride + c));
    }`,
} as const satisfies WgslKernel;

const FILL = {
  name: "fill",
  operands: { y: "f32" },
  params: { value: "f32" },
  by: "each",
  code: "fn run(i: u32) { set_y(i, params.value); }",
} as const satisfies WgslKernel;

/** x(outer, A, between, B, inner) to y(outer, B, between, A, inner). */
const TRANSPOSE = {
  name: "transpose",
  operands: { x: "u32", y: "u32" },
  params: { A: "u32", between: "u32", B: "u32", inner: "u32" },
  by: "each",
  code: `
    fn run(i: u32) {
      let c = i % params.inner;
      var rest = i / params.inner;
      let a = rest % params.A;
      rest /= params.A;
      let k = rest % params.between;
      rest /= params.between;
      let b = rest % params.B;
      let o = rest / params.B;
      set_y(i, x((((o * params.A + a) * params.between + k) * params.B + b) * params.inner + c));
    }`,
} as const satisfies WgslKernel;

export function movement(
  launcher: Launcher,
): Pick<Kernels, "copy" | "fill" | "zero" | "transpose" | "round" | "widen"> {
  const fill = (y: number, n: number, value: number): void =>
    launcher.launch(FILL, { operands: { y: [y, n] }, params: { value }, n });
  return {
    copy(to, toStrideBytes, from, fromStrideBytes, rowBytes, rows) {
      if (rows === 0 || rowBytes === 0) return;
      if (to === from && (rows === 1 || toStrideBytes === fromStrideBytes)) return;
      const [row, toStride, fromStride] = [rowBytes, toStrideBytes, fromStrideBytes].map(words);
      if (row === undefined || toStride === undefined || fromStride === undefined) return;
      const extent = (stride: number): number => (rows - 1) * stride + row;
      launcher.launch(COPY, {
        operands: { x: [from, extent(fromStride)], y: [to, extent(toStride)] },
        params: { row, fromStride, toStride },
        n: rows * row,
      });
    },
    fill,
    zero: (y, bytes) => fill(y, words(bytes), 0),
    transpose(x, y, outer, A, between, B, inner) {
      const n = outer * A * between * B * inner;
      const operands = { x: [x, n], y: [y, n] } as const;
      launcher.launch(TRANSPOSE, { operands, params: { A, between, B, inner }, n });
    },
    round: noHalf,
    widen: noHalf,
  };
}

function words(bytes: number): number {
  if (bytes % 4 !== 0) throw new InternalError(`${bytes} bytes are no whole words`);
  return bytes / 4;
}

function noHalf(): never {
  throw new InternalError("gpujs backend: there is no bfloat16 in WebGPU");
}
