import { type Address, type Kernels, NULL } from "../../../kernels.ts";
import { WORKSPACE } from "../device-memory.ts";
import type { Launcher } from "../launcher.ts";
import type { WgslKernel } from "../wgsl-kernel.ts";

/** Groups that a sum is cut into at most; their sums lie in the workspace. */
const MOST_GROUPS = 1024;
/** Elements that a group is for, at least. */
const LEAST_SPAN = 4096;

/**
 * `total(lane, value)`: the sum of all lanes' values in float64, in their order. The loop's bound is no constant, so that no compiler
 * unrolls it.
 */
export const TOTAL = /* wgsl */ `
var<workgroup> lanes: array<vec2<u32>, THREADS>;
fn total(lane: u32, value: f64) -> f64 {
  lanes[lane] = value;
  workgroupBarrier();
  if (lane == 0u) {
    var sum = value;
    for (var l = 1u; l < THREADS + params.zero; l++) { sum = f64_add(sum, lanes[l]); }
    lanes[0] = sum;
  }
  workgroupBarrier();
  let sum = lanes[0];
  workgroupBarrier();
  return sum;
}`;

const TERM = { plain: 0, square: 1, squaredDifference: 2 } as const;

/** The sum of one group's span of terms, in float64. */
const PARTS = {
  name: "sumParts",
  operands: { x: "f32", y: "f32", parts: "f64" },
  params: { length: "u32", span: "u32" },
  libraries: ["float64"],
  by: "group",
  code: `${TOTAL}
    fn term(i: u32) -> f64 {
      var t = f64_from_f32(x(i));
      if (TERM == 2u) { t = f64_add(t, f64_negative(f64_from_f32(y(i)))); }
      if (TERM == 0u) { return t; }
      return f64_mul(t, t);
    }
    fn run(group: u32, lane: u32) {
      let end = min(params.length, (group + 1u) * params.span);
      var sum = vec2<u32>(0u, 0u);
      for (var i = group * params.span + lane; i < end; i += THREADS) { sum = f64_add(sum, term(i)); }
      let all = total(lane, sum);
      if (lane == 0u) { set_parts(group, all); }
    }`,
} as const satisfies WgslKernel;

/** The sum of the groups' sums: as float64, or divided and rounded to float32. */
const FINISH = {
  name: "sumFinish",
  operands: { parts: "f64", double: "f64", single: "f32" },
  params: { count: "u32", divisorLow: "u32", divisorHigh: "u32" },
  libraries: ["float64"],
  by: "group",
  code: `${TOTAL}
    fn run(group: u32, lane: u32) {
      var sum = vec2<u32>(0u, 0u);
      for (var i = lane; i < params.count; i += THREADS) { sum = f64_add(sum, parts(i)); }
      let all = total(lane, sum);
      if (lane != 0u) { return; }
      if (has_double) { set_double(0u, all); }
      if (has_single) {
        set_single(0u, f64_to_f32(f64_div(all, vec2<u32>(params.divisorLow, params.divisorHigh))));
      }
    }`,
} as const satisfies WgslKernel;

/**
 * The squared norm of dy^T x is the sum over rows i, j of (dy_i . dy_j)(x_i . x_j): some pairs of rows for each group, those off
 * the diagonal counted twice.
 */
const GRAM = {
  name: "gramParts",
  operands: { dy: "f32", x: "f32", parts: "f64" },
  params: { M: "u32", O: "u32", I: "u32", groups: "u32" },
  libraries: ["float64"],
  by: "group",
  code: `${TOTAL}
    fn run(group: u32, lane: u32) {
      var sum = vec2<u32>(0u, 0u);
      for (var pair = group; pair < params.M * params.M; pair += params.groups) {
        let i = pair / params.M;
        let j = pair % params.M;
        if (j > i) { continue; }
        var left = vec2<u32>(0u, 0u);
        for (var k = lane; k < params.O; k += THREADS) {
          left = f64_add(left, f64_mul(f64_from_f32(dy(i * params.O + k)), f64_from_f32(dy(j * params.O + k))));
        }
        var right = vec2<u32>(0u, 0u);
        for (var k = lane; k < params.I; k += THREADS) {
          right = f64_add(right, f64_mul(f64_from_f32(x(i * params.I + k)), f64_from_f32(x(j * params.I + k))));
        }
        let product = f64_mul(total(lane, left), total(lane, right));
        sum = f64_add(sum, product);
        if (j < i) { sum = f64_add(sum, product); }
      }
      if (lane == 0u) { set_parts(group, sum); }
    }`,
} as const satisfies WgslKernel;

const SQRT = {
  name: "sqrt",
  operands: { x: "f64", y: "f64" },
  libraries: ["float64"],
  by: "each",
  code: "fn run(i: u32) { set_y(i, f64_sqrt(x(i))); }",
} as const satisfies WgslKernel;

/** min(1, maxNorm / (norm + 1e-6)); NaN stays NaN. */
const CLIP_FACTOR = {
  name: "clipFactor",
  operands: { norm: "f64", factor: "f32" },
  params: { maxLow: "u32", maxHigh: "u32", tinyLow: "u32", tinyHigh: "u32" },
  libraries: ["float64"],
  by: "each",
  code: `
    fn run(i: u32) {
      let tiny = vec2<u32>(params.tinyLow, params.tinyHigh);
      let f = f64_div(vec2<u32>(params.maxLow, params.maxHigh), f64_add(norm(0u), tiny));
      let excess = f64_add(f, vec2<u32>(0u, 0xbff00000u));
      let larger = (excess.y >> 31u) == 0u && !f64_is_zero(excess) && !f64_is_nan(f);
      if (larger) { set_factor(0u, 1.0f); } else { set_factor(0u, f64_to_f32(f)); }
    }`,
} as const satisfies WgslKernel;

/** Sums what groups left in the workspace. */
export function finishSum(
  launcher: Launcher,
  count: number,
  to: { readonly double?: Address; readonly single?: Address; readonly divisor?: number },
): void {
  const { low, high } = doubleWords(to.divisor ?? 1);
  launcher.launch(FINISH, {
    operands: {
      parts: [WORKSPACE, count],
      double: [to.double ?? NULL, 1],
      single: [to.single ?? NULL, 1],
    },
    params: { count, divisorLow: low, divisorHigh: high },
    n: 1,
  });
}

export function doubleWords(x: number): { readonly low: number; readonly high: number } {
  const [low = 0, high = 0] = new Uint32Array(Float64Array.of(x).buffer);
  return { low, high };
}

export function reductions(
  launcher: Launcher,
): Pick<Kernels, "sum" | "mse" | "sumSquares" | "sumSquaresFromFactors" | "sqrt" | "clipFactor"> {
  /** Returns how many sums of groups lie in the workspace. */
  const parts = (term: number, x: Address, y: Address, n: number): number => {
    const span = Math.max(LEAST_SPAN, Math.ceil(n / MOST_GROUPS));
    const groups = Math.ceil(n / span);
    launcher.launch(PARTS, {
      operands: { x: [x, n], y: [y, n], parts: [WORKSPACE, groups] },
      params: { length: n, span },
      constants: { TERM: term },
      n: groups,
    });
    return groups;
  };
  return {
    sum: (x, n, divisor, s) =>
      finishSum(launcher, parts(TERM.plain, x, NULL, n), { single: s, divisor }),
    mse: (x, y, n, count, s) =>
      finishSum(launcher, parts(TERM.squaredDifference, x, y, n), { single: s, divisor: count }),
    sumSquares: (x, n, s) => finishSum(launcher, parts(TERM.square, x, NULL, n), { double: s }),
    sumSquaresFromFactors(dy, x, M, O, I, s) {
      const groups = Math.min(MOST_GROUPS, M * M);
      launcher.launch(GRAM, {
        operands: { dy: [dy, M * O], x: [x, M * I], parts: [WORKSPACE, groups] },
        params: { M, O, I, groups },
        n: groups,
      });
      finishSum(launcher, groups, { double: s });
    },
    sqrt: (x, y) => launcher.launch(SQRT, { operands: { x: [x, 1], y: [y, 1] }, n: 1 }),
    clipFactor(norm, factor, maxNorm) {
      const [max, tiny] = [doubleWords(maxNorm), doubleWords(1e-6)];
      launcher.launch(CLIP_FACTOR, {
        operands: { norm: [norm, 1], factor: [factor, 1] },
        params: { maxLow: max.low, maxHigh: max.high, tinyLow: tiny.low, tinyHigh: tiny.high },
        n: 1,
      });
    },
  };
}
