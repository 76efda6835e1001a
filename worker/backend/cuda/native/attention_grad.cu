// targets: 75
/*
 * Gradients of attention without tensor cores, in the tiles of attention.cu. With p = exp(score - lse) formed anew, D
 * = sum of do * o over a head's features and ds = p (do v^T - D), they are dq = scale ds k, dk = scale ds^T q and dv
 * = p^T do. Each is summed where it is kept: dq by a block with a tile of queries while keys stream by, dk and dv by
 * a block with a tile of keys while the queries of all its heads do. That is seven products instead of the five of
 * one pass, for sums of a fixed order and no atomics.
 *
 * A launch has `heads` query heads of the H that rows hold, `kv_heads` of KV, and D(B,T,heads).
 */
#include "attention_tiles.cuh"

/* D of rows r = (b T + t) heads + h: a warp each. */
template <typename T>
RM_DEVICE void shifts(const T *d_out, const T *o, float *D, i64 rows, int heads, int H, int n) {
  const i64 r = (i64)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, token = r / heads;
  if (r >= rows) return;
  const int lane = threadIdx.x % 32;
  const i64 at = (token * H + (r - token * heads)) * n;
  float sum = 0;
  if (by_four(d_out, n) && by_four(o, n))
    for (int column = 4 * lane; column < n; column += 128) {
      const float4 a = load4(d_out + at + column), b = load4(o + at + column);
      sum += (a.x * b.x + a.y * b.y) + (a.z * b.z + a.w * b.w);
    }
  else
    for (int column = lane; column < n; column += 32) sum += widen(d_out[at + column]) * widen(o[at + column]);
  sum = warp_sum(sum);
  if (lane == 0) D[r] = sum;
}

template <typename S, typename T>
RM_DEVICE void query_gradient(const T *d_out, const T *q, const T *k, const T *v, const float *lse, const float *D,
                              T *dq, int tokens, int heads, int H, int KV, int n, int group, int shift, int causal,
                              float scale) {
  extern __shared__ float dyn_smem[];
  const S t = tiling_of_thread<S>();
  const head_tile at = tile_of_block((tokens + S::own - 1) / S::own, heads, true);
  const int q0 = at.tile * S::own, queries = min(S::own, tokens - q0), floats = row_floats(n);
  float *q_tile = dyn_smem, *d_tile = q_tile + S::own * floats, *stream = d_tile + S::own * floats,
        *weights = stream + S::stream * floats;
  const i64 token = at.b * tokens + q0, row = token * H + at.head, stride = (i64)H * n, kv_stride = (i64)KV * n;
  const i64 kv = at.b * tokens * kv_stride + (i64)((at.head + shift) / group) * n;

  accumulator<S> sum;
  clear<S>(sum);
  float s[S::R][S::C], ds[S::R][S::C], shifted[S::R], log_sum[S::R], factor[S::R];
#pragma unroll
  for (int i = 0; i < S::R; i++) {
    const i64 query = t.y + i * S::Y;
    factor[i] = scale, log_sum[i] = shifted[i] = 0;
    if (query >= queries) continue;
    log_sum[i] = lse[row + query * H] * LOG2_E;
    shifted[i] = D[(token + query) * heads + at.head];
  }
  load_tile<S::own, S>(q_tile, q + row * n, stride, queries, n);
  load_tile<S::own, S>(d_tile, d_out + row * n, stride, queries, n);
  const int keys = causal ? min(tokens, q0 + S::own) : tokens;
  for (int k0 = 0; k0 < keys; k0 += S::stream) {
    const int count = min(S::stream, tokens - k0);
    load_tile<S::stream, S>(stream, v + kv + k0 * kv_stride, kv_stride, count, n);
    __syncthreads();
    times_transposed(ds, t, d_tile, stream, n);
    __syncthreads();
    load_tile<S::stream, S>(stream, k + kv + k0 * kv_stride, kv_stride, count, n);
    __syncthreads();
    times_transposed(s, t, q_tile, stream, n);
#pragma unroll
    for (int i = 0; i < S::R; i++)
#pragma unroll
      for (int j = 0; j < S::C; j++) {
        const int query = q0 + t.y + i * S::Y, key = k0 + t.x + j * ACROSS;
        const float p = exp2_of(fmaf(s[i][j], scale * LOG2_E, -log_sum[i]));
        const bool counts = sees(query, key, tokens, causal) && !sees_one_key(query, tokens, causal);
        ds[i][j] = counts ? p * (ds[i][j] - shifted[i]) : 0;
      }
    keep_weights(weights, t, ds);
    __syncwarp();
    add_weighted(sum, t, weights, stream, n);
    __syncthreads();
  }
  store_rows(dq + row * n, stride, queries, n, t, sum, factor, q_tile);
}

/* dk or dv may be null. Here the rows of weights are keys and their columns queries. */
template <typename S, typename T>
RM_DEVICE void key_gradients(const T *d_out, const T *q, const T *k, const T *v, const float *lse, const float *D,
                             T *dk, T *dv, int tokens, int heads, int H, int kv_heads, int KV, int n, int group,
                             int shift, int causal, float scale) {
  extern __shared__ float dyn_smem[];
  const S t = tiling_of_thread<S>();
  const head_tile at = tile_of_block((tokens + S::own - 1) / S::own, kv_heads, false);
  const int k0 = at.tile * S::own, keys = min(S::own, tokens - k0), floats = row_floats(n);
  float *k_tile = dyn_smem, *v_tile = k_tile + S::own * floats, *stream = v_tile + S::own * floats,
        *weights = stream + S::stream * floats;
  const i64 stride = (i64)H * n, kv_stride = (i64)KV * n;
  const i64 kv = (at.b * tokens + k0) * kv_stride + (i64)at.head * n;

  accumulator<S> dk_sum, dv_sum;
  clear<S>(dk_sum);
  clear<S>(dv_sum);
  load_tile<S::own, S>(k_tile, k + kv, kv_stride, keys, n);
  if (dk != nullptr) load_tile<S::own, S>(v_tile, v + kv, kv_stride, keys, n);
  const head_range readers = readers_of(at.head, heads, group, shift);
  for (int head = readers.first; head < readers.end; head++)
    for (int q0 = causal ? k0 / S::stream * S::stream : 0; q0 < tokens; q0 += S::stream) {
      const int count = min(S::stream, tokens - q0);
      const i64 token = at.b * tokens + q0, row = token * H + head;
      float p[S::R][S::C], ds[S::R][S::C];
      load_tile<S::stream, S>(stream, q + row * n, stride, count, n);
      __syncthreads();
      times_transposed(p, t, k_tile, stream, n);
      __syncthreads();
      load_tile<S::stream, S>(stream, d_out + row * n, stride, count, n);
#pragma unroll
      for (int j = 0; j < S::C; j++) {
        const i64 query = t.x + j * ACROSS;
        const float log_sum = query < count ? lse[row + query * H] * LOG2_E : 0;
#pragma unroll
        for (int i = 0; i < S::R; i++) {
          const float x = exp2_of(fmaf(p[i][j], scale * LOG2_E, -log_sum));
          p[i][j] = sees(q0 + (int)query, k0 + t.y + i * S::Y, tokens, causal) ? x : 0;
        }
      }
      if (dv != nullptr) keep_weights(weights, t, p);
      __syncthreads();
      if (dv != nullptr) add_weighted(dv_sum, t, weights, stream, n);
      if (dk != nullptr) times_transposed(ds, t, v_tile, stream, n);
      __syncthreads();
      if (dk == nullptr) continue;
      load_tile<S::stream, S>(stream, q + row * n, stride, count, n);
#pragma unroll
      for (int j = 0; j < S::C; j++) {
        const int query = t.x + j * ACROSS;
        const float shifted = query < count ? D[(token + query) * heads + head] : 0;
        const bool counts = query < count && !sees_one_key(q0 + query, tokens, causal);
#pragma unroll
        for (int i = 0; i < S::R; i++) ds[i][j] = counts ? p[i][j] * (ds[i][j] - shifted) : 0;
      }
      keep_weights(weights, t, ds);
      __syncthreads();
      add_weighted(dk_sum, t, weights, stream, n);
      __syncthreads();
    }
  float factor[S::R];
#pragma unroll
  for (int i = 0; i < S::R; i++) factor[i] = scale;
  /* Threads may still load these tiles where there was no query. */
  __syncthreads();
  if (dk != nullptr) store_rows(dk + kv, kv_stride, keys, n, t, dk_sum, factor, k_tile);
#pragma unroll
  for (int i = 0; i < S::R; i++) factor[i] = 1;
  if (dv != nullptr) store_rows(dv + kv, kv_stride, keys, n, t, dv_sum, factor, v_tile);
}

#define SHIFTS(TYPE, SUFFIX)                                                                                       \
  RM_KERNEL rm_attention_shifts_##SUFFIX(const TYPE *d_out, const TYPE *o, float *D, i64 rows, int heads, int H,   \
                                         int n) {                                                                  \
    shifts(d_out, o, D, rows, heads, H, n);                                                                        \
  }
#define GRADIENTS(N, Y, R, C, TYPE, SUFFIX)                                                                        \
  RM_KERNEL __launch_bounds__(Y *ACROSS, 2) rm_attention_dq_##N##_##SUFFIX(                                        \
      const TYPE *d_out, const TYPE *q, const TYPE *k, const TYPE *v, const float *lse, const float *D, TYPE *dq,  \
      int T, int heads, int H, int KV, int n, int group, int shift, int causal, float scale) {                     \
    query_gradient<tiling<N, Y, R, C>>(d_out, q, k, v, lse, D, dq, T, heads, H, KV, n, group, shift, causal,       \
                                       scale);                                                                     \
  }                                                                                                                \
  RM_KERNEL __launch_bounds__(Y *ACROSS, 2) rm_attention_dkv_##N##_##SUFFIX(                                       \
      const TYPE *d_out, const TYPE *q, const TYPE *k, const TYPE *v, const float *lse, const float *D, TYPE *dk,  \
      TYPE *dv, int T, int heads, int H, int kv_heads, int KV, int n, int group, int shift, int causal,            \
      float scale) {                                                                                               \
    key_gradients<tiling<N, Y, R, C>>(d_out, q, k, v, lse, D, dk, dv, T, heads, H, kv_heads, KV, n, group, shift,  \
                                      causal, scale);                                                              \
  }
/* As BACKWARD in kernels/attention.ts. A head of 128 takes 92 KiB by its own form, and 26 by the next. */
#define GRADIENT_FORMS(TYPE, SUFFIX)     \
  SHIFTS(TYPE, SUFFIX)                   \
  GRADIENTS(64, 16, 4, 4, TYPE, SUFFIX)  \
  GRADIENTS(128, 16, 4, 4, TYPE, SUFFIX) \
  GRADIENTS(256, 16, 1, 2, TYPE, SUFFIX) \
  GRADIENTS(512, 8, 1, 1, TYPE, SUFFIX)
GRADIENT_FORMS(float, f32)
GRADIENT_FORMS(bf16, bf16)
