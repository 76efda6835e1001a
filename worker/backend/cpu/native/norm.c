/*
 * Normalisation of rows x(M,D): xhat = (x - mean) rate with rate = 1 / sqrt(spread + eps). RMS takes 0 for the mean and
 * the mean of squares for the spread; LAYER the mean and the variance. A row is read from memory once: later passes find
 * it in cache.
 *
 * Gradients of the gain g(D) are summed in blocks of rows, whose size follows from M and D alone, and then over blocks.
 */
#include "rankmesh_cpu.h"

enum norm { RMS, LAYER };

/* Floats of the blocks' sums, on the caller's stack. */
#define SUMS (128 * 1024L)
/* Blocks of rows at most. */
#define MOST_BLOCKS 64
/* Columns of one task of the sum over blocks. */
#define COLUMNS 256

typedef struct {
  const float *dy, *x, *g, *b;
  float *y, *dg;
  float *sums; /* (blocks, D) */
  long M, D, step, blocks;
  double eps;
} norm_args;

/* Runs the statements for each vector of a row: i its first column, n its lanes. */
#define EACH_VECTOR(...)                                                       \
  do {                                                                         \
    long i = 0;                                                                \
    for (; i + VL <= D; i += VL) {                                             \
      const long n = VL;                                                       \
      __VA_ARGS__                                                              \
    }                                                                          \
    if (i < D) {                                                               \
      const long n = D - i;                                                    \
      __VA_ARGS__                                                              \
    }                                                                          \
  } while (0)
#define LOAD(p) (n == VL ? vload(p) : vload_part(p, n))
#define STORE(p, value)                \
  do {                                 \
    const vf stored = (value);         \
    if (n == VL)                       \
      vstore(p, stored);               \
    else                               \
      vstore_part(p, stored, n);       \
  } while (0)

/* Ones in the first n lanes, zeros in the others. */
RM_INLINE vf first_lanes(long n) {
  vf ones = {0};
  for (int j = 0; j < VL; j++) ones[j] = j < n ? 1.0f : 0.0f;
  return ones;
}
/* Lanes past the row's end hold zeros, which become -mean: cleared again. */
#define CENTRED(p) (n == VL ? vload(p) - mean : (vload_part(p, n) - mean) * first_lanes(n))

/* Sum of x over a row, and of squares of x - mean, in four chains. */
RM_INLINE float row_sum(const float *x, long D) {
  vf s[4] = {{0}, {0}, {0}, {0}};
  long i = 0;
  for (; i + 4 * VL <= D; i += 4 * VL)
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++) s[k] += vload(x + i + k * VL);
  for (; i < D; i += VL) {
    const long n = min_long(VL, D - i);
    s[0] += LOAD(x + i);
  }
  return vsum((s[0] + s[1]) + (s[2] + s[3]));
}

RM_INLINE float row_squares(const float *x, long D, float mean) {
  vf s[4] = {{0}, {0}, {0}, {0}};
  long i = 0;
  for (; i + 4 * VL <= D; i += 4 * VL)
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++) {
      const vf c = vload(x + i + k * VL) - mean;
      s[k] += c * c;
    }
  for (; i < D; i += VL) {
    const long n = min_long(VL, D - i);
    const vf c = CENTRED(x + i);
    s[0] += c * c;
  }
  return vsum((s[0] + s[1]) + (s[2] + s[3]));
}

RM_INLINE float row_mean(const float *x, long D, const enum norm kind) {
  return kind == LAYER ? row_sum(x, D) / (float)D : 0.0f;
}

RM_INLINE float rate_of(float squares, long D, double eps) {
  return (float)(1.0 / __builtin_sqrt((double)squares / (double)D + eps));
}

/*
 * What a row is normalised by, and for dx the means that are taken away. Statistics of a row are formed before the row
 * ahead of it is written: their last sums, which wait for one another, then cost nothing.
 */
typedef struct {
  float mean, rate, slope, shift;
} row_statistics;

/* ---- forward ---- */

RM_INLINE row_statistics forward_statistics(const norm_args *a, long r, const enum norm kind) {
  const float *x = a->x + r * a->D;
  const float mean = row_mean(x, a->D, kind);
  return (row_statistics){mean, rate_of(row_squares(x, a->D, mean), a->D, a->eps), 0, 0};
}

RM_INLINE void norm_rows(const norm_args *a, long task, const enum norm kind) {
  const long D = a->D, first = task * a->step, last = min_long(first + a->step, a->M);
  row_statistics next = forward_statistics(a, first, kind);
  for (long r = first; r < last; r++) {
    const float *x = a->x + r * D;
    float *y = a->y + r * D;
    const row_statistics s = next;
    if (r + 1 < last) next = forward_statistics(a, r + 1, kind);
    EACH_VECTOR({
      __builtin_prefetch(x + 2 * D + i);
      const vf xhat = (LOAD(x + i) - s.mean) * s.rate;
      if (kind == LAYER)
        STORE(y + i, xhat * LOAD(a->g + i) + LOAD(a->b + i));
      else
        STORE(y + i, xhat * LOAD(a->g + i));
    });
  }
}
static void rms_task(void *a, long task) { norm_rows(a, task, RMS); }
static void layer_task(void *a, long task) { norm_rows(a, task, LAYER); }

/* y = xhat g, + b where b is not NULL: that is a layer norm. y may be x. */
RM_API void rm_norm(const float *x, const float *g, const float *b, float *y, uint64_t M,
                    uint64_t D, double eps) {
  if (D == 0) return;
  norm_args a = {.x = x, .g = g, .b = b, .y = y, .M = (long)M, .D = (long)D, .eps = eps};
  a.step = max_long(1, RM_SPAN / 2 / a.D);
  rm_parallel(ceil_div(a.M, a.step), b ? layer_task : rms_task, &a);
}

/* ---- gradients ---- */

/*
 * dx = rate (d - shift - xhat slope) with d = dy g, slope = mean(d xhat) and, for LAYER, shift = mean(d).
 */
RM_INLINE row_statistics grad_statistics(const norm_args *a, long r, const enum norm kind) {
  const long D = a->D;
  const float *x = a->x + r * D, *dy = a->dy + r * D;
  const float mean = row_mean(x, D, kind);
  vf squares[2] = {{0}, {0}}, dots[2] = {{0}, {0}}, plain[2] = {{0}, {0}};
  long i = 0;
  for (; i + 2 * VL <= D; i += 2 * VL)
#pragma GCC unroll 2
    for (int k = 0; k < 2; k++) {
      const vf c = vload(x + i + k * VL) - mean,
               d = vload(dy + i + k * VL) * vload(a->g + i + k * VL);
      squares[k] += c * c;
      dots[k] += d * c;
      if (kind == LAYER) plain[k] += d;
    }
  for (; i < D; i += VL) {
    const long n = min_long(VL, D - i);
    const vf c = CENTRED(x + i), d = LOAD(dy + i) * LOAD(a->g + i);
    squares[0] += c * c;
    dots[0] += d * c;
    if (kind == LAYER) plain[0] += d;
  }
  row_statistics s = {mean, rate_of(vsum(squares[0] + squares[1]), D, a->eps), 0, 0};
  s.slope = s.rate * vsum(dots[0] + dots[1]) / (float)D;
  if (kind == LAYER) s.shift = vsum(plain[0] + plain[1]) / (float)D;
  return s;
}

/* Writes one row of dx, where wanted, and adds dy xhat to sums, where there are any. */
RM_INLINE void grad_row(const norm_args *a, long r, row_statistics s, float *sums,
                        const int wants_dx, const int wants_dg) {
  const long D = a->D;
  const float *x = a->x + r * D, *dy = a->dy + r * D;
  float *dx = a->y + r * D;
  EACH_VECTOR({
    __builtin_prefetch(x + 2 * D + i);
    __builtin_prefetch(dy + 2 * D + i);
    const vf xhat = (LOAD(x + i) - s.mean) * s.rate, dyi = LOAD(dy + i);
    if (wants_dg) STORE(sums + i, LOAD(sums + i) + dyi * xhat);
    if (wants_dx) STORE(dx + i, s.rate * (dyi * LOAD(a->g + i) - s.shift - xhat * s.slope));
  });
}

RM_INLINE void grad_rows(const norm_args *a, long task, const enum norm kind, const int wants_dx,
                         const int wants_dg) {
  const long first = task * a->step, last = min_long(first + a->step, a->M);
  float *sums = wants_dg ? a->sums + task * a->D : NULL;
  if (wants_dg) memset(sums, 0, (size_t)a->D * 4);
  if (first >= last) return;
#define STATISTICS(r) (wants_dx ? grad_statistics(a, r, kind) : forward_statistics(a, r, kind))
  row_statistics next = STATISTICS(first);
  for (long r = first; r < last; r++) {
    const row_statistics s = next;
    if (r + 1 < last) next = STATISTICS(r + 1);
    grad_row(a, r, s, sums, wants_dx, wants_dg);
  }
#undef STATISTICS
}
#define GRAD_TASKS(NAME, KIND)                                                       \
  static void NAME##_dx_task(void *a, long task) { grad_rows(a, task, KIND, 1, 0); } \
  static void NAME##_dg_task(void *a, long task) { grad_rows(a, task, KIND, 0, 1); } \
  static void NAME##_both_task(void *a, long task) { grad_rows(a, task, KIND, 1, 1); }
GRAD_TASKS(rms, RMS)
GRAD_TASKS(layer, LAYER)

static void add_blocks_task(void *context, long task) {
  const norm_args *a = context;
  const long first = task * COLUMNS, n = min_long(COLUMNS, a->D - first);
  double sum[COLUMNS] = {0};
  for (long k = 0; k < a->blocks; k++) {
    const float *block = a->sums + k * a->D + first;
    for (long d = 0; d < n; d++) sum[d] += (double)block[d];
  }
  for (long d = 0; d < n; d++) a->dg[first + d] = (float)sum[d];
}

/* dx(M,D) and dg(D) of a norm (layer: of a layer norm); one of them may be NULL. dx may be dy. */
RM_API void rm_norm_grad(int layer, const float *dy, const float *x, const float *g, float *dx,
                         float *dg, uint64_t M, uint64_t D, double eps) {
  if (D == 0) return;
  norm_args a = {.dy = dy, .x = x, .g = g, .y = dx, .dg = dg, .M = (long)M, .D = (long)D,
                 .eps = eps};
  const rm_task task = !dg  ? (layer ? layer_dx_task : rms_dx_task)
                       : dx ? (layer ? layer_both_task : rms_both_task)
                            : (layer ? layer_dg_task : rms_dg_task);
  if (!dg) {
    a.step = max_long(1, RM_SPAN / 2 / a.D);
    rm_parallel(ceil_div(a.M, a.step), task, &a);
    return;
  }
  float sums[SUMS] __attribute__((aligned(64)));
  const long most = max_long(1, min_long(MOST_BLOCKS, SUMS / a.D));
  a.step = max_long(4, ceil_div(a.M, most));
  a.blocks = ceil_div(a.M, a.step);
  if (a.blocks <= 1) {
    /* One block's sums are dg. Rows too wide for the stack come here too. */
    a.sums = dg;
    a.step = max_long(1, a.M);
    rm_parallel(1, task, &a);
    return;
  }
  a.sums = sums;
  rm_parallel(a.blocks, task, &a);
  rm_parallel(ceil_div(a.D, COLUMNS), add_blocks_task, &a);
}
