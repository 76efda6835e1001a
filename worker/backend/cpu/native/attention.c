/*
 * Attention: o = softmax(q k^T / sqrt(features)) v for q, o(B,T,H,features) and
 * k, v(B,T,KV,features), and its gradients. Query head h reads key-value head (h + shift) / group.
 *
 * Queries lie along the lanes: a panel of them is transposed once, with the scale in it, and then
 * meets the keys tile by tile, as they lie in memory. So a row of scores is one key's, a query's
 * largest score and sum are vertical, and only the panel's result is transposed back. Products run
 * in blocks of registers on the stack; no matrix of scores is larger than a tile.
 */
#include <math.h>

#include "vector_math.h"

#define LOG2_E 1.44269504088896340736

/* Queries of a panel. */
#define WIDE 2
#define PANEL (WIDE * VL)
/* Keys of a tile. */
#ifndef KEYS
#define KEYS 64
#endif
/* Rows of a block of registers: with WIDE vectors each they leave some for the operands. */
#if VL == 16 || defined(__aarch64__)
#define ROWS 8
#define EACH_ROW_COUNT(CASE) CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8)
#else
#define ROWS 6
#define EACH_ROW_COUNT(CASE) CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6)
#endif

typedef struct {
  const float *q, *k, *v, *o, *lse, *d_out;
  float *out, *statistics, *dq, *dk, *dv;
  long B, T, H, KV, features, group, shift;
  int causal;
  float scale, scale2; /* of scores, and of their logarithms to base 2 */
  long panels, tiles;
} attention_args;

/* ---- products ---- */

/*
 * c[i][0 .. V vectors) = (add ? c : 0) + sum over k of a(i, k) b[k], R rows. a(i, k) is
 * a[i * stride + k], or a[i + k * stride] where it is transposed.
 */
RM_INLINE void block_product(const float *a, long stride, const int transposed, const float *b,
                             long ldb, long depth, float *c, long ldc, int add, const int R,
                             const int V) {
  vf sum[ROWS][WIDE];
#pragma GCC unroll 8
  for (int i = 0; i < R; i++)
#pragma GCC unroll 2
    for (int j = 0; j < V; j++) sum[i][j] = add ? vload(c + i * ldc + j * VL) : (vf){0};
  for (long k = 0; k < depth; k++) {
    vf bk[WIDE];
#pragma GCC unroll 2
    for (int j = 0; j < V; j++) bk[j] = vload(b + k * ldb + j * VL);
#pragma GCC unroll 8
    for (int i = 0; i < R; i++) {
      vf ai = vset(transposed ? a[k * stride + i] : a[i * stride + k]);
      KEEP(ai);
#pragma GCC unroll 2
      for (int j = 0; j < V; j++) sum[i][j] += ai * bk[j];
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < R; i++)
#pragma GCC unroll 2
    for (int j = 0; j < V; j++) vstore(c + i * ldc + j * VL, sum[i][j]);
}

#define PRODUCT_OF(R)                                                                           \
  static void rows_##R(const float *a, long stride, const float *b, long ldb, long depth,       \
                       float *c, long ldc, int add) {                                           \
    block_product(a, stride, 0, b, ldb, depth, c, ldc, add, R, WIDE);                           \
  }                                                                                             \
  static void narrow_rows_##R(const float *a, long stride, const float *b, long ldb,            \
                              long depth, float *c, long ldc, int add) {                        \
    block_product(a, stride, 0, b, ldb, depth, c, ldc, add, R, 1);                              \
  }                                                                                             \
  static void columns_##R(const float *a, long stride, const float *b, long ldb, long depth,    \
                          float *c, long ldc, int add) {                                        \
    block_product(a, stride, 1, b, ldb, depth, c, ldc, add, R, WIDE);                           \
  }                                                                                             \
  static void narrow_columns_##R(const float *a, long stride, const float *b, long ldb,         \
                                 long depth, float *c, long ldc, int add) {                     \
    block_product(a, stride, 1, b, ldb, depth, c, ldc, add, R, 1);                              \
  }
EACH_ROW_COUNT(PRODUCT_OF)

typedef void (*product_kernel)(const float *, long, const float *, long, long, float *, long, int);
#define ROWS_NAME(R) rows_##R,
#define NARROW_ROWS_NAME(R) narrow_rows_##R,
#define COLUMNS_NAME(R) columns_##R,
#define NARROW_COLUMNS_NAME(R) narrow_columns_##R,
/* By the number of rows; `narrow`: of one vector. */
static const product_kernel rows_for[] = {0, EACH_ROW_COUNT(ROWS_NAME)};
static const product_kernel narrow_rows_for[] = {0, EACH_ROW_COUNT(NARROW_ROWS_NAME)};
static const product_kernel columns_for[] = {0, EACH_ROW_COUNT(COLUMNS_NAME)};
static const product_kernel narrow_columns_for[] = {0, EACH_ROW_COUNT(NARROW_COLUMNS_NAME)};

/*
 * A tile of keys against a panel of queries. Under a causal mask the last keys are seen by the
 * panel's upper half alone: the first `whole` of `n` keys meet all queries, the others that half.
 */
typedef struct {
  long first, n, whole;
} key_tile;

/* s(keys, PANEL) = a(keys, features) panel(features, PANEL). */
static void times_panel(const float *a, long stride, const key_tile *t, const float *panel,
                        long features, float *s) {
  for (long i = 0; i < t->whole; i += ROWS)
    rows_for[min_long(ROWS, t->whole - i)](a + i * stride, stride, panel, PANEL, features,
                                           s + i * PANEL, PANEL, 0);
  for (long i = t->whole; i < t->n; i += ROWS)
    narrow_rows_for[min_long(ROWS, t->n - i)](a + i * stride, stride, panel + VL, PANEL, features,
                                              s + i * PANEL + VL, PANEL, 0);
}

/* panel(features, PANEL) (+)= a^T s for a(keys, features), s(keys, PANEL). */
static void transposed_times_tile(const float *a, long stride, long features, const float *s,
                                  const key_tile *t, float *panel, int add) {
  for (long i = 0; i < features; i += ROWS) {
    const long rows = min_long(ROWS, features - i);
    float *p = panel + i * PANEL;
    columns_for[rows](a + i, stride, s, PANEL, t->whole, p, PANEL, add);
    if (t->whole < t->n)
      narrow_columns_for[rows](a + i + t->whole * stride, stride, s + t->whole * PANEL + VL, PANEL,
                               t->n - t->whole, p + VL, PANEL, 1);
  }
}

/* c(n, columns) += a(n, PANEL) b(depth, columns), depth of at most PANEL; rows of b are `ldb` apart
 * and padded to whole vectors, those of c `ldc` apart. */
static void tile_times_rows(const float *a, long n, const float *b, long ldb, long depth, float *c,
                             long ldc, long columns) {
  for (long i = 0; i < n; i += ROWS) {
    const long rows = min_long(ROWS, n - i);
    const float *ai = a + i * PANEL;
    float *ci = c + i * ldc;
    long j = 0;
    for (; j + PANEL <= columns; j += PANEL)
      rows_for[rows](ai, PANEL, b + j, ldb, depth, ci + j, ldc, 1);
    for (; j + VL <= columns; j += VL)
      narrow_rows_for[rows](ai, PANEL, b + j, ldb, depth, ci + j, ldc, 1);
    if (j < columns) {
      float edge[ROWS * VL];
      const long left = columns - j;
      for (long r = 0; r < rows; r++) vstore(edge + r * VL, vload_part(ci + r * ldc + j, left));
      narrow_rows_for[rows](ai, PANEL, b + j, ldb, depth, edge, VL, 1);
      for (long r = 0; r < rows; r++) vstore_part(ci + r * ldc + j, vload(edge + r * VL), left);
    }
  }
}

/* out(keys, features) += s rows for s(keys, PANEL), rows(queries, features). */
static void tile_gradient(const float *s, const key_tile *t, const float *rows, long padded,
                          long queries, float *out, long stride, long features) {
  tile_times_rows(s, t->whole, rows, padded, queries, out, stride, features);
  tile_times_rows(s + t->whole * PANEL + VL, t->n - t->whole, rows + VL * padded, padded,
                  queries - VL, out + t->whole * stride, stride, features);
}

/* ---- panels ---- */

/* Lanes become rows and rows lanes: log2(VL) perfect shuffles. */
RM_INLINE void transpose(vf *r) {
  vf t[VL];
  for (int round = 1; round < VL; round *= 2) {
#pragma GCC unroll 8
    for (int i = 0; i < VL / 2; i++) {
      t[2 * i] = vinterleave_low(r[i], r[i + VL / 2]);
      t[2 * i + 1] = vinterleave_high(r[i], r[i + VL / 2]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < VL; i++) r[i] = t[i];
  }
}

RM_INLINE vf load_upto(const float *p, long n) { return n >= VL ? vload(p) : vload_part(p, n); }
RM_INLINE void store_upto(float *p, vf x, long n) {
  if (n >= VL)
    vstore(p, x);
  else
    vstore_part(p, x, n);
}

/* panel(columns, PANEL) = factor * x^T for n rows x `stride` apart; queries that are not there are
 * zeros. */
static void pack(const float *x, long stride, long n, long columns, float factor, float *panel) {
  for (long j = 0; j < columns; j += VL) {
    const long left = min_long(VL, columns - j);
    for (long i = 0; i < PANEL; i += VL) {
      vf r[VL];
      for (long l = 0; l < VL; l++)
        r[l] = i + l < n ? factor * load_upto(x + (i + l) * stride + j, left) : (vf){0};
      transpose(r);
      for (long l = 0; l < left; l++) vstore(panel + (j + l) * PANEL + i, r[l]);
    }
  }
}

/* The inverse: n rows x(columns), `stride` apart, each query's times its factor. */
static void unpack(const float *panel, const vf *factor, float *x, long stride, long n,
                   long columns) {
  for (long j = 0; j < columns; j += VL) {
    const long left = min_long(VL, columns - j);
    for (long i = 0; i < n; i += VL) {
      vf r[VL];
      for (long l = 0; l < VL; l++)
        r[l] = l < left ? vload(panel + (j + l) * PANEL + i) * factor[i / VL] : (vf){0};
      transpose(r);
      const long rows = min_long(VL, n - i);
      for (long l = 0; l < rows; l++) store_upto(x + (i + l) * stride + j, r[l], left);
    }
  }
}

/* rows(n, padded) = factor * x, zeros past the columns. */
static void copy_rows(const float *x, long stride, long n, long columns, float factor, float *rows,
                      long padded) {
  for (long i = 0; i < n; i++)
    for (long j = 0; j < padded; j += VL)
      vstore(rows + i * padded + j, factor * load_upto(x + i * stride + j, columns - j));
}

/* Keys that the panel of queries from q0 on sees, all queries together. */
RM_INLINE long keys_seen(const attention_args *a, long q0) {
  return a->causal ? min_long(a->T, q0 + PANEL) : a->T;
}

/* The tile of keys from `first` on, `n` of them. */
RM_INLINE key_tile tile_of(const attention_args *a, long q0, long first, long n) {
  const long whole = a->causal ? max_long(0, min_long(n, q0 + VL - first)) : n;
  return (key_tile){first, n, whole};
}

/* Replaces the scores of one key with the queries before it. `behind`: the key's distance from the
 * panel's first query. */
RM_INLINE void hide(float *score, long behind) {
  for (int j = 0; j < WIDE; j++) {
    vi lane;
    for (int l = 0; l < VL; l++) lane[l] = j * VL + l;
    vstore(score + j * VL,
           vselect(lane < (int32_t)behind, vset(-INFINITY), vload(score + j * VL)));
  }
}

static void hide_tile(const attention_args *a, long q0, const key_tile *t, float *s) {
  if (!a->causal) return;
  for (long i = max_long(0, q0 + 1 - t->first); i < t->n; i++)
    hide(s + i * PANEL, t->first + i - q0);
}

/* ---- forward ---- */

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
  pack(a->q + at, a->H * n, queries, n, a->scale2, q);
  const long keys = keys_seen(a, q0);
  for (long k0 = 0; k0 < keys; k0 += KEYS) {
    const key_tile tile = tile_of(a, q0, k0, min_long(KEYS, keys - k0));
    times_panel(a->k + kv + k0 * stride, stride, &tile, q, n, s);
    hide_tile(a, q0, &tile, s);
    softmax_tile(s, tile.n, largest, sum, back);
    if (a->out == NULL) continue;
    if (k0 > 0)
      for (long i = 0; i < n; i++)
        for (int j = 0; j < WIDE; j++)
          vstore(o + i * PANEL + j * VL, vload(o + i * PANEL + j * VL) * back[j]);
    transposed_times_tile(a->v + kv + k0 * stride, stride, n, s, &tile, o, k0 > 0);
  }
  if (a->out != NULL) {
    vf inverse[WIDE];
    for (int j = 0; j < WIDE; j++) inverse[j] = 1.0f / sum[j];
    unpack(o, inverse, a->out + at, a->H * n, queries, n);
  }
  if (a->statistics != NULL)
    for (long i = 0; i < queries; i++) {
      const vf lse = largest[i / VL] * (float)(1 / LOG2_E) + vlog(sum[i / VL]);
      a->statistics[(b * a->T + q0 + i) * a->H + h] = lse[i % VL];
    }
}

/* ---- backward ---- */

/* What a task adds up: the gradients wanted of queries heads [h, h_end), panels [panel, panel_end),
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
      pack(q_rows, padded, queries, n, (float)LOG2_E, q);
      if (shifted) pack(d_rows, padded, queries, n, 1, d);
      for (long k0 = w->key; k0 < keys; k0 += KEYS) {
        const key_tile tile = tile_of(a, q0, k0, min_long(KEYS, keys - k0));
        const long key = kv + k0 * stride;
        times_panel(a->k + key, stride, &tile, q, n, s);
        if (shifted) times_panel(a->v + key, stride, &tile, d, n, ds);
        hide_tile(a, q0, &tile, s);
        weigh_tile(s, shifted ? ds : NULL, tile.n, lse, D);
        /* A query with one key alone has weight 1 whatever its score: no gradient, not what rounding
         * leaves of one, which an optimizer that divides by its size would take for a real one. */
        if (shifted && q0 == 0 && k0 == 0 && (a->causal || a->T == 1)) ds[0] = 0;
        if (w->dv != NULL)
          tile_gradient(s, &tile, d_rows, padded, queries, w->dv + key, stride, n);
        if (w->dk != NULL)
          tile_gradient(ds, &tile, q_rows, padded, queries, w->dk + key, stride, n);
        if (w->dq != NULL)
          transposed_times_tile(a->k + key, stride, n, ds, &tile, dq, k0 > w->key);
      }
      if (w->dq != NULL) {
        vf factor[WIDE];
        for (int j = 0; j < WIDE; j++) factor[j] = vset(a->scale);
        unpack(dq, factor, w->dq + at, rows, queries, n);
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

static void set_sizes(attention_args *a, uint64_t B, uint64_t T, uint64_t H, uint64_t KV,
                      uint64_t features, uint64_t group, uint64_t shift, int causal) {
  a->B = (long)B, a->T = (long)T, a->H = (long)H, a->KV = (long)KV;
  a->features = (long)features, a->group = (long)group, a->shift = (long)shift;
  a->causal = causal;
  a->scale = (float)(1 / sqrt((double)features));
  a->scale2 = (float)(LOG2_E / sqrt((double)features));
  a->panels = ceil_div(a->T, PANEL);
  a->tiles = ceil_div(a->T, KEYS);
}

/* The output o and lse(B,T,H), the logarithm of each query's sum of exp(score); either may be left
 * out, and v with o. causal: a token sees itself and those before it. */
RM_API void rm_attention(const float *q, const float *k, const float *v, float *o, float *lse,
                         uint64_t B, uint64_t T, uint64_t H, uint64_t KV, uint64_t features,
                         uint64_t group, uint64_t shift, int causal) {
  attention_args a = {.q = q, .k = k, .v = v, .out = o, .statistics = lse};
  set_sizes(&a, B, T, H, KV, features, group, shift, causal);
  rm_parallel(a.B * a.H * a.panels, forward_task, &a);
}

/* Gradients of q, k and v, any of which may be left out, from that of o and the forward pass's o
 * and lse. */
RM_API void rm_attention_grad(const float *d_out, const float *q, const float *k, const float *v,
                              const float *o, const float *lse, float *dq, float *dk, float *dv,
                              uint64_t B, uint64_t T, uint64_t H, uint64_t KV, uint64_t features,
                              uint64_t group, uint64_t shift, int causal) {
  attention_args a = {.q = q, .k = k, .v = v, .o = o, .lse = lse, .d_out = d_out};
  a.dq = dq, a.dk = dk, a.dv = dv;
  set_sizes(&a, B, T, H, KV, features, group, shift, causal);
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
