/*
 * Embeddings: rows of a table w(V,D) taken by ids, and a table's gradient added up, or used up, row by row. A rank
 * holds rows [start, start + V); ids outside give zeros and no gradient. M tokens.
 *
 * A row's gradient is the sum of its tokens' rows of dy in token order. Updates sort the tokens by row first (stable
 * counting sort), so that each row is summed by one task, in a buffer on its stack.
 */
#include "update.h"

/* Columns of a row's gradient formed at a time: 8 KiB. */
#define CHUNK 2048L
/* Most tasks that a sum over rows is cut into. */
#define MOST_GROUPS 1024

typedef struct {
  const int32_t *ids;
  const float *dy, *table;
  float *w, *m, *v;
  const int32_t *ends, *order;
  double *partial;
  long M, V, D, start, step;
  float factor;
  step_scalars s;
} rows_args;

/* ---- forward ---- */

static void gather_task(void *context, long task) {
  const rows_args *a = context;
  const long last = min_long((task + 1) * a->step, a->M);
  for (long t = task * a->step; t < last; t++) {
    const int64_t row = (int64_t)a->ids[t] - a->start;
    float *y = a->w + t * a->D;
    if (row >= 0 && row < a->V)
      memcpy(y, a->table + row * a->D, (size_t)a->D * 4);
    else
      memset(y, 0, (size_t)a->D * 4);
  }
}

/* y(M,D). */
RM_API void rm_embedding(const int32_t *ids, const float *table, float *y, uint64_t M, uint64_t V,
                         uint64_t D, uint64_t start) {
  if (D == 0) return;
  rows_args a = {.ids = ids, .table = table, .w = y, .M = (long)M, .V = (long)V, .D = (long)D};
  a.start = (long)start;
  a.step = max_long(1, RM_SPAN / a.D);
  rm_parallel(ceil_div(a.M, a.step), gather_task, &a);
}

/* ---- gradient ---- */

RM_INLINE void add_columns(float *to, const float *from, long n) {
  long i = 0;
  for (; i + VL <= n; i += VL) vstore(to + i, vload(to + i) + vload(from + i));
  for (; i < n; i++) to[i] += from[i];
}

/* Every task looks through all ids for those of its rows: they are few beside the rows it clears. */
static void scatter_task(void *context, long task) {
  const rows_args *a = context;
  const long first = task * a->step, rows = min_long(a->step, a->V - first);
  memset(a->w + first * a->D, 0, (size_t)(rows * a->D) * 4);
  for (long t = 0; t < a->M; t++) {
    const int64_t row = (int64_t)a->ids[t] - a->start - first;
    if (row >= 0 && row < rows)
      add_columns(a->w + (first + row) * a->D, a->dy + t * a->D, a->D);
  }
}

/* dw(V,D). */
RM_API void rm_embedding_dw(const float *dy, const int32_t *ids, float *dw, uint64_t M, uint64_t V,
                            uint64_t D, uint64_t start) {
  if (D == 0 || V == 0) return;
  rows_args a = {.ids = ids, .dy = dy, .w = dw, .M = (long)M, .V = (long)V, .D = (long)D};
  a.start = (long)start;
  /* At most 256 tasks: each reads all ids. */
  a.step = max_long(max_long(1, RM_SPAN / a.D), ceil_div(a.V, 256));
  rm_parallel(ceil_div(a.V, a.step), scatter_task, &a);
}

/*
 * order[0..n) = the tokens of own rows, sorted by row and in token order within it; ends[r] = where row r's tokens end,
 * which is where those of row r + 1 begin. Scratch holds V + 1 + M integers.
 */
static void sort_tokens(rows_args *a, int32_t *scratch) {
  int32_t *counts = scratch, *order = scratch + a->V + 1;
  memset(counts, 0, (size_t)(a->V + 1) * 4);
  for (long t = 0; t < a->M; t++) {
    const int64_t row = (int64_t)a->ids[t] - a->start;
    if (row >= 0 && row < a->V) counts[row + 1]++;
  }
  for (long r = 0; r < a->V; r++) counts[r + 1] += counts[r];
  /* counts[r] is where row r's tokens begin; placing them moves it to where they end. */
  for (long t = 0; t < a->M; t++) {
    const int64_t row = (int64_t)a->ids[t] - a->start;
    if (row >= 0 && row < a->V) order[counts[row]++] = (int32_t)t;
  }
  a->ends = counts;
  a->order = order;
}

RM_INLINE long tokens_begin(const rows_args *a, long row) { return row ? a->ends[row - 1] : 0; }

/* g[0..n) = columns from `column` on of one row's gradient: tokens order[from..to). */
static void sum_tokens(const rows_args *a, float *g, long from, long to, long column, long n) {
  memset(g, 0, (size_t)n * 4);
  for (long k = from; k < to; k++) add_columns(g, a->dy + a->order[k] * a->D + column, n);
}

/* ---- updates ---- */

/* Updates elements [at, at + n) with gradient factor * g, or factor * 0 without g. */
RM_INLINE void update_run(const rows_args *a, const float *g, long at, long n,
                          const enum kind kind) {
  const step_scalars s = a->s;
  float *w = a->w + at, *m = a->m + at, *v = a->v + at;
  const vf none = a->factor * (vf){0};
  long i = 0;
  if (g) {
    for (; i + VL <= n; i += VL)
      update_vector(a->factor * vload(g + i), w + i, m + i, v + i, &s, VL, kind);
    if (i < n)
      update_vector(a->factor * vload_part(g + i, n - i), w + i, m + i, v + i, &s, n - i, kind);
  } else {
    for (; i + VL <= n; i += VL) update_vector(none, w + i, m + i, v + i, &s, VL, kind);
    if (i < n) update_vector(none, w + i, m + i, v + i, &s, n - i, kind);
  }
}

RM_INLINE void update_rows_task(const rows_args *a, long task, const enum kind kind) {
  float g[CHUNK] __attribute__((aligned(64)));
  const long first = task * a->step, last = min_long(first + a->step, a->V);
  /* Without momentum a row without tokens stays as it is, unless the factor is no number. */
  const int skips = kind == SGD && a->factor - a->factor == 0;
  for (long row = first; row < last;) {
    const long from = tokens_begin(a, row), to = a->ends[row];
    if (from == to) {
      long next = row + 1;
      while (next < last && a->ends[next] == to) next++;
      if (!skips) update_run(a, NULL, row * a->D, (next - row) * a->D, kind);
      row = next;
      continue;
    }
    for (long column = 0; column < a->D; column += CHUNK) {
      const long n = min_long(CHUNK, a->D - column);
      sum_tokens(a, g, from, to, column, n);
      update_run(a, g, row * a->D + column, n, kind);
    }
    row++;
  }
}
static void adamw_rows_task(void *a, long task) { update_rows_task(a, task, ADAMW); }
static void sgd_rows_task(void *a, long task) { update_rows_task(a, task, SGD); }
static void sgd_momentum_rows_task(void *a, long task) { update_rows_task(a, task, SGD_MOMENTUM); }

static void update_table(rows_args *a, int32_t *scratch, rm_task task) {
  if (a->D == 0 || a->V == 0) return;
  sort_tokens(a, scratch);
  a->step = max_long(1, RM_SPAN / a->D);
  rm_parallel(ceil_div(a->V, a->step), task, a);
}

/* AdamW on w(V,D), with the gradient times *factor unless NULL. */
RM_API void rm_adamw_from_rows(const float *dy, const int32_t *ids, float *w, float *m, float *v,
                               uint64_t M, uint64_t V, uint64_t D, uint64_t start,
                               const float *factor, const step_scalars *s, int32_t *scratch) {
  rows_args a = {.ids = ids, .dy = dy, .w = w, .m = m, .v = v, .M = (long)M, .V = (long)V,
                 .D = (long)D, .start = (long)start, .factor = factor ? *factor : 1.0f, .s = *s};
  update_table(&a, scratch, adamw_rows_task);
}

/* SGD likewise; m is NULL without momentum. */
RM_API void rm_sgd_from_rows(const float *dy, const int32_t *ids, float *w, float *m, uint64_t M,
                             uint64_t V, uint64_t D, uint64_t start, const float *factor,
                             const step_scalars *s, int32_t *scratch) {
  rows_args a = {.ids = ids, .dy = dy, .w = w, .m = m, .M = (long)M, .V = (long)V, .D = (long)D,
                 .start = (long)start, .factor = factor ? *factor : 1.0f, .s = *s};
  update_table(&a, scratch, m ? sgd_momentum_rows_task : sgd_rows_task);
}

static void squares_task(void *context, long task) {
  const rows_args *a = context;
  float g[CHUNK] __attribute__((aligned(64)));
  const long last = min_long((task + 1) * a->step, a->V);
  double total = 0;
  for (long row = task * a->step; row < last; row++) {
    const long from = tokens_begin(a, row), to = a->ends[row];
    if (from == to) continue;
    for (long column = 0; column < a->D; column += CHUNK) {
      const long n = min_long(CHUNK, a->D - column);
      sum_tokens(a, g, from, to, column, n);
      vd sum = {0};
      for (long i = 0; i < n; i += VL) {
        const vd x = vwiden(n - i >= VL ? vload(g + i) : vload_part(g + i, n - i));
        sum += x * x;
      }
      total += vsum_double(sum);
    }
  }
  a->partial[task] = total;
}

/* *s = sum of squares of the table's gradient, each element of which is a float, in double. */
RM_API void rm_sum_squares_from_rows(const float *dy, const int32_t *ids, uint64_t M, uint64_t V,
                                     uint64_t D, uint64_t start, int32_t *scratch, double *s) {
  double partial[MOST_GROUPS], total = 0;
  rows_args a = {.ids = ids, .dy = dy, .partial = partial, .M = (long)M, .V = (long)V,
                 .D = (long)D, .start = (long)start};
  if (a.D > 0 && a.V > 0) {
    sort_tokens(&a, scratch);
    a.step = max_long(max_long(1, RM_SPAN / a.D), ceil_div(a.V, MOST_GROUPS));
    const long groups = ceil_div(a.V, a.step);
    rm_parallel(groups, squares_task, &a);
    for (long g = 0; g < groups; g++) total += partial[g];
  }
  *s = total;
}
