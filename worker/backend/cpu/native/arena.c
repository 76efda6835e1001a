/* Arena memory, copies between host buffers and slots, and what the loader asks of the library. */
#define _GNU_SOURCE
#include <sys/mman.h>

#include "rankmesh_cpu.h"

#define HUGE_PAGE (2ul << 20)

/*
 * Maps `bytes` of zeroed memory, to be released by rm_unmap with the same size. NULL when the
 * system refuses. Large maps start on a huge-page boundary: the surplus address space is given back
 * at once, never touched.
 */
RM_API void *rm_map(uint64_t bytes) {
  if (bytes == 0) bytes = 1;
  const int protection = PROT_READ | PROT_WRITE, flags = MAP_PRIVATE | MAP_ANONYMOUS;
  if (bytes < HUGE_PAGE) {
    void *small = mmap(NULL, bytes, protection, flags, -1, 0);
    return small == MAP_FAILED ? NULL : small;
  }
  const uintptr_t page = 4096;
  const uint64_t rounded = (bytes + page - 1) & ~(uint64_t)(page - 1);
  char *whole = mmap(NULL, rounded + HUGE_PAGE, protection, flags, -1, 0);
  if (whole == MAP_FAILED) return NULL;
  char *start = (char *)(((uintptr_t)whole + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1));
  if (start > whole) munmap(whole, (size_t)(start - whole));
  char *end = start + rounded, *whole_end = whole + rounded + HUGE_PAGE;
  if (whole_end > end) munmap(end, (size_t)(whole_end - end));
#ifdef MADV_HUGEPAGE
  madvise(start, rounded, MADV_HUGEPAGE);
#endif
  return start;
}

/* Returns 0, or -1 when the region was not mapped. */
RM_API int rm_unmap(void *start, uint64_t bytes) { return munmap(start, bytes == 0 ? 1 : bytes); }

/* Copies between the arena and a host buffer. */
RM_API void rm_read(void *host, const void *arena, uint64_t bytes) { memcpy(host, arena, bytes); }
RM_API void rm_write(void *arena, const void *host, uint64_t bytes) { memcpy(arena, host, bytes); }

/*
 * Highest x86-64 microarchitecture level (2, 3 or 4) that this processor runs; 0 on other
 * architectures. The loader asks the baseline build, which runs anywhere, before it opens a faster
 * one.
 */
RM_API int rm_cpu_level(void) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") ||
      !__builtin_cpu_supports("bmi2"))
    return 2;
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512dq") ||
      !__builtin_cpu_supports("avx512bw") || !__builtin_cpu_supports("avx512vl") ||
      !__builtin_cpu_supports("avx512cd"))
    return 3;
  return 4;
#else
  return 0;
#endif
}

/* Float lanes of this build's vectors; says in logs which build runs. */
RM_API int rm_vector_lanes(void) { return VL; }

typedef struct {
  char *to;
  const char *from;
  uint64_t to_stride, from_stride, row_bytes;
  long rows, rows_per_task;
  uint64_t span;
} copy_args;

static void copy_rows_task(void *context, long task) {
  const copy_args *a = context;
  const long first = task * a->rows_per_task, last = min_long(first + a->rows_per_task, a->rows);
  for (long row = first; row < last; row++)
    memmove(a->to + (uint64_t)row * a->to_stride, a->from + (uint64_t)row * a->from_stride,
            a->row_bytes);
}

static void copy_span_task(void *context, long task) {
  const copy_args *a = context;
  const uint64_t start = (uint64_t)task * a->span;
  const uint64_t bytes = a->row_bytes - start < a->span ? a->row_bytes - start : a->span;
  memcpy(a->to + start, a->from + start, bytes);
}

/*
 * Copies `rows` pieces of `row_bytes`, `from_stride` apart, to pieces `to_stride` apart. Source and
 * destination are the same pieces (nothing to do) or do not overlap.
 */
RM_API void rm_copy(void *to, uint64_t to_stride, const void *from, uint64_t from_stride,
                    uint64_t row_bytes, uint64_t rows) {
  if (rows == 0 || row_bytes == 0 || (to == from && (rows == 1 || to_stride == from_stride)))
    return;
  copy_args a = {to, from, to_stride, from_stride, row_bytes, (long)rows, 1, 4 * RM_SPAN};
  if (rows > 1 && to_stride == row_bytes && from_stride == row_bytes) {
    a.row_bytes *= rows;
    a.rows = 1;
  }
  if (a.rows == 1) {
    rm_parallel(ceil_div((long)a.row_bytes, (long)a.span), copy_span_task, &a);
    return;
  }
  a.rows_per_task = max_long(1, (long)(4 * RM_SPAN / a.row_bytes));
  rm_parallel(ceil_div(a.rows, a.rows_per_task), copy_rows_task, &a);
}
