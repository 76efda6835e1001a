/*
 * Products of attention's tiles, in blocks of registers, and the transposition of its panels.
 */
#include "attention.h"

/* Rows of a block of registers: with WIDE vectors each they leave some for the operands. */
#if VL == 16 || defined(__aarch64__)
#define ROWS 8
#define EACH_ROW_COUNT(CASE) CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8)
#else
#define ROWS 6
#define EACH_ROW_COUNT(CASE) CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6)
#endif

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

void rm_times_panel(const float *a, long stride, const key_tile *t, const float *panel,
                    long features, float *s) {
  for (long i = 0; i < t->whole; i += ROWS)
    rows_for[min_long(ROWS, t->whole - i)](a + i * stride, stride, panel, PANEL, features,
                                           s + i * PANEL, PANEL, 0);
  for (long i = t->whole; i < t->n; i += ROWS)
    narrow_rows_for[min_long(ROWS, t->n - i)](a + i * stride, stride, panel + VL, PANEL, features,
                                              s + i * PANEL + VL, PANEL, 0);
}

void rm_transposed_times_tile(const float *a, long stride, long features, const float *s,
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

void rm_tile_gradient(const float *s, const key_tile *t, const float *rows, long padded,
                      long queries, float *out, long stride, long features) {
  tile_times_rows(s, t->whole, rows, padded, queries, out, stride, features);
  tile_times_rows(s + t->whole * PANEL + VL, t->n - t->whole, rows + VL * padded, padded,
                  queries - VL, out + t->whole * stride, stride, features);
}

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

void rm_pack_panel(const float *x, long stride, long n, long columns, float factor, float *panel) {
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

void rm_unpack_panel(const float *panel, const vf *factor, float *x, long stride, long n,
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

void rm_hide_tile(const attention_args *a, long q0, const key_tile *t, float *s) {
  if (!a->causal) return;
  for (long i = max_long(0, q0 + 1 - t->first); i < t->n; i++)
    hide(s + i * PANEL, t->first + i - q0);
}
