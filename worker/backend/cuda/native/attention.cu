// targets: 75
/*
 * Attention's forward pass without tensor cores: a block has a tile of queries and lets keys and values stream by,
 * with the softmax's largest score and sum so far in registers (FlashAttention-2). No matrix of scores is larger than
 * a tile, and device memory sees q and o once; k and v are read once per tile of queries, from the L2 cache for all
 * but the first. float32 always comes here; bfloat16 where attention_tensor.cu has no code for the device or the
 * head.
 */
#include "attention_tiles.cuh"

/* Scores become weights 2^(s * scale - largest so far); `back` is what earlier weights are to be multiplied by. */
template <typename S>
RM_DEVICE void soften(float (&s)[S::R][S::C], const S &t, int q0, int k0, int T, int causal, float scale,
                      float (&largest)[S::R], float (&sum)[S::R], float (&back)[S::R]) {
  const bool hidden = k0 + S::stream > T || (causal && k0 + S::stream - 1 > q0);
#pragma unroll
  for (int i = 0; i < S::R; i++) {
    float top = MINUS_INFINITY;
#pragma unroll
    for (int j = 0; j < S::C; j++) {
      const int query = q0 + t.y + i * S::Y, key = k0 + t.x + j * ACROSS;
      if (hidden && !(key < T && (!causal || key <= query))) s[i][j] = MINUS_INFINITY;
      top = fmaxf(top, s[i][j]);
    }
    top = fmaxf(largest[i], row_max(top) * scale);
    back[i] = exp2_of(largest[i] - top);
    largest[i] = top;
    float total = 0;
#pragma unroll
    for (int j = 0; j < S::C; j++) {
      s[i][j] = exp2_of(fmaf(s[i][j], scale, -top));
      total += s[i][j];
    }
    sum[i] = fmaf(sum[i], back[i], total);
  }
}

template <typename S, typename T>
RM_DEVICE void forward(const T *q, const T *k, const T *v, T *o, float *lse, int tokens, int H, int KV, int n,
                       int group, int shift, int causal, float scale) {
  extern __shared__ float dyn_smem[];
  const S t = tiling_of_thread<S>();
  const head_tile at = tile_of_block((tokens + S::own - 1) / S::own, H, true);
  const int q0 = at.tile * S::own, queries = min(S::own, tokens - q0), floats = row_floats(n);
  float *q_tile = dyn_smem, *stream = q_tile + S::own * floats, *weights = stream + S::stream * floats;

  const i64 row = (at.b * tokens + q0) * H + at.head, stride = (i64)H * n, kv_stride = (i64)KV * n;
  const i64 kv = at.b * tokens * kv_stride + (i64)((at.head + shift) / group) * n;

  accumulator<S> out;
  clear<S>(out);
  float largest[S::R], sum[S::R], back[S::R], s[S::R][S::C];
#pragma unroll
  for (int i = 0; i < S::R; i++) largest[i] = MINUS_INFINITY, sum[i] = 0;

  load_tile<S::own, S>(q_tile, q + row * n, stride, queries, n);
  const int keys = causal ? min(tokens, q0 + S::own) : tokens;
  for (int k0 = 0; k0 < keys; k0 += S::stream) {
    const int count = min(S::stream, tokens - k0);
    load_tile<S::stream, S>(stream, k + kv + k0 * kv_stride, kv_stride, count, n);
    __syncthreads();
    times_transposed(s, t, q_tile, stream, n);
    soften(s, t, q0, k0, tokens, causal, scale * LOG2_E, largest, sum, back);
    __syncthreads();
    if (o == nullptr) continue;
    keep_weights(weights, t, s);
    load_tile<S::stream, S>(stream, v + kv + k0 * kv_stride, kv_stride, count, n);
    __syncthreads();
#pragma unroll
    for (int i = 0; i < S::R; i++)
#pragma unroll
      for (int g = 0; g < S::vectors; g++) {
        float4 &x = out[i][g];
        x = make_float4(x.x * back[i], x.y * back[i], x.z * back[i], x.w * back[i]);
      }
    add_weighted(out, t, weights, stream, n);
    __syncthreads();
  }

  float inverse[S::R];
#pragma unroll
  for (int i = 0; i < S::R; i++) {
    const float total = row_sum(sum[i]);
    const int query = t.y + i * S::Y;
    inverse[i] = 1 / total;
    if (lse != nullptr && t.x == 0 && query < queries)
      lse[row + (i64)query * H] = fmaf(largest[i], LN_2, logf(total));
  }
  if (o != nullptr) store_rows(o + row * n, stride, queries, n, t, out, inverse, q_tile);
}

/* lse(B,T,H) = log of the sum of a query's exp(score). o or lse may be null, and v with o. scale = 1 / sqrt(n). */
#define ATTENTION(N, Y, R, C, TYPE, SUFFIX)                                                                        \
  RM_KERNEL __launch_bounds__(Y *ACROSS, 3) rm_attention_##N##_##SUFFIX(                                           \
      const TYPE *q, const TYPE *k, const TYPE *v, TYPE *o, float *lse, int T, int H, int KV, int n, int group,    \
      int shift, int causal, float scale) {                                                                        \
    forward<tiling<N, Y, R, C>>(q, k, v, o, lse, T, H, KV, n, group, shift, causal, scale);                        \
  }
/* Heads of at most so many features, in at most 64 KiB of shared memory: as FORWARD in kernels/attention.ts. */
#define ATTENTION_FORMS(TYPE, SUFFIX)    \
  ATTENTION(64, 16, 4, 4, TYPE, SUFFIX)  \
  ATTENTION(128, 16, 4, 4, TYPE, SUFFIX) \
  ATTENTION(256, 16, 2, 2, TYPE, SUFFIX) \
  ATTENTION(512, 16, 1, 1, TYPE, SUFFIX)
ATTENTION_FORMS(float, f32)
ATTENTION_FORMS(bf16, bf16)
