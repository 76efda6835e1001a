/*
 * Updates of weights w(O,I) whose gradient dy^T x is formed on the way from dy(M,O) and x(M,I) and never stored. What few rows
 * and tiles share: how a warp updates some rows of 128 columns, when it knows their gradient.
 */
#pragma once
#include "update.cuh"
#include "vectors.cuh"

/* Columns that a warp updates at a time; a lane has four. */
#define BAND_COLUMNS 128

/* Where a lane's columns lie: side by side as one vector, or where rows are not aligned to vectors 32 apart. */
template <bool VECTORS>
struct band_lane {
  static RM_CALL int first(int lane) { return VECTORS ? 4 * lane : lane; }
  static RM_CALL int place(int j) { return VECTORS ? j : 32 * j; }
};

/*
 * Updates weight rows [o, o + ROWS) in the columns of this lane, from column i < I on, by the gradient that `gradient(g)`,
 * g[ROWS][4], gives. All loads are on their way meanwhile: 3 ROWS vectors of a lane for AdamW, 1.5 ROWS KiB of a warp.
 * `at`: w, m and v as far as the update has them.
 */
template <update_kind KIND, bool VECTORS, int ROWS, typename G>
RM_DEVICE void update_band(float *const (&at)[3], i64 O, i64 I, i64 o, i64 i,
                           const step_scalars *scalars, const G &gradient) {
  constexpr int COUNT = update_tensors<KIND>::count;
  using lane_at = band_lane<VECTORS>;
  float s[COUNT][ROWS][4];
  const int last = (int)min((i64)(ROWS - 1), O - 1 - o);
  const i64 base = o * I + i;
  if constexpr (KIND != STORE) {
#pragma unroll
    for (int k = 0; k < COUNT; k++)
#pragma unroll
      for (int c = 0; c < ROWS; c++) {
        /* Rows past the end: the last one again, so that no load waits for a branch. */
        const float *from = at[k] + base + min(c, last) * I;
        if constexpr (VECTORS) {
          unpack(load16_once(from), s[k][c]);
        } else {
#pragma unroll
          for (int j = 0; j < 4; j++)
            s[k][c][j] = i + lane_at::place(j) < I ? from[lane_at::place(j)] : 0.0f;
        }
      }
    after_loads();
  }
  float g[ROWS][4];
  gradient(g);
  step_scalars by = {};
  if constexpr (KIND != STORE) by = *scalars;
#pragma unroll
  for (int c = 0; c < ROWS; c++)
#pragma unroll
    for (int j = 0; j < 4; j++) {
      float e[COUNT];
#pragma unroll
      for (int k = 0; k < COUNT; k++) e[k] = s[k][c][j];
      update_element<KIND>(g[c][j], e, by);
#pragma unroll
      for (int k = 0; k < COUNT; k++) s[k][c][j] = e[k];
    }
#pragma unroll
  for (int c = 0; c < ROWS; c++)
    if (c <= last) {
#pragma unroll
      for (int k = 0; k < COUNT; k++) {
        float *to = at[k] + base + c * I;
        if constexpr (VECTORS) {
          store16_once(to, pack(s[k][c]));
        } else {
#pragma unroll
          for (int j = 0; j < 4; j++)
            if (i + lane_at::place(j) < I) to[lane_at::place(j)] = s[k][c][j];
        }
      }
    }
}
