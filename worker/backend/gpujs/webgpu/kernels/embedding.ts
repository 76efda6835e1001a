import { type Address, type Kernels, NULL } from "../../../kernels.ts";
import { WORKSPACE } from "../device-memory.ts";
import type { Launcher } from "../launcher.ts";
import type { WgslKernel } from "../wgsl-kernel.ts";
import { finishSum, TOTAL } from "./reduce.ts";
import {
  type CurrentScalars,
  KIND,
  UPDATE,
  UPDATE_OPERANDS,
  UPDATE_PARAMS,
  updateOperands,
} from "./updates.ts";

// Legend: M tokens, V local rows of a table from global row `start` on, D features. A row's gradient is the sum of its
// tokens' rows of dy, in token order.

const GATHER = {
  name: "embedding",
  operands: { ids: "i32", w: "f32", y: "f32" },
  params: { V: "i32", D: "u32", start: "i32" },
  by: "each",
  code: `
    fn run(i: u32) {
      let row = ids(i / params.D) - params.start;
      var value = 0.0f;
      if (row >= 0 && row < params.V) { value = w(u32(row) * params.D + i % params.D); }
      set_y(i, value);
    }`,
} as const satisfies WgslKernel;

/** A thread for each column walks all tokens: no two write the same element. */
const SCATTER = {
  name: "embeddingDw",
  operands: { dy: "f32", ids: "i32", dw: "f32" },
  params: { M: "u32", V: "i32", D: "u32", start: "i32" },
  by: "each",
  code: `
    fn run(column: u32) {
      for (var t = 0u; t < params.M; t++) {
        let row = ids(t) - params.start;
        if (row < 0 || row >= params.V) { continue; }
        let at = u32(row) * params.D + column;
        set_dw(at, dw(at) + dy(t * params.D + column));
      }
    }`,
} as const satisfies WgslKernel;

/**
 * order[0 .. own) = the tokens of own rows, sorted by row and in token order within it, with `own` behind: each token counts
 * those before it. The scratch holds the ends of rows, V of them, then `own`, then the order.
 */
const SORT = {
  name: "sortTokens",
  operands: { ids: "i32", scratch: "i32" },
  params: { V: "i32", start: "i32" },
  by: "each",
  code: `
    fn run(t: u32) {
      let row = ids(t) - params.start;
      var own = 0;
      var before = 0;
      for (var s = 0u; s < params.n; s++) {
        let other = ids(s) - params.start;
        if (other < 0 || other >= params.V) { continue; }
        own += 1;
        if (other < row || (other == row && s < t)) { before += 1; }
      }
      if (row >= 0 && row < params.V) { set_scratch(u32(params.V + 1 + before), i32(t)); }
      if (t == 0u) { set_scratch(u32(params.V), own); }
    }`,
} as const satisfies WgslKernel;

/** Where the tokens of each row end in the order: found by halving. */
const ENDS = {
  name: "rowEnds",
  operands: { ids: "i32", scratch: "i32" },
  params: { start: "i32" },
  by: "each",
  code: `
    fn run(row: u32) {
      var low = 0u;
      var high = u32(scratch(params.n));
      while (low < high) {
        let middle = (low + high) / 2u;
        let token = u32(scratch(params.n + 1u + middle));
        if (ids(token) - params.start <= i32(row)) { low = middle + 1u; } else { high = middle; }
      }
      set_scratch(row, i32(low));
    }`,
} as const satisfies WgslKernel;

const UPDATE_ROWS = {
  name: "updateFromRows",
  operands: { dy: "f32", scratch: "i32", ...UPDATE_OPERANDS },
  params: { V: "u32", D: "u32", ...UPDATE_PARAMS },
  by: "each",
  code: `${UPDATE}
    fn run(i: u32) {
      let row = i / params.D;
      let column = i % params.D;
      var begin = 0;
      if (row > 0u) { begin = scratch(row - 1u); }
      var g = 0.0f;
      for (var j = begin; j < scratch(row); j++) {
        g += dy(u32(scratch(params.V + 1u + u32(j))) * params.D + column);
      }
      update(i, g);
    }`,
} as const satisfies WgslKernel;

/** Squares of the rows' gradients: an element for each token that is its row's first, and each column. */
const SQUARES = {
  name: "rowSquares",
  operands: { dy: "f32", ids: "i32", scratch: "i32", parts: "f64" },
  params: { V: "u32", D: "u32", span: "u32" },
  libraries: ["float64"],
  by: "group",
  code: `${TOTAL}
    fn token(j: u32) -> u32 { return u32(scratch(params.V + 1u + j)); }
    fn run(group: u32, lane: u32) {
      let own = u32(scratch(params.V));
      var sum = vec2<u32>(0u, 0u);
      let end = min(own * params.D, (group + 1u) * params.span);
      for (var e = group * params.span + lane; e < end; e += THREADS) {
        let first = e / params.D;
        let column = e % params.D;
        let row = ids(token(first));
        if (first > 0u && ids(token(first - 1u)) == row) { continue; }
        var g = 0.0f;
        for (var j = first; j < own; j++) {
          if (ids(token(j)) != row) { break; }
          g += dy(token(j) * params.D + column);
        }
        let wide = f64_from_f32(g);
        sum = f64_add(sum, f64_mul(wide, wide));
      }
      let all = total(lane, sum);
      if (lane == 0u) { set_parts(group, all); }
    }`,
} as const satisfies WgslKernel;

const MOST_GROUPS = 1024;
const LEAST_SPAN = 4096;

export function embeddings(
  launcher: Launcher,
  scalars: CurrentScalars,
  fill: Kernels["fill"],
): Pick<
  Kernels,
  "embedding" | "embeddingDw" | "adamwFromRows" | "sgdFromRows" | "sumSquaresFromRows"
> {
  const sort = (ids: Address, scratch: Address, M: number, V: number, start: number): void => {
    const operands = { ids: [ids, M], scratch: [scratch, V + 1 + M] } as const;
    // No token, no one to write that there is none.
    if (M === 0) fill(scratch + 4 * V, 1, 0);
    launcher.launch(SORT, { operands, params: { V, start }, n: M });
  };
  const fromRows = (
    [dy, ids, scratch]: readonly [Address, Address, Address],
    [M, V, D, start]: readonly [number, number, number, number],
    operands: ReturnType<typeof updateOperands>,
    kind: number,
  ): void => {
    sort(ids, scratch, M, V, start);
    const length = V + 1 + M;
    launcher.launch(ENDS, {
      operands: { ids: [ids, M], scratch: [scratch, length] },
      params: { start },
      n: V,
    });
    launcher.launch(UPDATE_ROWS, {
      operands: { dy: [dy, M * D], scratch: [scratch, length], ...operands },
      params: { V, D, ...scalars.current },
      constants: { KIND: kind },
      n: V * D,
    });
  };
  return {
    embedding(ids, w, y, M, V, D, start) {
      const operands = { ids: [ids, M], w: [w, V * D], y: [y, M * D] } as const;
      launcher.launch(GATHER, { operands, params: { V, D, start }, n: M * D });
    },
    embeddingDw(dy, ids, dw, M, V, D, start) {
      fill(dw, V * D, 0);
      const operands = { dy: [dy, M * D], ids: [ids, M], dw: [dw, V * D] } as const;
      launcher.launch(SCATTER, { operands, params: { M, V, D, start }, n: V === 0 ? 0 : D });
    },
    adamwFromRows(dy, ids, w, m, v, M, V, D, start, factor, _, scratch) {
      const operands = updateOperands(V * D, w, m, v, factor);
      fromRows([dy, ids, scratch], [M, V, D, start], operands, KIND.adamw);
    },
    sgdFromRows(dy, ids, w, m, M, V, D, start, factor, _, scratch) {
      const operands = updateOperands(V * D, w, m, NULL, factor);
      fromRows([dy, ids, scratch], [M, V, D, start], operands, KIND.sgd);
    },
    sumSquaresFromRows(dy, ids, M, V, D, start, scratch, s) {
      sort(ids, scratch, M, V, start);
      const n = M * D;
      const span = Math.max(LEAST_SPAN, Math.ceil(n / MOST_GROUPS));
      const groups = Math.ceil(n / span);
      launcher.launch(SQUARES, {
        operands: {
          dy: [dy, n],
          ids: [ids, M],
          scratch: [scratch, V + 1 + M],
          parts: [WORKSPACE, groups],
        },
        params: { V, D, span },
        n: groups,
      });
      finishSum(launcher, groups, { double: s });
    },
  };
}
