/* The gate silu(a) b and its gradients. Outputs may be the very bytes of inputs: a vector of each is loaded before any
 * is stored. */
#include "vector_math.h"

typedef struct {
  const float *dy, *a, *b;
  float *first, *second;
  long n;
} swiglu_args;

/* Runs the statements for each vector of the task's span: i its first element, n its lanes. */
#define SWIGLU_TASK(NAME, ...)                                                 \
  static void NAME(void *context, long task) {                                 \
    const swiglu_args *s = context;                                            \
    const long start = task * RM_SPAN, end = min_long(start + RM_SPAN, s->n);  \
    long i = start;                                                            \
    for (; i + VL <= end; i += VL) {                                           \
      const long n = VL;                                                       \
      __VA_ARGS__                                                              \
    }                                                                          \
    if (i < end) {                                                             \
      const long n = end - i;                                                  \
      __VA_ARGS__                                                              \
    }                                                                          \
  }
#define LOAD(p) (n == VL ? vload((p) + i) : vload_part((p) + i, n))
#define STORE(p, x) (n == VL ? vstore((p) + i, x) : vstore_part((p) + i, x, n))

SWIGLU_TASK(swiglu_task, {
  const vf a = LOAD(s->a);
  STORE(s->first, a / (1.0f + vexp(-a)) * LOAD(s->b));
})
SWIGLU_TASK(swiglu_da_task, {
  const vf a = LOAD(s->a), sigmoid = vsigmoid(a);
  STORE(s->first, LOAD(s->dy) * LOAD(s->b) * (sigmoid * (1.0f + a * (1.0f - sigmoid))));
})
SWIGLU_TASK(swiglu_db_task, {
  const vf a = LOAD(s->a);
  STORE(s->first, LOAD(s->dy) * (a / (1.0f + vexp(-a))));
})
SWIGLU_TASK(swiglu_grad_task, {
  const vf a = LOAD(s->a), dy = LOAD(s->dy), b = LOAD(s->b), sigmoid = vsigmoid(a);
  STORE(s->first, dy * b * (sigmoid * (1.0f + a * (1.0f - sigmoid))));
  STORE(s->second, dy * (a * sigmoid));
})

static void run(rm_task task, swiglu_args s) { rm_parallel(ceil_div(s.n, RM_SPAN), task, &s); }

/* y = silu(a) b. */
RM_API void rm_swiglu(const float *a, const float *b, float *y, uint64_t n) {
  run(swiglu_task, (swiglu_args){NULL, a, b, y, NULL, (long)n});
}

/* da = dy silu'(a) b. */
RM_API void rm_swiglu_da(const float *dy, const float *a, const float *b, float *da, uint64_t n) {
  run(swiglu_da_task, (swiglu_args){dy, a, b, da, NULL, (long)n});
}

/* db = dy silu(a). */
RM_API void rm_swiglu_db(const float *dy, const float *a, float *db, uint64_t n) {
  run(swiglu_db_task, (swiglu_args){dy, a, NULL, db, NULL, (long)n});
}

RM_API void rm_swiglu_grad(const float *dy, const float *a, const float *b, float *da, float *db,
                           uint64_t n) {
  run(swiglu_grad_task, (swiglu_args){dy, a, b, da, db, (long)n});
}
