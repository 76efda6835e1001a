/*
 * Attention: o = softmax(q k^T / sqrt(features)) v for q, o(B,T,H,features) and
 * k, v(B,T,KV,features), and its gradients. Query head h reads key-value head (h + shift) / group.
 *
 * Queries lie along the lanes: a panel of them is transposed once, with the scale in it, and then
 * meets the keys tile by tile, as they lie in memory. So a row of scores is one key's, a query's
 * largest score and sum are vertical, and only the panel's result is transposed back. Products run
 * in blocks of registers on the stack; no matrix of scores is larger than a tile.
 */
#include "attention.h"

/* Scores s(n, PANEL) become weights exp(s - largest so far); largest and sum go on, `back` is what
 * earlier weights are to be multiplied by. */
RM_INLINE void softmax_tile(float *s, long n, vf *largest, vf *sum, vf *back) {
  const exp2_constants c = vexp2_constants();
  vf top[WIDE], total[WIDE];
  for (int j = 0; j < WIDE; j++) top[j] = largest[j];
  for (long i = 0; i < n; i++)
    for (int j = 0; j < WIDE; j++) top[j] = vmax(vload(s + i * PANEL + j * VL), top[j]);
  for (int j = 0; j < WIDE; j++) {
    back[j] = vexp2_down(largest[j] - top[j], &c);
    largest[j] = top[j];
    total[j] = (vf){0};
  }
  for (long i = 0; i < n; i++)
    for (int j = 0; j < WIDE; j++) {
      const vf p = vexp2_down(vload(s + i * PANEL + j * VL) - top[j], &c);
      vstore(s + i * PANEL + j * VL, p);
      total[j] += p;
    }
  for (int j = 0; j < WIDE; j++) sum[j] = sum[j] * back[j] + total[j];
}

static void forward_task(void *context, long task) {
  const attention_args *a = context;
  /* Later panels see more keys: they go first, so that none of them is the last to end. */
  const long q0 = (a->panels - 1 - task % a->panels) * PANEL, head = task / a->panels;
  const long b = head / a->H, h = head % a->H, n = a->features;
  const long queries = min_long(PANEL, a->T - q0), stride = a->KV * n;
  const long kv = b * a->T * stride + (h + a->shift) / a->group * n;
  const long at = ((b * a->T + q0) * a->H + h) * n;
  float q[n * PANEL] __attribute__((aligned(64))), o[n * PANEL] __attribute__((aligned(64))),
      s[KEYS * PANEL] __attribute__((aligned(64)));
  vf largest[WIDE], sum[WIDE], back[WIDE];
  for (int j = 0; j < WIDE; j++) largest[j] = vset(-INFINITY), sum[j] = (vf){0};
  rm_pack_panel(a->q + at, a->H * n, queries, n, a->scale2, q);
  const long keys = keys_seen(a, q0);
  for (long k0 = 0; k0 < keys; k0 += KEYS) {
    const key_tile tile = tile_of(a, q0, k0, min_long(KEYS, keys - k0));
    rm_times_panel(a->k + kv + k0 * stride, stride, &tile, q, n, s);
    rm_hide_tile(a, q0, &tile, s);
    softmax_tile(s, tile.n, largest, sum, back);
    if (a->out == NULL) continue;
    if (k0 > 0)
      for (long i = 0; i < n; i++)
        for (int j = 0; j < WIDE; j++)
          vstore(o + i * PANEL + j * VL, vload(o + i * PANEL + j * VL) * back[j]);
    rm_transposed_times_tile(a->v + kv + k0 * stride, stride, n, s, &tile, o, k0 > 0);
  }
  if (a->out != NULL) {
    vf inverse[WIDE];
    for (int j = 0; j < WIDE; j++) inverse[j] = 1.0f / sum[j];
    rm_unpack_panel(o, inverse, a->out + at, a->H * n, queries, n);
  }
  if (a->statistics != NULL)
    for (long i = 0; i < queries; i++) {
      const vf lse = largest[i / VL] * (float)(1 / LOG2_E) + vlog(sum[i / VL]);
      a->statistics[(b * a->T + q0 + i) * a->H + h] = lse[i % VL];
    }
}

/* The output o and lse(B,T,H), the logarithm of each query's sum of exp(score); either may be left
 * out, and v with o. causal: a token sees itself and those before it. */
RM_API void rm_attention(const float *q, const float *k, const float *v, float *o, float *lse,
                         uint64_t B, uint64_t T, uint64_t H, uint64_t KV, uint64_t features,
                         uint64_t group, uint64_t shift, int causal) {
  attention_args a = {.q = q, .k = k, .v = v, .out = o, .statistics = lse};
  set_attention_sizes(&a, B, T, H, KV, features, group, shift, causal);
  rm_parallel(a.B * a.H * a.panels, forward_task, &a);
}
