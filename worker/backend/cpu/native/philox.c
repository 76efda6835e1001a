/*
 * Initial weights: Philox4x32-10 (Salmon et al. 2011) keyed by seed, counted by (global index / 4,
 * name hash), so that every element is a function of seed, parameter name and global index alone.
 * shared/random has the same in TypeScript, bit for bit.
 */
#include "philox.h"

#define MOST_DIMS 8

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
  int dims;
  uint64_t global[MOST_DIMS], start[MOST_DIMS], local[MOST_DIMS];
  long n;
} philox_args;

/* Fills elements [first, last) of the slice: runs along the last dim are contiguous in global
 * indices too. */
static void philox_task(void *context, long task) {
  const philox_args *a = context;
  uint64_t at = (uint64_t)task * RM_SPAN;
  const uint64_t last = (uint64_t)min_long((long)at + RM_SPAN, a->n);
  const uint64_t inner = a->local[a->dims - 1];
  while (at < last) {
    uint64_t rest = at, global = 0, stride = 1;
    for (int d = a->dims - 1; d >= 0; d--) {
      global += (a->start[d] + rest % a->local[d]) * stride;
      rest /= a->local[d];
      stride *= a->global[d];
    }
    const uint64_t left_in_run = inner - at % inner,
                   run = last - at < left_in_run ? last - at : left_in_run;
    fill_run(&a->s, global, (long)run, a->unit, a->y + at);
    at += run;
  }
}

/*
 * Fills a slice with values uniform on [-bound, bound). `shape` holds the global sizes, the slice's
 * starts and its sizes, `dims` (1 to 8) of each. The caller merges trailing dims that the slice
 * holds whole, so that runs are long.
 */
RM_API void rm_fill_uniform(float *y, const uint64_t *shape, int dims, uint64_t seed,
                            uint64_t name_hash, double bound) {
  philox_args a = {.s = {(uint32_t)seed, (uint32_t)(seed >> 32), (uint32_t)name_hash,
                         (uint32_t)(name_hash >> 32)},
                   .unit = bound / 8388608.0,
                   .y = y,
                   .dims = dims,
                   .n = 1};
  for (int d = 0; d < dims; d++) {
    a.global[d] = shape[d];
    a.start[d] = shape[dims + d];
    a.local[d] = shape[2 * dims + d];
    a.n *= (long)a.local[d];
  }
  rm_parallel(ceil_div(a.n, RM_SPAN), philox_task, &a);
}
