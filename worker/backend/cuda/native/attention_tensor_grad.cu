// targets: 80
/*
 * Gradients of attention on tensor cores, for bfloat16 and heads of a multiple of 16 up to 128 features; the plain
 * twins of the same signatures are rm_attention_dq_*_bf16 and rm_attention_dkv_*_bf16 in attention_grad.cu, whose
 * header says what is computed. Weights and ds stay in registers between the product that forms them and the one that
 * sums them up, as bfloat16.
 */
#include "attention_fragments.cuh"

#if RM_TENSOR_CORES

/*
 * A block has 128 queries, and 32 keys at a time stream by: three products, 6 * 128 * 32 * n operations for 128 n
 * bytes out of the L2 cache, 192 to the byte. The keys are copied while do v^T is formed, the next values during the
 * other two products.
 */
template <typename S>
RM_DEVICE void query_gradient(const bf16 *d_out, const bf16 *q, const bf16 *k, const bf16 *v, const float *lse,
                              const float *D, bf16 *dq, int tokens, int heads, int H, int KV, int n, int group,
                              int shift, int causal, float scale) {
  extern __shared__ float dyn_smem[];
  const head_tile at = tile_of_block((tokens + S::own - 1) / S::own, heads, true);
  const fragment_place place = place_of_thread();
  const int q0 = at.tile * S::own, queries = min(S::own, tokens - q0), first = 16 * S::M * place.warp;
  bf16 *q_tile = (bf16 *)dyn_smem, *d_tile = q_tile + S::own_tile, *k_tile = d_tile + S::own_tile,
       *v_tile = k_tile + S::stream_tile;
  bf16 *q_rows = q_tile + first * S::row, *d_rows = d_tile + first * S::row;

  const i64 token = at.b * tokens + q0, row = token * H + at.head, stride = (i64)H * n, kv_stride = (i64)KV * n;
  const i64 kv = at.b * tokens * kv_stride + (i64)((at.head + shift) / group) * n;
  const int keys = causal ? min(tokens, q0 + S::own) : tokens;
  start_rows<S::own, S>(q_tile, q + row * n, stride, queries, n);
  start_rows<S::own, S>(d_tile, d_out + row * n, stride, queries, n);
  start_rows<S::stream, S>(v_tile, v + kv, kv_stride, keys, n);
  cp_async_commit();

  typename S::results sum;
  clear<S>(sum);
  float log_sum[2 * S::M], shifted[2 * S::M], factor[2 * S::M];
#pragma unroll
  for (int r = 0; r < 2 * S::M; r++) {
    const i64 query = first + 8 * r + place.g;
    factor[r] = scale, log_sum[r] = shifted[r] = 0;
    if (query >= queries) continue;
    log_sum[r] = lse[row + query * H] * LOG2_E;
    shifted[r] = D[(token + query) * heads + at.head];
  }

#pragma unroll 1
  for (int k0 = 0; k0 < keys; k0 += S::stream) {
    const int next = k0 + S::stream;
    const bool seen = !causal || k0 < q0 + first + 16 * S::M;
    typename S::scores s, ds;
    /* The values are there, and nobody reads the keys before these any more. */
    cp_async_wait<0>();
    __syncthreads();
    start_rows<S::stream, S>(k_tile, k + kv + k0 * kv_stride, kv_stride, tokens - k0, n);
    cp_async_commit();
    if (seen) multiply_transposed<S>(ds, d_rows, v_tile, place.lane);
    cp_async_wait<0>();
    __syncthreads();
    if (next < keys) start_rows<S::stream, S>(v_tile, v + kv + next * kv_stride, kv_stride, tokens - next, n);
    cp_async_commit();
    if (!seen) continue;
    multiply_transposed<S>(s, q_rows, k_tile, place.lane);
    const bool hidden = next > tokens || (causal && (next - 1 > q0 + first || q0 == 0)) || tokens == 1;
#pragma unroll
    for (int m = 0; m < S::M; m++)
#pragma unroll
      for (int j = 0; j < S::score_blocks; j++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
          const int r = 2 * m + e / 2;
          const float p = exp2_of(fmaf(s[m][j][e], scale * LOG2_E, -log_sum[r]));
          ds[m][j][e] = p * (ds[m][j][e] - shifted[r]);
          if (hidden) {
            const int query = q0 + first + 8 * r + place.g, key = k0 + 8 * j + 2 * place.t + e % 2;
            if (!sees(query, key, tokens, causal) || sees_one_key(query, tokens, causal)) ds[m][j][e] = 0;
          }
        }
    add_product<S>(sum, ds, k_tile, place.lane);
  }
  store_results<S>(dq + row * n + first * stride, stride, queries - first, n, sum, factor, q_rows, place);
}

/*
 * A block has 64 keys and their values, a warp 16 of them, and the queries of all heads that read them stream by with
 * their gradients of the output: four products. Here weights are (keys, queries). Two tiles of queries are in shared
 * memory, so that one is copied while the other is at work; what belongs to a query, its lse and D, is read as early
 * and stored beside them. dk or dv may be null.
 */
template <typename S>
RM_DEVICE void key_gradients(const bf16 *d_out, const bf16 *q, const bf16 *k, const bf16 *v, const float *lse,
                             const float *D, bf16 *dk, bf16 *dv, int tokens, int heads, int H, int kv_heads, int KV,
                             int n, int group, int shift, int causal, float scale) {
  extern __shared__ float dyn_smem[];
  static_assert(2 * S::stream <= S::threads, "a thread to each lse and each D of a tile");
  const head_tile at = tile_of_block((tokens + S::own - 1) / S::own, kv_heads, false);
  const fragment_place place = place_of_thread();
  const int k0 = at.tile * S::own, keys = min(S::own, tokens - k0), first = 16 * S::M * place.warp;
  bf16 *k_tile = (bf16 *)dyn_smem, *v_tile = k_tile + S::own_tile, *streams = v_tile + S::own_tile;
  float *statistics = (float *)(streams + 4 * S::stream_tile);
  bf16 *k_rows = k_tile + first * S::row, *v_rows = v_tile + first * S::row;

  const i64 stride = (i64)H * n, kv_stride = (i64)KV * n, kv = (at.b * tokens + k0) * kv_stride + (i64)at.head * n;
  start_rows<S::own, S>(k_tile, k + kv, kv_stride, keys, n);
  if (dk != nullptr) start_rows<S::own, S>(v_tile, v + kv, kv_stride, keys, n);

  typename S::results dk_sum, dv_sum;
  clear<S>(dk_sum);
  clear<S>(dv_sum);
  const head_range readers = readers_of(at.head, heads, group, shift);
  /* Tiles of queries of each head, counted on from head to head. */
  const int q_first = causal ? k0 / S::stream * S::stream : 0;
  const int tiles = (tokens - q_first + S::stream - 1) / S::stream;
  const i64 steps = (i64)tiles * max(0, readers.end - readers.first);

  int next_head = readers.first, next_q0 = q_first;
  float statistic = 0;
  /* Starts to copy the next tile of queries, and reads a statistic of it. */
  const auto start_next = [&](i64 step) {
    const int count = min(S::stream, tokens - next_q0), query = threadIdx.x % S::stream;
    const i64 token = at.b * tokens + next_q0, row = token * H + next_head;
    bf16 *tile = streams + step % 2 * 2 * S::stream_tile;
    start_rows<S::stream, S>(tile, q + row * n, stride, count, n);
    start_rows<S::stream, S>(tile + S::stream_tile, d_out + row * n, stride, count, n);
    statistic = 0;
    if (query < count && threadIdx.x < S::stream)
      statistic = lse[row + (i64)query * H] * LOG2_E;
    else if (query < count && threadIdx.x < 2 * S::stream && dk != nullptr)
      statistic = D[(token + query) * heads + next_head];
    next_q0 += S::stream;
    if (next_q0 >= tokens) next_q0 = q_first, next_head++;
  };
  const auto keep_statistic = [&](i64 step) {
    if (threadIdx.x < 2 * S::stream) statistics[step % 2 * 2 * S::stream + threadIdx.x] = statistic;
  };

  if (steps > 0) {
    start_next(0);
    keep_statistic(0);
  }
  cp_async_commit();
  int q0 = q_first;
#pragma unroll 1
  for (i64 step = 0; step < steps; step++) {
    /* This tile is there, and nobody reads the one before any more. */
    cp_async_wait<0>();
    __syncthreads();
    if (step + 1 < steps) start_next(step + 1);
    cp_async_commit();
    const bf16 *q_tile = streams + step % 2 * 2 * S::stream_tile, *d_tile = q_tile + S::stream_tile;
    const float *log_sums = statistics + step % 2 * 2 * S::stream, *shifts = log_sums + S::stream;
    const int end = q0 + S::stream;
    /* Queries before all keys of a warp are no work for it. */
    if (!causal || end > k0 + first) {
      typename S::scores p, ds;
      multiply_transposed<S>(p, k_rows, q_tile, place.lane);
      if (dk != nullptr)
        multiply_transposed<S>(ds, v_rows, d_tile, place.lane);
      else
        clear_scores<S>(ds);
      const bool hidden = end > tokens || (causal && (q0 < k0 + first + 16 * S::M - 1 || q0 == 0)) || tokens == 1;
#pragma unroll
      for (int j = 0; j < S::score_blocks; j++) {
        const float2 log_sum = *(const float2 *)(log_sums + 8 * j + 2 * place.t);
        const float2 shifted = *(const float2 *)(shifts + 8 * j + 2 * place.t);
#pragma unroll
        for (int m = 0; m < S::M; m++)
#pragma unroll
          for (int e = 0; e < 4; e++) {
            float x = exp2_of(fmaf(p[m][j][e], scale * LOG2_E, -(e % 2 ? log_sum.y : log_sum.x)));
            float y = x * (ds[m][j][e] - (e % 2 ? shifted.y : shifted.x));
            if (hidden) {
              const int query = q0 + 8 * j + 2 * place.t + e % 2, key = k0 + first + 16 * m + e / 2 * 8 + place.g;
              const bool is_seen = sees(query, key, tokens, causal);
              if (!is_seen) x = 0;
              if (!is_seen || sees_one_key(query, tokens, causal)) y = 0;
            }
            p[m][j][e] = x, ds[m][j][e] = y;
          }
      }
      if (dv != nullptr) add_product<S>(dv_sum, p, d_tile, place.lane);
      if (dk != nullptr) add_product<S>(dk_sum, ds, q_tile, place.lane);
    }
    keep_statistic(step + 1);
    q0 = end < tokens ? end : q_first;
  }
  cp_async_wait<0>();
  __syncthreads();

  float factor[2 * S::M];
  const i64 to = kv + first * kv_stride;
#pragma unroll
  for (int r = 0; r < 2 * S::M; r++) factor[r] = scale;
  if (dk != nullptr) store_results<S>(dk + to, kv_stride, keys - first, n, dk_sum, factor, k_rows, place);
#pragma unroll
  for (int r = 0; r < 2 * S::M; r++) factor[r] = 1;
  if (dv != nullptr) store_results<S>(dv + to, kv_stride, keys - first, n, dv_sum, factor, v_rows, place);
}

/* As TENSOR_DQ and TENSOR_DKV in kernels/attention.ts. */
#define GRADIENTS(N, STREAM)                                                                                       \
  RM_KERNEL __launch_bounds__(128, 2) rm_attention_tensor_dq_##N(                                                  \
      const bf16 *d_out, const bf16 *q, const bf16 *k, const bf16 *v, const float *lse, const float *D, bf16 *dq,  \
      int T, int heads, int H, int KV, int n, int group, int shift, int causal, float scale) {                     \
    query_gradient<fragments<N, 2, 32>>(d_out, q, k, v, lse, D, dq, T, heads, H, KV, n, group, shift, causal,      \
                                        scale);                                                                    \
  }                                                                                                                \
  RM_KERNEL __launch_bounds__(128, 2) rm_attention_tensor_dkv_##N(                                                 \
      const bf16 *d_out, const bf16 *q, const bf16 *k, const bf16 *v, const float *lse, const float *D, bf16 *dk,  \
      bf16 *dv, int T, int heads, int H, int kv_heads, int KV, int n, int group, int shift, int causal,            \
      float scale) {                                                                                               \
    key_gradients<fragments<N, 1, STREAM>>(d_out, q, k, v, lse, D, dk, dv, T, heads, H, kv_heads, KV, n, group,    \
                                           shift, causal, scale);                                                  \
  }
GRADIENTS(64, 64)
GRADIENTS(128, 32)

#endif
