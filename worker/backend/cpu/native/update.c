/*
 * Optimizer updates, from a gradient or straight from its factors dy(M,O) and x(M,I), whose product
 * dy^T x is then never stored. Weights and moments stream through once, in whole rows: that is what
 * the hardware prefetches best.
 */
#include "update.h"

#include "gemm.h"

typedef struct {
  const float *dy, *x, *g;
  float *w, *m, *v;
  long M, O, I, step, segment;
  float factor;
  step_scalars s;
} update_args;

/* ---- from a gradient ---- */

RM_INLINE void update_span(const update_args *a, long task, const enum kind kind) {
  const step_scalars s = a->s;
  const float f = a->factor;
  const long first = task * RM_SPAN, last = min_long(first + RM_SPAN, a->O);
  long i = first;
  for (; i + VL <= last; i += VL)
    update_vector(f * vload(a->g + i), a->w + i, a->m + i, a->v + i, &s, VL, kind);
  if (i < last)
    update_vector(f * vload_part(a->g + i, last - i), a->w + i, a->m + i, a->v + i, &s, last - i,
                  kind);
}
static void adamw_task(void *context, long task) { update_span(context, task, ADAMW); }
static void sgd_task(void *context, long task) { update_span(context, task, SGD); }
static void sgd_momentum_task(void *context, long task) {
  update_span(context, task, SGD_MOMENTUM);
}

/* AdamW over n elements; `factor` is a scalar in memory by which the gradient is multiplied, or
 * NULL. */
RM_API void rm_adamw(float *w, const float *g, float *m, float *v, uint64_t n, const float *factor,
                     const step_scalars *s) {
  update_args a = {NULL, NULL, g, w, m, v, 0, (long)n, 0, 0, 0, factor ? *factor : 1.0f, *s};
  rm_parallel(ceil_div(a.O, RM_SPAN), adamw_task, &a);
}

/* SGD over n elements; m is NULL without momentum. */
RM_API void rm_sgd(float *w, const float *g, float *m, uint64_t n, const float *factor,
                   const step_scalars *s) {
  update_args a = {NULL, NULL, g, w, m, NULL, 0, (long)n, 0, 0, 0, factor ? *factor : 1.0f, *s};
  rm_parallel(ceil_div(a.O, RM_SPAN), m ? sgd_momentum_task : sgd_task, &a);
}

/* ---- from factors ---- */

/* Floats of x that a task keeps packed on its stack. */
#define PACK (128 * 1024L)
/* Weight rows handled together at most, so that a load of x serves all of them. */
#define TOGETHER 4

/* More rows, more streams to memory at once: two are the best trade for AdamW's three tensors each.
 */
RM_INLINE int rows_together(long M, const enum kind kind) {
  return kind == STORE ? TOGETHER : M <= 2 ? 1 : 2;
}

/* Updates `count` weight rows over one segment of columns; packed holds M vectors per column
 * vector. */
RM_INLINE void update_rows(const update_args *a, const float *packed, long o, long start,
                           long columns, const int count, const long M, const enum kind kind) {
  const step_scalars s = a->s;
  float d[TOGETHER][RM_FEW_ROWS];
  for (long r = 0; r < M; r++)
    for (int p = 0; p < count; p++) d[p][r] = a->factor * a->dy[r * a->O + o + p];
  const long at = o * a->I + start, I = a->I;
  float *w = a->w + at, *m = a->m + at, *v = a->v + at;
  for (long i = 0; i < columns; i += VL) {
    const float *x = packed + i * M;
    vf g[TOGETHER];
    for (int p = 0; p < count; p++) g[p] = (vf){0};
#pragma GCC unroll 8
    for (long r = 0; r < M; r++) {
      vf xi = vload(x + r * VL);
      KEEP(xi);
#pragma GCC unroll 4
      for (int p = 0; p < count; p++) g[p] += d[p][r] * xi;
    }
    if (i + VL <= columns) {
#pragma GCC unroll 4
      for (int p = 0; p < count; p++)
        update_vector(g[p], w + p * I + i, m + p * I + i, v + p * I + i, &s, VL, kind);
    } else {
      for (int p = 0; p < count; p++)
        update_vector(g[p], w + p * I + i, m + p * I + i, v + p * I + i, &s, columns - i, kind);
    }
  }
}

RM_INLINE void factors_span(const update_args *a, long task, const long M, const enum kind kind) {
  float packed[PACK + RM_FEW_ROWS * VL] __attribute__((aligned(64)));
  const long first = task * a->step, last = min_long(first + a->step, a->O);
  for (long start = 0; start < a->I; start += a->segment) {
    const long columns = min_long(a->segment, a->I - start), whole = columns / VL * VL;
    for (long i = 0; i < whole; i += VL)
      for (long r = 0; r < M; r++)
        vstore(packed + i * M + r * VL, vload(a->x + r * a->I + start + i));
    if (whole < columns)
      for (long r = 0; r < M; r++)
        vstore(packed + whole * M + r * VL,
               vload_part(a->x + r * a->I + start + whole, columns - whole));
    long o = first;
    const int together = rows_together(M, kind);
    for (; o + together <= last; o += together)
      update_rows(a, packed, o, start, columns, together, M, kind);
    for (; o < last; o++) update_rows(a, packed, o, start, columns, 1, M, kind);
  }
}

#define FACTORS_TASKS(NAME, KIND)                                              \
  static void NAME##_1(void *a, long task) { factors_span(a, task, 1, KIND); } \
  static void NAME##_2(void *a, long task) { factors_span(a, task, 2, KIND); } \
  static void NAME##_4(void *a, long task) { factors_span(a, task, 4, KIND); } \
  static void NAME##_6(void *a, long task) { factors_span(a, task, 6, KIND); } \
  static void NAME##_8(void *a, long task) { factors_span(a, task, 8, KIND); } \
  static void NAME##_any(void *a, long task) {                                 \
    factors_span(a, task, ((update_args *)a)->M, KIND);                        \
  }                                                                            \
  static rm_task NAME##_for(long M) {                                          \
    switch (M) {                                                               \
      case 1: return NAME##_1;                                                 \
      case 2: return NAME##_2;                                                 \
      case 4: return NAME##_4;                                                 \
      case 6: return NAME##_6;                                                 \
      case 8: return NAME##_8;                                                 \
      default: return NAME##_any;                                              \
    }                                                                          \
  }
FACTORS_TASKS(adamw_factors, ADAMW)
FACTORS_TASKS(sgd_factors, SGD)
FACTORS_TASKS(sgd_momentum_factors, SGD_MOMENTUM)
FACTORS_TASKS(store_factors, STORE)

static void run_factors(update_args *a, rm_task task) {
  if (a->O == 0 || a->I == 0) return;
  a->segment = a->M == 0 ? a->I : max_long(VL, PACK / a->M / VL * VL);
  /* Large tasks amortise the packing of x; small ones share the work evenly. */
  a->step = min_long(64, ceil_div(ceil_div(a->O, 8L * rm_threads()), TOGETHER) * TOGETHER);
  rm_parallel(ceil_div(a->O, a->step), task, a);
}

/* dw(O,I) = dy^T x. */
RM_API void rm_linear_dw(const float *dy, const float *x, float *dw, uint64_t M, uint64_t O,
                         uint64_t I) {
  if (M > RM_FEW_ROWS) {
    rm_gemm(1, 0, (long)O, (long)I, (long)M, dy, (long)O, x, (long)I, dw, (long)I);
    return;
  }
  update_args a = {
      dy, x, NULL, dw, NULL, NULL, (long)M, (long)O, (long)I, 0, 0, 1.0f, {0, 0, 0, 0, 0, 0, 0, 0}};
  run_factors(&a, store_factors_for(a.M));
}

/* Gradient of weight rows [o, o + rows) into scratch(rows,I). */
static void gradient_tile(const float *dy, const float *x, float *scratch, uint64_t M, uint64_t O,
                          uint64_t I, uint64_t o, uint64_t rows) {
  rm_gemm(1, 0, (long)rows, (long)I, (long)M, dy + o, (long)O, x, (long)I, scratch, (long)I);
}

/*
 * AdamW on w(O,I) with gradient dy^T x, times *factor unless NULL. tile_rows 0: element by element,
 * for at most RM_FEW_ROWS rows. Otherwise tile_rows rows of the gradient at a time are formed in
 * scratch(tile_rows, I).
 */
RM_API void rm_adamw_from_factors(const float *dy, const float *x, float *w, float *m, float *v,
                                  uint64_t M, uint64_t O, uint64_t I, const float *factor,
                                  const step_scalars *s, float *scratch, uint64_t tile_rows) {
  if (tile_rows == 0) {
    update_args a = {dy, x, NULL, w, m, v, (long)M, (long)O, (long)I, 0, 0, factor ? *factor : 1.0f,
                     *s};
    run_factors(&a, adamw_factors_for(a.M));
    return;
  }
  for (uint64_t o = 0; o < O; o += tile_rows) {
    const uint64_t rows = O - o < tile_rows ? O - o : tile_rows;
    gradient_tile(dy, x, scratch, M, O, I, o, rows);
    rm_adamw(w + o * I, scratch, m + o * I, v + o * I, rows * I, factor, s);
  }
}

/* SGD likewise; m is NULL without momentum. */
RM_API void rm_sgd_from_factors(const float *dy, const float *x, float *w, float *m, uint64_t M,
                                uint64_t O, uint64_t I, const float *factor, const step_scalars *s,
                                float *scratch, uint64_t tile_rows) {
  if (tile_rows == 0) {
    update_args a = {
        dy, x, NULL, w, m, NULL, (long)M, (long)O, (long)I, 0, 0, factor ? *factor : 1.0f, *s};
    run_factors(&a, m ? sgd_momentum_factors_for(a.M) : sgd_factors_for(a.M));
    return;
  }
  for (uint64_t o = 0; o < O; o += tile_rows) {
    const uint64_t rows = O - o < tile_rows ? O - o : tile_rows;
    gradient_tile(dy, x, scratch, M, O, I, o, rows);
    rm_sgd(w + o * I, scratch, m ? m + o * I : NULL, rows * I, factor, s);
  }
}
