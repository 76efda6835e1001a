// targets: 80
/*
 * Attention's forward pass on tensor cores, for bfloat16 and heads of a multiple of 16 up to 128 features; its plain
 * twins of the same signature are rm_attention_*_bf16 in attention.cu. A block of 4 warps has 128 queries, a warp 32
 * of them; 64 keys at a time stream by, the next keys being copied while values are at work, and values while keys
 * are. Weights stay in the registers that their scores were formed in. So a block does 4 * 128 * 64 * n operations
 * for 256 n bytes out of the L2 cache: 128 to the byte. Newer devices run the code of compute_80.
 */
#include "attention_fragments.cuh"

#if RM_TENSOR_CORES

/* Scores become weights 2^(s * scale - largest so far); `back` is what earlier weights are to be multiplied by. */
template <typename S>
RM_DEVICE void soften(typename S::scores &s, float scale, float (&largest)[2 * S::M], float (&sum)[2 * S::M],
                      float (&back)[2 * S::M]) {
#pragma unroll
  for (int r = 0; r < 2 * S::M; r++) {
    const int m = r / 2, e = r % 2 * 2;
    float top = fmaxf(s[m][0][e], s[m][0][e + 1]);
#pragma unroll
    for (int j = 1; j < S::score_blocks; j++) top = fmaxf(top, fmaxf(s[m][j][e], s[m][j][e + 1]));
    top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
    top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
    top = fmaxf(largest[r], top * scale);
    back[r] = exp2_of(largest[r] - top);
    largest[r] = top;
    float total = 0;
#pragma unroll
    for (int j = 0; j < S::score_blocks; j++) {
      s[m][j][e] = exp2_of(fmaf(s[m][j][e], scale, -top));
      s[m][j][e + 1] = exp2_of(fmaf(s[m][j][e + 1], scale, -top));
      total += s[m][j][e] + s[m][j][e + 1];
    }
    sum[r] = fmaf(sum[r], back[r], total);
  }
}

template <typename S>
RM_DEVICE void forward(const bf16 *q, const bf16 *k, const bf16 *v, bf16 *o, float *lse, int tokens, int H, int KV,
                       int n, int group, int shift, int causal, float scale) {
  extern __shared__ float dyn_smem[];
  const head_tile at = tile_of_block((tokens + S::own - 1) / S::own, H, true);
  const fragment_place place = place_of_thread();
  const int q0 = at.tile * S::own, queries = min(S::own, tokens - q0), first = 16 * S::M * place.warp;
  bf16 *q_tile = (bf16 *)dyn_smem, *k_tile = q_tile + S::own_tile, *v_tile = k_tile + S::stream_tile;
  bf16 *rows = q_tile + first * S::row;

  const i64 row = (at.b * tokens + q0) * H + at.head, stride = (i64)H * n, kv_stride = (i64)KV * n;
  const i64 kv = at.b * tokens * kv_stride + (i64)((at.head + shift) / group) * n;

  typename S::results out;
  typename S::scores s;
  clear<S>(out);
  float largest[2 * S::M], sum[2 * S::M], back[2 * S::M];
#pragma unroll
  for (int r = 0; r < 2 * S::M; r++) largest[r] = MINUS_INFINITY, sum[r] = 0;

  const int keys = causal ? min(tokens, q0 + S::own) : tokens;
  start_rows<S::own, S>(q_tile, q + row * n, stride, queries, n);
  start_rows<S::stream, S>(k_tile, k + kv, kv_stride, keys, n);
  cp_async_commit();
#pragma unroll 1
  for (int k0 = 0; k0 < keys; k0 += S::stream) {
    /* The keys are there, and nobody reads the values before these any more. */
    cp_async_wait<0>();
    __syncthreads();
    if (o != nullptr) start_rows<S::stream, S>(v_tile, v + kv + k0 * kv_stride, kv_stride, tokens - k0, n);
    cp_async_commit();
    /* Keys past all queries of a warp are no work for it. */
    const bool seen = !causal || k0 < q0 + first + 16 * S::M;
    if (seen) multiply_transposed<S>(s, rows, k_tile, place.lane);
    cp_async_wait<0>();
    __syncthreads();
    const int next = k0 + S::stream;
    if (next < keys) start_rows<S::stream, S>(k_tile, k + kv + next * kv_stride, kv_stride, tokens - next, n);
    cp_async_commit();
    if (!seen) continue;
    if (next > tokens || (causal && next - 1 > q0 + first)) {
#pragma unroll
      for (int m = 0; m < S::M; m++)
#pragma unroll
        for (int j = 0; j < S::score_blocks; j++)
#pragma unroll
          for (int e = 0; e < 4; e++) {
            const int query = q0 + first + 16 * m + e / 2 * 8 + place.g, key = k0 + 8 * j + 2 * place.t + e % 2;
            if (!(key < tokens && (!causal || key <= query))) s[m][j][e] = MINUS_INFINITY;
          }
    }
    soften<S>(s, scale * LOG2_E, largest, sum, back);
    if (o == nullptr) continue;
#pragma unroll
    for (int m = 0; m < S::M; m++)
#pragma unroll
      for (int j = 0; j < S::blocks; j++)
#pragma unroll
        for (int e = 0; e < 4; e++) out[m][j][e] *= back[2 * m + e / 2];
    add_product<S>(out, s, v_tile, place.lane);
  }

  float inverse[2 * S::M];
#pragma unroll
  for (int r = 0; r < 2 * S::M; r++) {
    float total = sum[r];
    total += __shfl_xor_sync(0xffffffffu, total, 1);
    total += __shfl_xor_sync(0xffffffffu, total, 2);
    inverse[r] = 1 / total;
    const int query = first + 8 * r + place.g;
    if (lse != nullptr && place.t == 0 && query < queries)
      lse[row + (i64)query * H] = fmaf(largest[r], LN_2, logf(total));
  }
  if (o != nullptr)
    store_results<S>(o + row * n + first * stride, stride, queries - first, n, out, inverse, rows, place);
}

/* As TENSOR_FORWARD in kernels/attention.ts. */
#define ATTENTION(N)                                                                                               \
  RM_KERNEL __launch_bounds__(128, 2) rm_attention_tensor_##N(                                                     \
      const bf16 *q, const bf16 *k, const bf16 *v, bf16 *o, float *lse, int T, int H, int KV, int n, int group,    \
      int shift, int causal, float scale) {                                                                        \
    forward<fragments<N, 2, 64>>(q, k, v, o, lse, T, H, KV, n, group, shift, causal, scale);                       \
  }
ATTENTION(64)
ATTENTION(128)

#endif
