/*
 * Gradients of attention, in the tiles of the forward pass (attention.c). With p = exp(score - lse)
 * formed anew, D = sum of do * o over a head's features and ds = p (do v^T - D), they are
 * dq = scale ds k, dk = scale ds^T q and dv = p^T do.
 */
#include "attention.h"

/* rows(n, padded) = factor * x, zeros past the columns. */
static void copy_rows(const float *x, long stride, long n, long columns, float factor, float *rows,
                      long padded) {
  for (long i = 0; i < n; i++)
    for (long j = 0; j < padded; j += VL)
      vstore(rows + i * padded + j, factor * load_upto(x + i * stride + j, columns - j));
}

/* What a task adds up: the gradients wanted of query heads [h, h_end), panels [panel, panel_end),
 * with keys [key, key_end). */
typedef struct {
  long b, h, h_end, panel, panel_end, key, key_end;
  float *dq, *dk, *dv;
} part;

/* Scores s(n, PANEL) become weights p, and d = do v^T becomes ds = p (d - D). */
RM_INLINE void weigh_tile(float *s, float *d, long n, const vf *lse, const vf *D) {
  const exp2_constants c = vexp2_constants();
  for (long i = 0; i < n; i++)
    for (int j = 0; j < WIDE; j++) {
      const vf p = vexp2_down(vload(s + i * PANEL + j * VL) - lse[j], &c);
      vstore(s + i * PANEL + j * VL, p);
      if (d != NULL) vstore(d + i * PANEL + j * VL, p * (vload(d + i * PANEL + j * VL) - D[j]));
    }
}

RM_INLINE float dot(const float *a, const float *b, long n) {
  vf sum = {0};
  for (long j = 0; j < n; j += VL) sum += load_upto(a + j, n - j) * load_upto(b + j, n - j);
  return vsum(sum);
}

static void backward(const attention_args *a, const part *w) {
  const long n = a->features, padded = ceil_div(n, VL) * VL, stride = a->KV * n;
  float q[n * PANEL] __attribute__((aligned(64))), d[n * PANEL] __attribute__((aligned(64))),
      dq[n * PANEL] __attribute__((aligned(64))), s[KEYS * PANEL] __attribute__((aligned(64))),
      ds[KEYS * PANEL] __attribute__((aligned(64))),
      q_rows[PANEL * padded] __attribute__((aligned(64))),
      d_rows[PANEL * padded] __attribute__((aligned(64)));
  const int shifted = w->dq != NULL || w->dk != NULL;
  for (long h = w->h; h < w->h_end; h++) {
    const long kv = w->b * a->T * stride + (h + a->shift) / a->group * n;
    for (long panel = w->panel; panel < w->panel_end; panel++) {
      const long q0 = panel * PANEL, queries = min_long(PANEL, a->T - q0);
      const long at = ((w->b * a->T + q0) * a->H + h) * n, rows = a->H * n;
      const long keys = min_long(w->key_end, keys_seen(a, q0));
      if (w->key >= keys) continue;
      /* Read where they are far apart once, and from here on from close by. */
      copy_rows(a->q + at, rows, queries, n, a->scale, q_rows, padded);
      copy_rows(a->d_out + at, rows, queries, n, 1, d_rows, padded);
      vf lse[WIDE], D[WIDE];
      for (int j = 0; j < WIDE; j++) lse[j] = D[j] = (vf){0};
      for (long i = 0; i < queries; i++) {
        lse[i / VL][i % VL] = a->lse[(w->b * a->T + q0 + i) * a->H + h] * (float)LOG2_E;
        if (shifted) D[i / VL][i % VL] = dot(d_rows + i * padded, a->o + at + i * rows, n);
      }
      rm_pack_panel(q_rows, padded, queries, n, (float)LOG2_E, q);
      if (shifted) rm_pack_panel(d_rows, padded, queries, n, 1, d);
      for (long k0 = w->key; k0 < keys; k0 += KEYS) {
        const key_tile tile = tile_of(a, q0, k0, min_long(KEYS, keys - k0));
        const long key = kv + k0 * stride;
        rm_times_panel(a->k + key, stride, &tile, q, n, s);
        if (shifted) rm_times_panel(a->v + key, stride, &tile, d, n, ds);
        rm_hide_tile(a, q0, &tile, s);
        weigh_tile(s, shifted ? ds : NULL, tile.n, lse, D);
        /* A query with one key alone has weight 1 whatever its score: no gradient, not what
         * rounding leaves of one, which an optimizer that divides by its size would take for a real
         * one. */
        if (shifted && q0 == 0 && k0 == 0 && (a->causal || a->T == 1)) ds[0] = 0;
        if (w->dv != NULL)
          rm_tile_gradient(s, &tile, d_rows, padded, queries, w->dv + key, stride, n);
        if (w->dk != NULL)
          rm_tile_gradient(ds, &tile, q_rows, padded, queries, w->dk + key, stride, n);
        if (w->dq != NULL)
          rm_transposed_times_tile(a->k + key, stride, n, ds, &tile, dq, k0 > w->key);
      }
      if (w->dq != NULL) {
        vf factor[WIDE];
        for (int j = 0; j < WIDE; j++) factor[j] = vset(a->scale);
        rm_unpack_panel(dq, factor, w->dq + at, rows, queries, n);
      }
    }
  }
}

/* Query heads that read key-value head kv. */
RM_INLINE void set_heads(const attention_args *a, long kv, part *w) {
  w->h = max_long(0, kv * a->group - a->shift);
  w->h_end = min_long(a->H, (kv + 1) * a->group - a->shift);
}

static void clear(const attention_args *a, float *x, long b, long kv, long key, long key_end) {
  if (x == NULL) return;
  for (long s = key; s < key_end; s++)
    memset(x + ((b * a->T + s) * a->KV + kv) * a->features, 0, (size_t)a->features * 4);
}

/* All gradients of one key-value head, its queries' among them. */
static void whole_task(void *context, long task) {
  const attention_args *a = context;
  const long kv = task % a->KV;
  part w = {.b = task / a->KV, .panel_end = a->panels, .key_end = a->T};
  w.dq = a->dq, w.dk = a->dk, w.dv = a->dv;
  set_heads(a, kv, &w);
  clear(a, w.dk, w.b, kv, 0, a->T);
  clear(a, w.dv, w.b, kv, 0, a->T);
  backward(a, &w);
}

/* Gradients of one panel of queries. */
static void query_task(void *context, long task) {
  const attention_args *a = context;
  const long panel = a->panels - 1 - task % a->panels, head = task / a->panels;
  part w = {.b = head / a->H, .h = head % a->H, .panel = panel, .key_end = a->T, .dq = a->dq};
  w.h_end = w.h + 1, w.panel_end = panel + 1;
  backward(a, &w);
}

/* Gradients of one tile of keys and values. */
static void key_task(void *context, long task) {
  const attention_args *a = context;
  const long tile = task % a->tiles, head = task / a->tiles, kv = head % a->KV;
  part w = {.b = head / a->KV, .key = tile * KEYS, .panel_end = a->panels, .dk = a->dk};
  w.dv = a->dv, w.key_end = min_long(a->T, w.key + KEYS);
  if (a->causal) w.panel = w.key / PANEL;
  set_heads(a, kv, &w);
  clear(a, w.dk, w.b, kv, w.key, w.key_end);
  clear(a, w.dv, w.b, kv, w.key, w.key_end);
  backward(a, &w);
}

/* Gradients of q, k and v, any of which may be left out, from that of o and the forward pass's o
 * and lse. */
RM_API void rm_attention_grad(const float *d_out, const float *q, const float *k, const float *v,
                              const float *o, const float *lse, float *dq, float *dk, float *dv,
                              uint64_t B, uint64_t T, uint64_t H, uint64_t KV, uint64_t features,
                              uint64_t group, uint64_t shift, int causal) {
  attention_args a = {.q = q, .k = k, .v = v, .o = o, .lse = lse, .d_out = d_out};
  a.dq = dq, a.dk = dk, a.dv = dv;
  set_attention_sizes(&a, B, T, H, KV, features, group, shift, causal);
  /* One pass needs five products, and a task for each key-value head; two passes need seven, and
   * can be cut finely. Sums run in the same order either way. */
  const long heads = a.B * a.KV, threads = rm_threads();
  const int few = 7 * heads < 5 * ceil_div(heads, threads) * threads;
  if (dq != NULL && (dk != NULL || dv != NULL) && !few) {
    rm_parallel(heads, whole_task, &a);
    return;
  }
  if (dq != NULL) rm_parallel(a.B * a.H * a.panels, query_task, &a);
  if (dk != NULL || dv != NULL) rm_parallel(heads * a.tiles, key_task, &a);
}
