/*
 * Initial weights: Philox4x32-10 (Salmon et al. 2011) keyed by seed, counted by (global index / 4,
 * name hash), so that every element is a function of seed, parameter name and global index alone.
 * shared/random has the same in TypeScript, bit for bit.
 */
#include "philox.h"
#include "slice.h"

/* float((2u - 1) bound) with u = (word >> 8) / 2^24; `unit` is bound / 2^23, and all but the
 * product is exact. */
RM_INLINE float uniform_of(uint32_t word, double unit) {
  return (float)((double)((int32_t)(word >> 8) - 8388608) * unit);
}

/* y[0..n) = uniform values of global elements start .. start + n - 1. */
static void fill_run(const stream *s, uint64_t start, long n, double unit, float *y) {
  uint32_t words[PHILOX_WORDS] __attribute__((aligned(64)));
  while (n > 0) {
    const uint64_t block = start / 4;
    const long skip = (long)(start % 4), count = min_long(PHILOX_WORDS - skip, n);
    philox_blocks(s, block, words);
    if (skip == 0 && count == PHILOX_WORDS)
      for (int j = 0; j < PHILOX_WORDS; j++) y[j] = uniform_of(words[j], unit);
    else
      for (long j = 0; j < count; j++) y[j] = uniform_of(words[skip + j], unit);
    y += count;
    start += (uint64_t)count;
    n -= count;
  }
}

typedef struct {
  stream s;
  double unit;
  float *y;
  tensor_slice slice;
} philox_args;

static void philox_task(void *context, long task) {
  const philox_args *a = context;
  uint64_t at = (uint64_t)task * RM_SPAN;
  const uint64_t last = (uint64_t)min_long((long)at + RM_SPAN, a->slice.n);
  while (at < last) {
    const slice_run run = run_at(&a->slice, at, last);
    fill_run(&a->s, run.global, run.n, a->unit, a->y + at);
    at += (uint64_t)run.n;
  }
}

/* Fills a slice (`slice_of` its shape) with values uniform on [-bound, bound). */
RM_API void rm_fill_uniform(float *y, const uint64_t *shape, int dims, uint64_t seed,
                            uint64_t name_hash, double bound) {
  philox_args a = {.s = stream_of(seed, name_hash),
                   .unit = bound / 8388608.0,
                   .y = y,
                   .slice = slice_of(shape, dims)};
  rm_parallel(ceil_div(a.slice.n, RM_SPAN), philox_task, &a);
}
