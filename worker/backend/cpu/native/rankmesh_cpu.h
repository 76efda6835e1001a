/*
 * Kernels of the cpu backend: memory-bound and fused work that no BLAS offers.
 *
 * Rules of this library:
 * - Tensors are dense, row-major; M rows, I in-features, O out-features. Pointers need only their
 * element's alignment.
 * - Nothing is allocated after rm_set_threads: scratch is an operand or lies on the stack.
 * - Work is cut into tasks by sizes alone, and sums never depend on which thread ran a task: the
 * bits are the same for any number of threads.
 */
#ifndef RANKMESH_CPU_H
#define RANKMESH_CPU_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define RM_API __attribute__((visibility("default")))
#define RM_INLINE static inline __attribute__((always_inline))

/* Lanes of a float vector. */
#if defined(__AVX512F__)
#define VL 16
#elif defined(__AVX__)
#define VL 8
#else
#define VL 4
#endif

typedef float vf __attribute__((vector_size(VL * 4)));
typedef float vf_unaligned __attribute__((vector_size(VL * 4), aligned(4), may_alias));
typedef int32_t vi __attribute__((vector_size(VL * 4)));
/* As many doubles as a vf has floats. */
typedef double vd __attribute__((vector_size(VL * 8)));
typedef int64_t vl __attribute__((vector_size(VL * 8)));

RM_INLINE vf vload(const float *p) { return *(const vf_unaligned *)p; }
RM_INLINE void vstore(float *p, vf x) { *(vf_unaligned *)p = x; }
RM_INLINE vf vset(float x) { return x - (vf){0}; }

/* The first n < VL elements; the other lanes are zero. */
RM_INLINE vf vload_part(const float *p, long n) {
  vf x = {0};
  memcpy(&x, p, (size_t)n * 4);
  return x;
}
RM_INLINE void vstore_part(float *p, vf x, long n) { memcpy(p, &x, (size_t)n * 4); }

/* Sum of the lanes as a fixed tree: halves onto halves. */
RM_INLINE float vsum(vf x) {
  float lane[VL];
  memcpy(lane, &x, sizeof lane);
  for (int half = VL / 2; half > 0; half /= 2)
    for (int j = 0; j < half; j++) lane[j] += lane[j + half];
  return lane[0];
}
RM_INLINE double vsum_double(vd x) {
  double lane[VL];
  memcpy(lane, &x, sizeof lane);
  for (int half = VL / 2; half > 0; half /= 2)
    for (int j = 0; j < half; j++) lane[j] += lane[j + half];
  return lane[0];
}
RM_INLINE vd vwiden(vf x) { return __builtin_convertvector(x, vd); }
RM_INLINE vf vnarrow(vd x) { return __builtin_convertvector(x, vf); }

/* Keeps a value in a register: GCC otherwise loads it again for every product that it takes part
 * in. */
#if defined(__x86_64__)
#define KEEP(x) __asm__("" : "+v"(x))
#elif defined(__aarch64__)
#define KEEP(x) __asm__("" : "+w"(x))
#else
#define KEEP(x) (void)0
#endif

RM_INLINE vf vsqrt(vf x) {
#if defined(__AVX512F__)
  return (vf)_mm512_sqrt_ps((__m512)x);
#elif defined(__AVX__)
  return (vf)_mm256_sqrt_ps((__m256)x);
#elif defined(__x86_64__)
  return (vf)_mm_sqrt_ps((__m128)x);
#else
  for (int j = 0; j < VL; j++) x[j] = __builtin_sqrtf(x[j]);
  return x;
#endif
}

/* The larger of each pair; b where one of them is NaN. */
RM_INLINE vf vmax(vf a, vf b) {
#if defined(__AVX512F__)
  return (vf)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(__AVX__)
  return (vf)_mm256_max_ps((__m256)a, (__m256)b);
#elif defined(__x86_64__)
  return (vf)_mm_max_ps((__m128)a, (__m128)b);
#else
  const vi mask = a > b;
  return (vf)(((vi)a & mask) | ((vi)b & ~mask));
#endif
}

/* Lanes picked from a and b by constants: first those of a, then those of b. */
#if defined(__clang__)
#define VSHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define VSHUFFLE(a, b, ...) __builtin_shuffle(a, b, (vi){__VA_ARGS__})
#endif
#if VL == 16
#define LANES_SWAPPED 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14
#define LANES_LOW 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define LANES_HIGH 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#elif VL == 8
#define LANES_SWAPPED 1, 0, 3, 2, 5, 4, 7, 6
#define LANES_LOW 0, 8, 1, 9, 2, 10, 3, 11
#define LANES_HIGH 4, 12, 5, 13, 6, 14, 7, 15
#else
#define LANES_SWAPPED 1, 0, 3, 2
#define LANES_LOW 0, 4, 1, 5
#define LANES_HIGH 2, 6, 3, 7
#endif

/* Every two neighbouring lanes exchanged. */
RM_INLINE vf vswap_pairs(vf x) { return VSHUFFLE(x, x, LANES_SWAPPED); }
/* The lower, or the upper, halves of a and b, lanes in turns. */
RM_INLINE vf vinterleave_low(vf a, vf b) { return VSHUFFLE(a, b, LANES_LOW); }
RM_INLINE vf vinterleave_high(vf a, vf b) { return VSHUFFLE(a, b, LANES_HIGH); }

RM_INLINE long min_long(long a, long b) { return a < b ? a : b; }
RM_INLINE long max_long(long a, long b) { return a > b ? a : b; }
RM_INLINE long ceil_div(long a, long b) { return (a + b - 1) / b; }

/* Elements of one task of an elementwise op: 128 KiB, enough to hide the hand-over of a task. */
#define RM_SPAN 32768L

/* Up to this many rows the few-row kernels beat a GEMM (measured against OpenBLAS at 8192 x 8192).
 */
#define RM_FEW_ROWS 48

typedef void (*rm_task)(void *context, long task);

/* Runs task(context, 0 .. tasks-1), each once, on the calling thread and the pool. Returns when all
 * are done. */
void rm_parallel(long tasks, rm_task task, void *context);
/* Threads that rm_parallel uses, the caller among them. */
int rm_threads(void);

#endif
