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
#define COLUMNS 1024

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

/* ---- forward ---- */

RM_INLINE void norm_rows(const norm_args *a, long task, const enum norm kind) {
  const long D = a->D, last = min_long((task + 1) * a->step, a->M);
  for (long r = task * a->step; r < last; r++) {
    const float *x = a->x + r * D;
    float *y = a->y + r * D;
    const float mean = row_mean(x, D, kind), rate = rate_of(row_squares(x, D, mean), D, a->eps);
    EACH_VECTOR({
      const vf xhat = (LOAD(x + i) - mean) * rate;
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
 * dx = rate (d - mean(d) - xhat mean(d xhat)) with d = dy g, where RMS has no mean(d); and sums += dy xhat. Each only
 * where wanted.
 */
RM_INLINE void grad_row(const norm_args *a, long r, float *sums, const enum norm kind,
                        const int wants_dx) {
  const long D = a->D;
  const float *x = a->x + r * D, *dy = a->dy + r * D;
  const float mean = row_mean(x, D, kind);
  if (!wants_dx) {
    const float rate = rate_of(row_squares(x, D, mean), D, a->eps);
    EACH_VECTOR({
      const vf xhat = (LOAD(x + i) - mean) * rate;
      STORE(sums + i, LOAD(sums + i) + LOAD(dy + i) * xhat);
    });
    return;
  }
  float *dx = a->y + r * D;
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
  const float rate = rate_of(vsum(squares[0] + squares[1]), D, a->eps);
  const float slope = rate * vsum(dots[0] + dots[1]) / (float)D;
  const float shift = kind == LAYER ? vsum(plain[0] + plain[1]) / (float)D : 0.0f;
  EACH_VECTOR({
    const vf xhat = (LOAD(x + i) - mean) * rate, dyi = LOAD(dy + i);
    if (sums) STORE(sums + i, LOAD(sums + i) + dyi * xhat);
    STORE(dx + i, rate * (dyi * LOAD(a->g + i) - shift - xhat * slope));
  });
}

RM_INLINE void grad_rows(const norm_args *a, long task, const enum norm kind, const int wants_dx) {
  const long last = min_long((task + 1) * a->step, a->M);
  float *sums = a->sums ? a->sums + task * a->D : NULL;
  if (sums) memset(sums, 0, (size_t)a->D * 4);
  for (long r = task * a->step; r < last; r++) grad_row(a, r, sums, kind, wants_dx);
}
static void rms_grad_task(void *a, long task) { grad_rows(a, task, RMS, 1); }
static void layer_grad_task(void *a, long task) { grad_rows(a, task, LAYER, 1); }
static void rms_dg_task(void *a, long task) { grad_rows(a, task, RMS, 0); }
static void layer_dg_task(void *a, long task) { grad_rows(a, task, LAYER, 0); }

static void add_blocks_task(void *context, long task) {
  const norm_args *a = context;
  const long last = min_long((task + 1) * COLUMNS, a->D);
  for (long d = task * COLUMNS; d < last; d++) {
    double sum = 0;
    for (long k = 0; k < a->blocks; k++) sum += (double)a->sums[k * a->D + d];
    a->dg[d] = (float)sum;
  }
}

/* dx(M,D) and dg(D) of a norm (layer: of a layer norm); one of them may be NULL. dx may be dy. */
RM_API void rm_norm_grad(int layer, const float *dy, const float *x, const float *g, float *dx,
                         float *dg, uint64_t M, uint64_t D, double eps) {
  if (D == 0) return;
  norm_args a = {.dy = dy, .x = x, .g = g, .y = dx, .dg = dg, .M = (long)M, .D = (long)D,
                 .eps = eps};
  const rm_task task = dx ? (layer ? layer_grad_task : rms_grad_task)
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
