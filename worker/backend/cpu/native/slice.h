/* A rank's slice of a global tensor, and where its elements lie in that. */
#ifndef RANKMESH_SLICE_H
#define RANKMESH_SLICE_H

#include "rankmesh_cpu.h"

#define MOST_DIMS 8

typedef struct {
  int dims;
  uint64_t global[MOST_DIMS], start[MOST_DIMS], local[MOST_DIMS];
  long n;
} tensor_slice;

/*
 * `shape` holds the global sizes, the slice's starts and its sizes, `dims` (1 to 8) of each. The
 * caller merges trailing dims that the slice holds whole, so that runs are long.
 */
RM_INLINE tensor_slice slice_of(const uint64_t *shape, int dims) {
  tensor_slice s = {.dims = dims, .n = 1};
  for (int d = 0; d < dims; d++) {
    s.global[d] = shape[d];
    s.start[d] = shape[dims + d];
    s.local[d] = shape[2 * dims + d];
    s.n *= (long)s.local[d];
  }
  return s;
}

/* Elements of the slice that are contiguous in the global tensor too: n of them, from `global` on. */
typedef struct {
  uint64_t global;
  long n;
} slice_run;

/* Elements from `at` on, at most up to `last`: the rest of a row of the last dim. */
RM_INLINE slice_run run_at(const tensor_slice *s, uint64_t at, uint64_t last) {
  uint64_t rest = at, global = 0, stride = 1;
  for (int d = s->dims - 1; d >= 0; d--) {
    global += (s->start[d] + rest % s->local[d]) * stride;
    rest /= s->local[d];
    stride *= s->global[d];
  }
  const uint64_t inner = s->local[s->dims - 1], left = inner - at % inner;
  return (slice_run){global, (long)(last - at < left ? last - at : left)};
}

#endif
