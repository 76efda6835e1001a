import type { Kernels } from "../../../kernels.ts";
import type { Launcher } from "../launcher.ts";
import type { WgslKernel } from "../wgsl-kernel.ts";

/** Pairs of a head at most: MAX_HEAD_DIM / 2. */
const MOST_PAIRS = 256;

/**
 * Every pair of a head turned by position * frequency. The angle is rounded to float32, as in PyTorch, and its sine and cosine
 * are taken of what that is: pi / 2 is taken away in float64, since float32 has no bits left for that.
 */
const ROPE = {
  name: "rope",
  operands: { x: "f32", y: "f32" },
  params: { T: "u32", halfF: "u32", pairs: "u32", first: "u32", direction: "f32" },
  table: { of: "vec4<f32>", length: MOST_PAIRS / 4 },
  libraries: ["float64"],
  by: "each",
  code: `
    // x - quarters * pi / 2 in two parts, with pi / 2 in two parts.
    fn reduced(x: f32, quarters: f32) -> vec2<f32> {
      let n = f64_from_f32(-quarters);
      var r = f64_add(f64_from_f32(x), f64_mul(n, vec2<u32>(0x54442d18u, 0x3ff921fbu)));
      r = f64_add(r, f64_mul(n, vec2<u32>(0x33145c07u, 0x3c91a626u)));
      let high = f64_to_f32(r);
      return vec2<f32>(high, f64_to_f32(f64_add(r, f64_from_f32(-high))));
    }

    // Sine and cosine, almost to the last bit. Coefficients from Cephes (sinf, cosf).
    fn sine_cosine(x: f32) -> vec2<f32> {
      let quarters = floor(x * 0.636619772367581343f + 0.5f);
      var parts = vec2<f32>(x, 0.0f);
      if (quarters != 0.0f) { parts = reduced(x, quarters); }
      let r = parts.x;
      let z = r * r;
      // What the second part adds to the sine is it times the cosine, to the cosine it times minus the sine.
      let s = opaque(((-1.9515295891e-4f * z + 8.3321608736e-3f) * z - 1.6666654611e-1f) * z * r + parts.y) + r;
      let half = two_sum(1.0f, -0.5f * z);
      let c = ((2.443315711809948e-5f * z - 1.388731625493765e-3f) * z + 4.166664568298827e-2f) * z * z;
      let co = opaque(c + half.y - r * parts.y) + half.x;
      let quadrant = u32(i32(quarters)) & 3u;
      var found = vec2<f32>(s, co);
      if ((quadrant & 1u) == 1u) { found = vec2<f32>(co, s); }
      if (quadrant >= 2u) { found.x = -found.x; }
      if (((quadrant + 1u) & 2u) == 2u) { found.y = -found.y; }
      return found;
    }

    fn run(i: u32) {
      let pair = i % params.halfF % params.pairs;
      let position = params.first + i / params.halfF % params.T;
      let angle = params.table[pair / 4u][pair % 4u] * f32(position);
      let turn = sine_cosine(angle);
      let sine = turn.x * params.direction;
      let a = x(2u * i);
      let b = x(2u * i + 1u);
      set_y(2u * i, a * turn.y - b * sine);
      set_y(2u * i + 1u, b * turn.y + a * sine);
    }`,
} as const satisfies WgslKernel;

export function rope(launcher: Launcher): Pick<Kernels, "rope"> {
  return {
    rope(x, { values }, y, B, T, F, headDim, first, direction) {
      const n = (B * T * F) / 2;
      const table = new Float32Array(MOST_PAIRS);
      table.set(values);
      launcher.launch(ROPE, {
        operands: { x: [x, 2 * n], y: [y, 2 * n] },
        params: { T, halfF: F / 2, pairs: headDim / 2, first, direction },
        table,
        n,
      });
    },
  };
}
