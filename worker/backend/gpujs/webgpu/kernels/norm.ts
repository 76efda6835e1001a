import { type Kernels, NULL } from "../../../kernels.ts";
import { WORKSPACE, WORKSPACE_BYTES } from "../device-memory.ts";
import type { Launcher } from "../launcher.ts";
import type { WgslKernel } from "../wgsl-kernel.ts";

// Legend: x, y, dx, dy(M, D); g, b, dg(D). A row's xhat is (x - mean) rate, with mean 0 for RMS.

/** Rows whose statistics, two floats each, lie in the workspace at a time. */
const STATISTICS_ROWS = WORKSPACE_BYTES / 8;

/** Sums over a row, the same on every lane, and a row's mean and rate. No compiler unrolls a loop whose bound is no constant. */
const ROW = /* wgsl */ `
var<workgroup> lanes: array<f32, THREADS>;
fn row_total(lane: u32, value: f32) -> f32 {
  lanes[lane] = value;
  workgroupBarrier();
  var sum = lanes[0];
  for (var l = 1u; l < THREADS + params.zero; l++) { sum += lanes[l]; }
  workgroupBarrier();
  return sum;
}
fn row_mean(row: u32, lane: u32) -> f32 {
  if (!LAYER) { return 0.0f; }
  var sum = 0.0f;
  for (var i = lane; i < params.D; i += THREADS) { sum += x(row * params.D + i); }
  return row_total(lane, sum) / f32(params.D);
}
fn row_rate(row: u32, lane: u32, mean: f32) -> f32 {
  var sum = 0.0f;
  for (var i = lane; i < params.D; i += THREADS) {
    let c = x(row * params.D + i) - mean;
    sum += c * c;
  }
  return 1.0f / sqrt(row_total(lane, sum) / f32(params.D) + params.eps);
}`;

const NORM = {
  name: "norm",
  operands: { x: "f32", g: "f32", b: "f32", y: "f32" },
  params: { D: "u32", eps: "f32" },
  by: "group",
  code: `${ROW}
    fn run(row: u32, lane: u32) {
      let mean = row_mean(row, lane);
      let rate = row_rate(row, lane, mean);
      for (var i = lane; i < params.D; i += THREADS) {
        let at = row * params.D + i;
        var value = (x(at) - mean) * rate * g(i);
        if (has_b) { value += b(i); }
        set_y(at, value);
      }
    }`,
} as const satisfies WgslKernel;

/** dx = rate (d - shift - xhat slope) with d = dy g, slope = mean(d xhat) and, for LAYER, shift = mean(d). */
const NORM_DX = {
  name: "normDx",
  operands: { dy: "f32", x: "f32", g: "f32", dx: "f32" },
  params: { D: "u32", eps: "f32" },
  by: "group",
  code: `${ROW}
    fn run(row: u32, lane: u32) {
      let mean = row_mean(row, lane);
      let rate = row_rate(row, lane, mean);
      var dots = 0.0f;
      var plain = 0.0f;
      for (var i = lane; i < params.D; i += THREADS) {
        let at = row * params.D + i;
        let d = dy(at) * g(i);
        dots += d * (x(at) - mean);
        plain += d;
      }
      let slope = rate * row_total(lane, dots) / f32(params.D);
      var shift = 0.0f;
      if (LAYER) { shift = row_total(lane, plain) / f32(params.D); }
      for (var i = lane; i < params.D; i += THREADS) {
        let at = row * params.D + i;
        let xhat = (x(at) - mean) * rate;
        set_dx(at, rate * (dy(at) * g(i) - shift - xhat * slope));
      }
    }`,
} as const satisfies WgslKernel;

/** Mean and rate of rows from `first` on. */
const STATISTICS = {
  name: "normStatistics",
  operands: { x: "f32", statistics: "f32" },
  params: { D: "u32", eps: "f32", first: "u32" },
  by: "group",
  code: `${ROW}
    fn run(group: u32, lane: u32) {
      let row = params.first + group;
      let mean = row_mean(row, lane);
      let rate = row_rate(row, lane, mean);
      if (lane == 0u) {
        set_statistics(2u * group, mean);
        set_statistics(2u * group + 1u, rate);
      }
    }`,
} as const satisfies WgslKernel;

/**
 * Sums of columns over rows, in two parts each: of dy xhat for a norm's dg, of dy for a bias. A group has 64 columns and
 * takes the rows in four slices. Rows before `first` are in dg already.
 */
const COLUMN_SUMS = {
  name: "columnSums",
  operands: { dy: "f32", x: "f32", statistics: "f32", dg: "f32" },
  params: { D: "u32", first: "u32", rows: "u32" },
  by: "group",
  threads: 256,
  code: `
    const COLUMNS = 64u;
    const SLICES = 4u;
    var<workgroup> parts: array<vec2<f32>, THREADS>;

    fn run(group: u32, lane: u32) {
      let i = group * COLUMNS + lane % COLUMNS;
      let slice = lane / COLUMNS;
      let rows = (params.rows + SLICES - 1u) / SLICES;
      var sum = vec2<f32>(0.0f, 0.0f);
      if (i < params.D) {
        for (var r = slice * rows; r < min(params.rows, (slice + 1u) * rows); r++) {
          let at = (params.first + r) * params.D + i;
          var term = dy(at);
          if (has_x) { term *= (x(at) - statistics(2u * r)) * statistics(2u * r + 1u); }
          sum = add_term(sum, term);
        }
      }
      parts[lane] = sum;
      workgroupBarrier();
      if (slice > 0u || i >= params.D) { return; }
      for (var s = 1u; s < SLICES; s++) {
        let other = parts[s * COLUMNS + lane];
        sum = add_term(sum, other.x);
        sum.y += other.y;
      }
      if (params.first > 0u) { sum = add_term(sum, dg(i)); }
      set_dg(i, sum.x + sum.y);
    }`,
} as const satisfies WgslKernel;

export function norms(launcher: Launcher): Pick<Kernels, "norm" | "normGrad" | "biasDb"> {
  return {
    norm(x, g, b, y, M, D, eps) {
      if (D === 0) return;
      const n = M * D;
      launcher.launch(NORM, {
        operands: { x: [x, n], g: [g, D], b: [b, D], y: [y, n] },
        params: { D, eps },
        constants: { LAYER: b !== NULL },
        n: M,
      });
    },
    normGrad(layer, dy, x, g, dx, dg, M, D, eps) {
      if (D === 0) return;
      const n = M * D;
      const constants = { LAYER: layer === 1 };
      // dx may be the very bytes of dy: dg comes first.
      if (dg !== NULL && M === 0) columnSums(launcher, dy, NULL, dg, 0, 0, D);
      for (let first = 0; dg !== NULL && first < M; first += STATISTICS_ROWS) {
        const rows = Math.min(STATISTICS_ROWS, M - first);
        launcher.launch(STATISTICS, {
          operands: { x: [x, n], statistics: [WORKSPACE, 2 * rows] },
          params: { D, eps, first },
          constants,
          n: rows,
        });
        columnSums(launcher, dy, x, dg, first, rows, D);
      }
      if (dx === NULL) return;
      launcher.launch(NORM_DX, {
        operands: { dy: [dy, n], x: [x, n], g: [g, D], dx: [dx, n] },
        params: { D, eps },
        constants,
        n: M,
      });
    },
    biasDb(dy, db, M, O) {
      columnSums(launcher, dy, NULL, db, 0, M, O);
    },
  };
}

/** @param x NULL for plain sums; else its rows' statistics are in the workspace */
function columnSums(
  launcher: Launcher,
  dy: number,
  x: number,
  dg: number,
  first: number,
  rows: number,
  D: number,
): void {
  const n = (first + rows) * D;
  launcher.launch(COLUMN_SUMS, {
    operands: {
      dy: [dy, n],
      x: [x, n],
      statistics: [x === NULL ? NULL : WORKSPACE, 2 * rows],
      dg: [dg, D],
    },
    params: { D, first, rows },
    n: Math.ceil(D / 64),
  });
}
