/*
 * Sums to a scalar, accumulated in double and rounded once. A tensor is cut into chunks by its
 * length alone; the chunks' sums are added in order, so the result does not depend on the number of
 * threads.
 */
#include "rankmesh_cpu.h"

#define MOST_CHUNKS 1024

enum term { PLAIN, SQUARE, SQUARED_DIFFERENCE };

typedef struct {
  const float *x, *y;
  double *partial;
  long n, step;
} reduce_args;

RM_INLINE vd term_of(vf x, vf y, const enum term term) {
  const vd a = vwiden(x);
  if (term == PLAIN) return a;
  if (term == SQUARE) return a * a;
  const vd d = a - vwiden(y);
  return d * d;
}

RM_INLINE void reduce_span(const reduce_args *a, long task, const enum term term) {
  const long first = task * a->step, last = min_long(first + a->step, a->n);
  vd s0 = {0}, s1 = {0};
  long i = first;
  for (; i + 2 * VL <= last; i += 2 * VL) {
    s0 += term_of(vload(a->x + i), term == SQUARED_DIFFERENCE ? vload(a->y + i) : (vf){0}, term);
    s1 += term_of(vload(a->x + i + VL), term == SQUARED_DIFFERENCE ? vload(a->y + i + VL) : (vf){0},
                  term);
  }
  for (; i < last; i += VL) {
    const long n = min_long(VL, last - i);
    s0 += term_of(vload_part(a->x + i, n),
                  term == SQUARED_DIFFERENCE ? vload_part(a->y + i, n) : (vf){0}, term);
  }
  a->partial[task] = vsum_double(s0 + s1);
}

static void sum_task(void *a, long task) { reduce_span(a, task, PLAIN); }
static void square_task(void *a, long task) { reduce_span(a, task, SQUARE); }
static void difference_task(void *a, long task) { reduce_span(a, task, SQUARED_DIFFERENCE); }

static double reduce(rm_task task, const float *x, const float *y, uint64_t n) {
  double partial[MOST_CHUNKS], total = 0;
  reduce_args a = {x, y, partial, (long)n, RM_SPAN};
  if (a.n > RM_SPAN * MOST_CHUNKS) a.step = ceil_div(ceil_div(a.n, MOST_CHUNKS), 2 * VL) * 2 * VL;
  const long chunks = ceil_div(a.n, a.step);
  rm_parallel(chunks, task, &a);
  for (long c = 0; c < chunks; c++) total += partial[c];
  return total;
}

/* *s = sum(x) / divisor. */
RM_API void rm_sum(const float *x, uint64_t n, double divisor, float *s) {
  *s = (float)(reduce(sum_task, x, NULL, n) / divisor);
}

/* *s = sum((x - y)^2) / count. */
RM_API void rm_mse(const float *x, const float *y, uint64_t n, double count, float *s) {
  *s = (float)(reduce(difference_task, x, y, n) / count);
}

RM_API void rm_sum_squares(const float *x, uint64_t n, double *s) {
  *s = reduce(square_task, x, NULL, n);
}

/* ---- norm of dy^T x through Gram matrices ---- */

/* Rows of a block of the Gram matrices, and the most groups of blocks. */
#define BLOCK 4
#define MOST_GROUPS 1024

typedef struct {
  const float *dy, *x;
  double *partial;
  long M, O, I, blocks, step;
} gram_args;

/* dots[i][j] = a[i] . b[j] for i < na, j < nb, rows of length n. */
RM_INLINE void block_dots(const float *a, const float *b, long n, long na, long nb,
                          double dots[BLOCK][BLOCK]) {
  vd sum[BLOCK][BLOCK];
  for (int i = 0; i < BLOCK; i++)
    for (int j = 0; j < BLOCK; j++) sum[i][j] = (vd){0};
  for (long k = 0; k < n; k += VL) {
    const long left = min_long(VL, n - k);
    vd bk[BLOCK];
    for (long j = 0; j < nb; j++)
      bk[j] = vwiden(left == VL ? vload(b + j * n + k) : vload_part(b + j * n + k, left));
    for (long i = 0; i < na; i++) {
      const vd ak = vwiden(left == VL ? vload(a + i * n + k) : vload_part(a + i * n + k, left));
      for (long j = 0; j < nb; j++) sum[i][j] += ak * bk[j];
    }
  }
  for (long i = 0; i < na; i++)
    for (long j = 0; j < nb; j++) dots[i][j] = vsum_double(sum[i][j]);
}

static double gram_block(const gram_args *a, long p, long q) {
  double dots_dy[BLOCK][BLOCK], dots_x[BLOCK][BLOCK], total = 0;
  const long i = p * BLOCK, j = q * BLOCK, ni = min_long(BLOCK, a->M - i),
             nj = min_long(BLOCK, a->M - j);
  if (ni == BLOCK && nj == BLOCK) {
    block_dots(a->dy + i * a->O, a->dy + j * a->O, a->O, BLOCK, BLOCK, dots_dy);
    block_dots(a->x + i * a->I, a->x + j * a->I, a->I, BLOCK, BLOCK, dots_x);
  } else {
    block_dots(a->dy + i * a->O, a->dy + j * a->O, a->O, ni, nj, dots_dy);
    block_dots(a->x + i * a->I, a->x + j * a->I, a->I, ni, nj, dots_x);
  }
  for (long r = 0; r < ni; r++)
    for (long s = 0; s < nj; s++) total += dots_dy[r][s] * dots_x[r][s];
  return p == q ? total : 2 * total; /* the matrices are symmetric */
}

static void gram_task(void *context, long task) {
  const gram_args *a = context;
  const long last = min_long((task + 1) * a->step, a->blocks);
  double total = 0;
  for (long p = task * a->step; p < last; p++)
    for (long q = 0; q <= p; q++) total += gram_block(a, p, q);
  a->partial[task] = total;
}

/* *s = ||dy^T x||_F^2 = sum over rows i, j of (dy_i . dy_j)(x_i . x_j), dots in double. */
RM_API void rm_sum_squares_from_factors(const float *dy, const float *x, uint64_t M, uint64_t O,
                                        uint64_t I, double *s) {
  double partial[MOST_GROUPS], total = 0;
  gram_args a = {dy, x, partial, (long)M, (long)O, (long)I, ceil_div((long)M, BLOCK), 1};
  a.step = max_long(1, ceil_div(a.blocks, MOST_GROUPS));
  const long groups = ceil_div(a.blocks, a.step);
  rm_parallel(groups, gram_task, &a);
  for (long g = 0; g < groups; g++) total += partial[g];
  *s = total;
}

/* ---- scalars of gradient clipping ---- */

RM_API void rm_sqrt(const double *x, double *y) { *y = __builtin_sqrt(*x); }

/* *factor = min(1, max_norm / (*norm + 1e-6)). NaN stays NaN. */
RM_API void rm_clip_factor(const double *norm, float *factor, double max_norm) {
  const double f = max_norm / (*norm + 1e-6);
  *factor = (float)(f > 1 ? 1 : f);
}
