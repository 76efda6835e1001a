/* bfloat16: the upper half of a float32. Rounding is to nearest even; NaN stays NaN. */
#include "bfloat16.h"

typedef struct {
  const void *x;
  void *y;
  long n;
} cast_args;

static void round_task(void *context, long task) {
  const cast_args *a = context;
  const long start = task * RM_SPAN, end = min_long(start + RM_SPAN, a->n);
  for (long i = start; i < end; i++)
    ((bfloat16 *)a->y)[i] = to_bfloat16(((const float *)a->x)[i]);
}

static void widen_task(void *context, long task) {
  const cast_args *a = context;
  const long start = task * RM_SPAN, end = min_long(start + RM_SPAN, a->n);
  for (long i = start; i < end; i++)
    ((float *)a->y)[i] = from_bfloat16(((const bfloat16 *)a->x)[i]);
}

RM_API void rm_round(const float *x, bfloat16 *y, long n) {
  cast_args a = {x, y, n};
  rm_parallel(ceil_div(n, RM_SPAN), round_task, &a);
}

RM_API void rm_widen(const bfloat16 *x, float *y, long n) {
  cast_args a = {x, y, n};
  rm_parallel(ceil_div(n, RM_SPAN), widen_task, &a);
}

/* target = left + right, formed in float32; any alignment. Runs on the calling thread alone. */
RM_API void rm_sum2_bfloat16(bfloat16_unaligned *target, const bfloat16_unaligned *left,
                             const bfloat16_unaligned *right, uint64_t n) {
  for (uint64_t i = 0; i < n; i++)
    target[i] = to_bfloat16(from_bfloat16(left[i]) + from_bfloat16(right[i]));
}
