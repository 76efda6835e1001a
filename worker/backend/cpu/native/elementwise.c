/*
 * Elementwise ops. Outputs may be the very bytes of an input: each vector is loaded before it is
 * stored. A last part of a vector goes through the same vector code, so an element's bits do not
 * depend on its place.
 */
#include "vector_math.h"

/* Codes shared with the loader (kernels.ts). */
enum unary { SILU, RELU, GELU, TANH, SIGMOID, GELU_TANH };
enum binary { MUL, ADD, SUB };

typedef struct {
  const float *a, *b;
  float *y;
  long n;
  double factor;
} span_args;

/* GPT-2's gelu: x (1 + tanh(u)) / 2 = x sigmoid(2u). */
#define GELU_SCALE 0.79788456080286536f
#define GELU_CUBE 0.044715f
RM_INLINE vf gelu_argument(vf x) { return GELU_SCALE * (x + GELU_CUBE * x * x * x); }

RM_INLINE vf value_of(vf x, const enum unary op) {
  switch (op) {
    case SILU: return x / (1.0f + vexp(-x));
    case RELU: return vselect(x <= 0.0f, (vf){0}, x); /* NaN stays NaN */
    case GELU: return x * vnormal_cdf(x);
    case TANH: return vtanh(x);
    case GELU_TANH: return x * vsigmoid(2.0f * gelu_argument(x));
    default: return vsigmoid(x);
  }
}

RM_INLINE vf slope_of(vf x, const enum unary op) {
  switch (op) {
    case SILU: {
      const vf s = vsigmoid(x);
      return s * (1.0f + x * (1.0f - s));
    }
    case RELU: return vselect(x <= 0.0f, (vf){0}, vset(1.0f));
    case GELU: return vnormal_cdf(x) + x * vnormal_pdf(x);
    case TANH: return vtanh_slope(x);
    case GELU_TANH: {
      const vf s = vsigmoid(2.0f * gelu_argument(x));
      const vf rest = x * s * (1.0f - s) * (2.0f * GELU_SCALE) * (1.0f + 3.0f * GELU_CUBE * x * x);
      /* Far out it is zero, but x^2 may be infinite. */
      return s + vselect(vabs(x) < 16.0f, rest, (vf){0});
    }
    default: return vsigmoid_slope(x);
  }
}

/* Runs y[i] = EXPRESSION of a[i], b[i] as vectors `a` and `b` over the task's span. */
#define SPAN_TASK(NAME, USES_B, EXPRESSION)                                    \
  static void NAME(void *context, long task) {                                 \
    const span_args *s = context;                                              \
    const long first = task * RM_SPAN, last = min_long(first + RM_SPAN, s->n); \
    long i = first;                                                            \
    for (; i + VL <= last; i += VL) {                                          \
      const vf a = vload(s->a + i), b = USES_B ? vload(s->b + i) : a;          \
      (void)b;                                                                 \
      vstore(s->y + i, EXPRESSION);                                            \
    }                                                                          \
    if (i < last) {                                                            \
      const vf a = vload_part(s->a + i, last - i),                             \
               b = USES_B ? vload_part(s->b + i, last - i) : a;                \
      (void)b;                                                                 \
      vstore_part(s->y + i, EXPRESSION, last - i);                             \
    }                                                                          \
  }

SPAN_TASK(silu_task, 0, value_of(a, SILU))
SPAN_TASK(relu_task, 0, value_of(a, RELU))
SPAN_TASK(gelu_task, 0, value_of(a, GELU))
SPAN_TASK(tanh_task, 0, value_of(a, TANH))
SPAN_TASK(sigmoid_task, 0, value_of(a, SIGMOID))
SPAN_TASK(gelu_tanh_task, 0, value_of(a, GELU_TANH))
SPAN_TASK(silu_grad_task, 1, a *slope_of(b, SILU))
SPAN_TASK(relu_grad_task, 1, a *slope_of(b, RELU))
SPAN_TASK(gelu_grad_task, 1, a *slope_of(b, GELU))
SPAN_TASK(tanh_grad_task, 1, a *slope_of(b, TANH))
SPAN_TASK(sigmoid_grad_task, 1, a *slope_of(b, SIGMOID))
SPAN_TASK(gelu_tanh_grad_task, 1, a *slope_of(b, GELU_TANH))
SPAN_TASK(mul_task, 1, a *b)
SPAN_TASK(add_task, 1, a + b)
SPAN_TASK(sub_task, 1, a - b)
/* Factors are doubles: the product is rounded once. */
SPAN_TASK(scale_task, 0, vnarrow(vwiden(a) * s->factor))
SPAN_TASK(scaled_difference_task, 1, vnarrow((vwiden(a) - vwiden(b)) * s->factor))

static void run_spans(rm_task task, const float *a, const float *b, float *y, uint64_t n,
                      double factor) {
  span_args s = {a, b, y, (long)n, factor};
  rm_parallel(ceil_div(s.n, RM_SPAN), task, &s);
}

/* y = op(x). */
RM_API void rm_unary(int op, const float *x, float *y, uint64_t n) {
  static const rm_task tasks[] = {silu_task, relu_task,    gelu_task,
                                  tanh_task, sigmoid_task, gelu_tanh_task};
  run_spans(tasks[op], x, NULL, y, n, 0);
}

/* dx = dy op'(x). */
RM_API void rm_unary_grad(int op, const float *dy, const float *x, float *dx, uint64_t n) {
  static const rm_task tasks[] = {silu_grad_task, relu_grad_task,    gelu_grad_task,
                                  tanh_grad_task, sigmoid_grad_task, gelu_tanh_grad_task};
  run_spans(tasks[op], dy, x, dx, n, 0);
}

/* y = a op b. */
RM_API void rm_binary(int op, const float *a, const float *b, float *y, uint64_t n) {
  static const rm_task tasks[] = {mul_task, add_task, sub_task};
  run_spans(tasks[op], a, b, y, n, 0);
}

RM_API void rm_scale(const float *x, float *y, uint64_t n, double factor) {
  run_spans(scale_task, x, NULL, y, n, factor);
}

/* dx = *ds * 2 (x - y) / count. */
RM_API void rm_mse_grad(const float *ds, const float *x, const float *y, float *dx, uint64_t n,
                        double count) {
  run_spans(scaled_difference_task, x, y, dx, n, 2.0 * (double)*ds / count);
}

/* ---- fill ---- */

typedef struct {
  float *y;
  float value;
  long n;
} fill_args;

static void fill_task(void *context, long task) {
  const fill_args *a = context;
  const long first = task * RM_SPAN, last = min_long(first + RM_SPAN, a->n);
  for (long i = first; i < last; i++) a->y[i] = a->value;
}

RM_API void rm_fill(float *y, uint64_t n, double value) {
  fill_args a = {y, (float)value, (long)n};
  rm_parallel(ceil_div(a.n, RM_SPAN), fill_task, &a);
}

/* Every element is *s * factor. */
RM_API void rm_broadcast(const float *s, float *y, uint64_t n, double factor) {
  rm_fill(y, n, (double)*s * factor);
}

RM_API void rm_zero(void *y, uint64_t bytes) {
  if (bytes % 4 == 0)
    rm_fill(y, bytes / 4, 0);
  else
    memset(y, 0, bytes);
}

/* ---- sums of several tensors ---- */

typedef struct {
  const float *const *x;
  float *y;
  long count, n;
} add_n_args;

static void add_n_task(void *context, long task) {
  const add_n_args *a = context;
  const long first = task * RM_SPAN, last = min_long(first + RM_SPAN, a->n);
  for (long i = first; i < last; i += VL) {
    const long left = last - i;
    vf sum = left >= VL ? vload(a->x[0] + i) : vload_part(a->x[0] + i, left);
    for (long k = 1; k < a->count; k++)
      sum += left >= VL ? vload(a->x[k] + i) : vload_part(a->x[k] + i, left);
    if (left >= VL)
      vstore(a->y + i, sum);
    else
      vstore_part(a->y + i, sum, left);
  }
}

/* y = x[0] + x[1] + ..., left to right. */
RM_API void rm_add_n(const float *const *x, uint64_t count, float *y, uint64_t n) {
  add_n_args a = {x, y, (long)count, (long)n};
  rm_parallel(ceil_div(a.n, RM_SPAN), add_n_task, &a);
}

/* The same on doubles: scalars and other short values, on the calling thread. */
RM_API void rm_add_n_double(const double *const *x, uint64_t count, double *y, uint64_t n) {
  for (uint64_t i = 0; i < n; i++) {
    double sum = x[0][i];
    for (uint64_t k = 1; k < count; k++) sum += x[k][i];
    y[i] = sum;
  }
}

/* ---- sums for collectives: on the calling thread alone, operands at any alignment ---- */

#define SUM_TWO(NAME, TYPE)                                                         \
  RM_API void NAME(void *target, const void *left, const void *right, uint64_t n) { \
    TYPE *t = target;                                                               \
    const TYPE *a = left, *b = right;                                               \
    for (uint64_t i = 0; i < n; i++) t[i] = a[i] + b[i];                            \
  }
typedef float float_unaligned __attribute__((aligned(1), may_alias));
typedef double double_unaligned __attribute__((aligned(1), may_alias));
typedef uint32_t int_unaligned
    __attribute__((aligned(1), may_alias)); /* unsigned: wraps as Int32Array does */
SUM_TWO(rm_sum2_float, float_unaligned)
SUM_TWO(rm_sum2_double, double_unaligned)
SUM_TWO(rm_sum2_int, int_unaligned)

/* ---- bias ---- */

typedef struct {
  const float *x, *b;
  float *y;
  double *sums;
  long M, O, step;
} bias_args;

static void bias_task(void *context, long task) {
  const bias_args *a = context;
  const long first = task * a->step, last = min_long(first + a->step, a->M);
  for (long r = first; r < last; r++) {
    const float *x = a->x + r * a->O;
    float *y = a->y + r * a->O;
    long o = 0;
    for (; o + VL <= a->O; o += VL) vstore(y + o, vload(x + o) + vload(a->b + o));
    for (; o < a->O; o++) y[o] = x[o] + a->b[o];
  }
}

/* y(M,O) = x + b(O). */
RM_API void rm_bias(const float *x, const float *b, float *y, uint64_t M, uint64_t O) {
  if (O == 0) return;
  bias_args a = {x, b, y, NULL, (long)M, (long)O, max_long(1, RM_SPAN / (long)O)};
  rm_parallel(ceil_div(a.M, a.step), bias_task, &a);
}

/* Columns of one task of rm_bias_db. */
#define COLUMNS 256

static void bias_db_task(void *context, long task) {
  const bias_args *a = context;
  const long first = task * COLUMNS, n = min_long(COLUMNS, a->O - first);
  double sum[COLUMNS] = {0};
  for (long r = 0; r < a->M; r++) {
    const float *row = a->x + r * a->O + first;
    for (long o = 0; o < n; o++) sum[o] += (double)row[o];
  }
  for (long o = 0; o < n; o++) a->y[first + o] = (float)sum[o];
}

/* db(O) = sum of dy(M,O) over rows in row order, in double. */
RM_API void rm_bias_db(const float *dy, float *db, uint64_t M, uint64_t O) {
  bias_args a = {dy, NULL, db, NULL, (long)M, (long)O, 0};
  rm_parallel(ceil_div(a.O, COLUMNS), bias_db_task, &a);
}
