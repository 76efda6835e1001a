/*
 * Dropout by counter: element e of the step's global tensor is kept when lane e % 4 of Philox block
 * (e / 4, step, name) under the seed is at least the threshold. Nothing depends on how tensors are split.
 */
#include "philox.h"
#include "slice.h"

typedef struct {
  stream s;
  uint64_t step;
  const float *x;
  float *y;
  float scale;
  uint32_t threshold;
  tensor_slice slice;
} dropout_args;

/* y[0..n) from x, global elements `start` on. */
static void drop_run(const dropout_args *a, uint64_t start, long n, const float *x, float *y) {
  uint32_t words[PHILOX_WORDS] __attribute__((aligned(64)));
  while (n > 0) {
    const long skip = (long)(start % 4), count = min_long(PHILOX_WORDS - skip, n);
    /* Block numbers are below 2^32; the step is the counter's next word. */
    philox_blocks(&a->s, (a->step << 32) | (start / 4), words);
    for (long j = 0; j < count; j++) {
      const float kept = x[j] * a->scale;
      y[j] = words[skip + j] >= a->threshold ? kept : 0.0f;
    }
    x += count;
    y += count;
    start += (uint64_t)count;
    n -= count;
  }
}

/* Elements of one task; a multiple of what is drawn together. */
#define DROP_SPAN (RM_SPAN / 4)

static void dropout_task(void *context, long task) {
  const dropout_args *a = context;
  uint64_t at = (uint64_t)task * DROP_SPAN;
  const uint64_t last = (uint64_t)min_long((long)at + DROP_SPAN, a->slice.n);
  while (at < last) {
    const slice_run run = run_at(&a->slice, at, last);
    drop_run(a, run.global, run.n, a->x + at, a->y + at);
    at += (uint64_t)run.n;
  }
}

/*
 * y = x / (1 - rate) where kept, else 0, for a slice (`slice_of` its shape); all blocks of elements are below 2^32. y
 * may be x.
 */
RM_API void rm_dropout(const float *x, float *y, const uint64_t *shape, int dims, uint64_t seed,
                       uint64_t name, uint64_t step, uint64_t threshold, double scale) {
  dropout_args a = {.s = stream_of(seed, name),
                    .step = step,
                    .x = x,
                    .y = y,
                    .scale = (float)scale,
                    .threshold = (uint32_t)threshold,
                    .slice = slice_of(shape, dims)};
  rm_parallel(ceil_div(a.slice.n, DROP_SPAN), dropout_task, &a);
}
