/*
 * Optimizer updates from a gradient. AdamW moves 28 bytes an element, and no arithmetic comes near that: a thread has two
 * vectors of each of its four tensors in flight, 128 bytes. Of these only the weights are read again before the next step.
 */
#include "update.cuh"
#include "vectors.cuh"

/* Vectors of one thread at a time. */
#define VECTORS 2
#define TILE (STREAM_THREADS * VECTORS * 4)

template <update_kind KIND>
RM_DEVICE void update_one(float *const (&at)[update_tensors<KIND>::count], const float *g, i64 e,
                          float factor, const step_scalars &by) {
  constexpr int COUNT = update_tensors<KIND>::count;
  float s[COUNT];
#pragma unroll
  for (int k = 0; k < COUNT; k++) s[k] = at[k][e];
  update_element<KIND>(factor * g[e], s, by);
#pragma unroll
  for (int k = 0; k < COUNT; k++) at[k][e] = s[k];
}

/* All elements of the tensors `at`, w first; `factor` multiplies the gradient and may be left out. */
template <update_kind KIND>
RM_DEVICE void update(float *const (&at)[update_tensors<KIND>::count], const float *g, i64 n,
                      const float *factor_at, const step_scalars *scalars) {
  constexpr int COUNT = update_tensors<KIND>::count;
  const step_scalars by = *scalars;
  const float factor = factor_of(factor_at);
  bool vectors = aligned16(g);
#pragma unroll
  for (int k = 0; k < COUNT; k++) vectors = vectors && aligned16(at[k]);
  for (i64 tile = (i64)blockIdx.x * TILE; tile < n; tile += (i64)gridDim.x * TILE) {
    if (vectors && tile + TILE <= n) {
      uint4 loaded[VECTORS][COUNT + 1];
#pragma unroll
      for (int u = 0; u < VECTORS; u++) {
        const i64 e = tile + (u * STREAM_THREADS + (int)threadIdx.x) * 4;
#pragma unroll
        for (int k = 0; k < COUNT; k++)
          loaded[u][k] = k == 0 ? load16(at[k] + e) : load16_once(at[k] + e);
        loaded[u][COUNT] = load16_once(g + e);
      }
      after_loads();
#pragma unroll
      for (int u = 0; u < VECTORS; u++) {
        const i64 e = tile + (u * STREAM_THREADS + (int)threadIdx.x) * 4;
        float values[COUNT + 1][4];
#pragma unroll
        for (int k = 0; k <= COUNT; k++) unpack(loaded[u][k], values[k]);
#pragma unroll
        for (int j = 0; j < 4; j++) {
          float s[COUNT];
#pragma unroll
          for (int k = 0; k < COUNT; k++) s[k] = values[k][j];
          update_element<KIND>(factor * values[COUNT][j], s, by);
#pragma unroll
          for (int k = 0; k < COUNT; k++) values[k][j] = s[k];
        }
#pragma unroll
        for (int k = 0; k < COUNT; k++) {
          if (k == 0)
            store16(at[k] + e, pack(values[k]));
          else
            store16_once(at[k] + e, pack(values[k]));
        }
      }
    } else {
#pragma unroll 1
      for (int u = 0; u < VECTORS * 4; u++) {
        const i64 e = tile + u * STREAM_THREADS + (int)threadIdx.x;
        if (e < n) update_one<KIND>(at, g, e, factor, by);
      }
    }
  }
}

RM_KERNEL rm_adamw(float *w, const float *g, float *m, float *v, i64 n, const float *factor,
                   const step_scalars *s) {
  update<ADAMW>({w, m, v}, g, n, factor, s);
}

RM_KERNEL rm_sgd(float *w, const float *g, i64 n, const float *factor, const step_scalars *s) {
  update<SGD>({w}, g, n, factor, s);
}

RM_KERNEL rm_sgd_momentum(float *w, const float *g, float *m, i64 n, const float *factor,
                          const step_scalars *s) {
  update<SGD_MOMENTUM>({w, m}, g, n, factor, s);
}
