/*
 * Many rows M: updates of w(O,I) by dy^T x, tile by tile: a block forms 128 x 128 sums and uses them up. AdamW's 24 bytes an element
 * are then beside M multiply-adds of it; two blocks on a multiprocessor let one move them while the other multiplies.
 */
#pragma once
#include "factors.cuh"
#include "product_tile.cuh"

/* Weight rows of a warp at a time. */
#define BAND_ROWS 4

template <typename T, update_kind KIND, bool VECTORS>
RM_DEVICE void update_tile(const T *dy, const T *x, float *w, float *m, float *v, i64 M, i64 O, i64 I,
                           const float *factor, const step_scalars *scalars) {
  using lane_at = band_lane<VECTORS>;
  i64 o0, i0;
  tile_place(O, I, o0, i0);
  const float f = factor_of(factor);
  const int warp = threadIdx.x >> 5, warps = blockDim.x >> 5, column = lane_at::first(threadIdx.x & 31);
  product_tile<VECTORS>(dy, x, M, O, I, o0, i0, [&](const float *sums, int stride, int rows,
                                                        const auto &place) {
    const i64 i = i0 + column;
    if (i >= I) return;
#pragma unroll 1
    for (int r = warp * BAND_ROWS; r < rows; r += warps * BAND_ROWS) {
      const i64 o = o0 + place(r);
      if (o >= O) continue;
      update_band<KIND, VECTORS, BAND_ROWS>({w, m, v}, O, I, o, i, scalars, [&](float (&g)[BAND_ROWS][4]) {
#pragma unroll
        for (int c = 0; c < BAND_ROWS; c++) {
          const float *at = sums + (r + c) * stride + column;
          if constexpr (VECTORS) {
            unpack(load16(at), g[c]);
          } else {
#pragma unroll
            for (int j = 0; j < 4; j++) g[c][j] = at[lane_at::place(j)];
          }
#pragma unroll
          for (int j = 0; j < 4; j++) g[c][j] *= f;
        }
      });
    }
  });
}

#define UPDATE_TILE(T, NAME, THREADS, KIND, TITLE)                                                 \
  RM_KERNEL __launch_bounds__(THREADS, 2) rm_tile_##TITLE##_##NAME(                                \
      const T *dy, const T *x, float *w, float *m, float *v, i64 M, i64 O, i64 I,                  \
      const float *factor, const step_scalars *scalars) {                                          \
    update_tile<T, KIND, true>(dy, x, w, m, v, M, O, I, factor, scalars);                          \
  }                                                                                                \
  RM_KERNEL __launch_bounds__(THREADS, 2) rm_tile_##TITLE##_##NAME##_odd(                          \
      const T *dy, const T *x, float *w, float *m, float *v, i64 M, i64 O, i64 I,                  \
      const float *factor, const step_scalars *scalars) {                                          \
    update_tile<T, KIND, false>(dy, x, w, m, v, M, O, I, factor, scalars);                         \
  }
