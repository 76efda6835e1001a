import type { Address, Kernels } from "../../../kernels.ts";
import { NULL } from "../../../kernels.ts";
import type { Launcher } from "../launcher.ts";
import type { WgslKernel } from "../wgsl-kernel.ts";
import {
  type CurrentScalars,
  KIND,
  UPDATE,
  UPDATE_OPERANDS,
  UPDATE_PARAMS,
  updateOperands,
} from "./updates.ts";

// Legend: x(M, I), w(O, I), y(M, O).

/** Rows up to which products go row by row: they are bound by reading or writing the weights. */
const FEW_ROWS = 8;

const TILE = 64;

/**
 * Element (m, n) of a(M, K) b(K, N), updating or stored at m * N + n. A group computes a tile of 64 x 64 from tiles of 16
 * columns and rows in its own memory, each thread 4 x 4 of it. A_ROWS: a is stored as (K, M); B_ROWS: b as (N, K).
 */
const PRODUCT = {
  name: "product",
  operands: { a: "f32", b: "f32", ...UPDATE_OPERANDS },
  params: { M: "u32", N: "u32", K: "u32", ...UPDATE_PARAMS },
  by: "group",
  threads: 256,
  code: `${UPDATE}
    const TILE = ${TILE}u;
    const DEPTH = 16u;
    // The tiles of a and b; at the end that of the product, so that neighbouring threads update neighbouring elements.
    const TILE_B = TILE * DEPTH;
    var<workgroup> tile: array<f32, TILE * TILE>;

    fn run(group: u32, lane: u32) {
      let across = (params.N + TILE - 1u) / TILE;
      let m0 = group / across * TILE;
      let n0 = group % across * TILE;
      let row = lane / 16u * 4u;
      let column = lane % 16u * 4u;
      var sum: array<vec4<f32>, 4>;
      for (var k0 = 0u; k0 < params.K; k0 += DEPTH) {
        for (var j = lane; j < TILE * DEPTH; j += THREADS) {
          // Neighbouring threads read neighbouring elements.
          var m = j / DEPTH; var k = j % DEPTH;
          if (A_ROWS) { m = j % TILE; k = j / TILE; }
          var value = 0.0f;
          if (m0 + m < params.M && k0 + k < params.K) {
            if (A_ROWS) { value = a((k0 + k) * params.M + m0 + m); }
            else { value = a((m0 + m) * params.K + k0 + k); }
          }
          tile[k * TILE + m] = value;
          var n = j % TILE; k = j / TILE;
          if (B_ROWS) { n = j / DEPTH; k = j % DEPTH; }
          value = 0.0f;
          if (n0 + n < params.N && k0 + k < params.K) {
            if (B_ROWS) { value = b((n0 + n) * params.K + k0 + k); }
            else { value = b((k0 + k) * params.N + n0 + n); }
          }
          tile[TILE_B + k * TILE + n] = value;
        }
        workgroupBarrier();
        for (var k = 0u; k < DEPTH; k++) {
          let at = TILE_B + k * TILE + column;
          let bk = vec4<f32>(tile[at], tile[at + 1u], tile[at + 2u], tile[at + 3u]);
          for (var r = 0u; r < 4u; r++) { sum[r] += tile[k * TILE + row + r] * bk; }
        }
        workgroupBarrier();
      }
      for (var r = 0u; r < 4u; r++) {
        for (var c = 0u; c < 4u; c++) { tile[(row + r) * TILE + column + c] = sum[r][c]; }
      }
      workgroupBarrier();
      // A bound that is no constant: an update is too long to be unrolled.
      for (var j = lane; j < TILE * TILE + params.zero; j += THREADS) {
        let m = m0 + j / TILE;
        let n = n0 + j % TILE;
        if (m < params.M && n < params.N) { update(m * params.N + n, tile[j]); }
      }
    }`,
} as const satisfies WgslKernel;

/** Rows of a product of few, in vectors of four: those past the last are computed like it and not stored. */
const ROWS = /* wgsl */ `
fn row(r: u32) -> u32 { return min(r, params.M - 1u); }`;

/** y(M, O): a group for each row of w, which it reads once. */
const FEW = {
  name: "linearFew",
  operands: { x: "f32", w: "f32", y: "f32" },
  params: { M: "u32", O: "u32", I: "u32" },
  by: "group",
  code: `${ROWS}
    var<workgroup> low: array<vec4<f32>, THREADS>;
    var<workgroup> high: array<vec4<f32>, THREADS>;

    fn column(r: u32, i: u32) -> vec4<f32> {
      return vec4<f32>(
        x(row(r) * params.I + i), x(row(r + 1u) * params.I + i),
        x(row(r + 2u) * params.I + i), x(row(r + 3u) * params.I + i));
    }
    fn run(group: u32, lane: u32) {
      var first = vec4<f32>(0.0f);
      var second = vec4<f32>(0.0f);
      for (var i = lane; i < params.I; i += THREADS) {
        let wi = w(group * params.I + i);
        first += wi * column(0u, i);
        if (MANY) { second += wi * column(4u, i); }
      }
      low[lane] = first;
      if (MANY) { high[lane] = second; }
      workgroupBarrier();
      if (lane >= params.M) { return; }
      var sum = 0.0f;
      for (var l = 0u; l < THREADS + params.zero; l++) {
        if (MANY && lane >= 4u) { sum += high[l][lane & 3u]; } else { sum += low[l][lane & 3u]; }
      }
      set_y(lane * params.O + group, sum);
    }`,
} as const satisfies WgslKernel;

/** dx(M, I) = dy(M, O) w: a group for 64 columns of w, in four slices of its rows. */
const FEW_DX = {
  name: "linearDxFew",
  operands: { dy: "f32", w: "f32", dx: "f32" },
  params: { M: "u32", O: "u32", I: "u32" },
  by: "group",
  threads: 256,
  code: `${ROWS}
    const COLUMNS = 64u;
    const SLICES = 4u;
    var<workgroup> low: array<vec4<f32>, THREADS>;
    var<workgroup> high: array<vec4<f32>, THREADS>;

    fn factors(r: u32, o: u32) -> vec4<f32> {
      return vec4<f32>(
        dy(row(r) * params.O + o), dy(row(r + 1u) * params.O + o),
        dy(row(r + 2u) * params.O + o), dy(row(r + 3u) * params.O + o));
    }
    fn run(group: u32, lane: u32) {
      let slice = lane / COLUMNS;
      let i = group * COLUMNS + lane % COLUMNS;
      let rows = (params.O + SLICES - 1u) / SLICES;
      var first = vec4<f32>(0.0f);
      var second = vec4<f32>(0.0f);
      if (i < params.I) {
        for (var o = slice * rows; o < min(params.O, (slice + 1u) * rows); o++) {
          let wi = w(o * params.I + i);
          first += wi * factors(0u, o);
          if (MANY) { second += wi * factors(4u, o); }
        }
      }
      low[lane] = first;
      if (MANY) { high[lane] = second; }
      workgroupBarrier();
      if (slice > 0u || i >= params.I) { return; }
      for (var s = 1u; s < SLICES; s++) {
        first += low[s * COLUMNS + lane];
        if (MANY) { second += high[s * COLUMNS + lane]; }
      }
      for (var r = 0u; r < params.M; r++) {
        var sum = first[r & 3u];
        if (MANY && r >= 4u) { sum = second[r & 3u]; }
        set_dx(r * params.I + i, sum);
      }
    }`,
} as const satisfies WgslKernel;

/** Element (o, i) of dy^T x, stored or used for an update. */
const FEW_FACTORS = {
  name: "fromFactorsFew",
  operands: { dy: "f32", x: "f32", ...UPDATE_OPERANDS },
  params: { M: "u32", O: "u32", I: "u32", ...UPDATE_PARAMS },
  by: "each",
  code: `${UPDATE}
    fn run(e: u32) {
      let o = e / params.I;
      let i = e % params.I;
      var g = 0.0f;
      for (var r = 0u; r < params.M; r++) { g += dy(r * params.O + o) * x(r * params.I + i); }
      update(e, g);
    }`,
} as const satisfies WgslKernel;

const tiles = (n: number): number => Math.ceil(n / TILE);

export function linear(
  launcher: Launcher,
  scalars: CurrentScalars,
): Pick<Kernels, "linear" | "linearDx" | "linearDw" | "adamwFromFactors" | "sgdFromFactors"> {
  const product = (
    [a, aRows]: readonly [Address, boolean],
    [b, bRows]: readonly [Address, boolean],
    [M, N, K]: readonly [number, number, number],
    operands: ReturnType<typeof updateOperands>,
    kind: number,
  ): void =>
    launcher.launch(PRODUCT, {
      operands: { a: [a, M * K], b: [b, K * N], ...operands },
      params: { M, N, K, ...scalars.current },
      constants: { KIND: kind, A_ROWS: aRows, B_ROWS: bRows },
      n: M * N === 0 ? 0 : tiles(M) * tiles(N),
    });
  const stored = (c: Address, n: number): ReturnType<typeof updateOperands> =>
    updateOperands(n, c, NULL, NULL, NULL);

  /** What is made of dy^T x; its scratch stays unused, since the product goes straight into the update. */
  const fromFactors = (
    dy: Address,
    x: Address,
    [M, O, I]: readonly [number, number, number],
    operands: ReturnType<typeof updateOperands>,
    kind: number,
  ): void => {
    if (M > FEW_ROWS) {
      product([dy, true], [x, false], [O, I, M], operands, kind);
      return;
    }
    launcher.launch(FEW_FACTORS, {
      operands: { dy: [dy, M * O], x: [x, M * I], ...operands },
      params: { M, O, I, ...scalars.current },
      constants: { KIND: kind },
      n: O * I,
    });
  };

  return {
    linear(x, w, y, M, O, I) {
      if (M > FEW_ROWS || M === 0) {
        product([x, false], [w, true], [M, O, I], stored(y, M * O), KIND.store);
        return;
      }
      const operands = { x: [x, M * I], w: [w, O * I], y: [y, M * O] } as const;
      launcher.launch(FEW, { operands, params: { M, O, I }, constants: { MANY: M > 4 }, n: O });
    },
    linearDx(dy, w, dx, M, O, I) {
      if (M > FEW_ROWS || M === 0) {
        product([dy, false], [w, false], [M, I, O], stored(dx, M * I), KIND.store);
        return;
      }
      const operands = { dy: [dy, M * O], w: [w, O * I], dx: [dx, M * I] } as const;
      const n = Math.ceil(I / 64);
      launcher.launch(FEW_DX, { operands, params: { M, O, I }, constants: { MANY: M > 4 }, n });
    },
    linearDw(dy, x, dw, M, O, I) {
      fromFactors(dy, x, [M, O, I], stored(dw, O * I), KIND.store);
    },
    adamwFromFactors(dy, x, w, m, v, M, O, I, factor) {
      fromFactors(dy, x, [M, O, I], updateOperands(O * I, w, m, v, factor), KIND.adamw);
    },
    sgdFromFactors(dy, x, w, m, M, O, I, factor) {
      fromFactors(dy, x, [M, O, I], updateOperands(O * I, w, m, NULL, factor), KIND.sgd);
    },
  };
}
