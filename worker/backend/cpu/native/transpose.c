/* Two dims of a tensor changed for each other: x(O,A,K,B,I) to y(O,B,K,A,I), in words of 4 bytes. */
#include "rankmesh_cpu.h"

typedef struct {
  const uint32_t *x;
  uint32_t *y;
  long O, A, K, B, I, step;
} transpose_args;

/* Rows and columns of a tile that both sides find in cache. */
#define TILE 16

/* y[b][.][a] = x[a][.][b] for single words, tile by tile; rows of x are K B apart and those of y K A. */
static void transpose_words(const transpose_args *t, const uint32_t *x, uint32_t *y) {
  for (long a0 = 0; a0 < t->A; a0 += TILE) {
    const long a1 = min_long(a0 + TILE, t->A);
    for (long b0 = 0; b0 < t->B; b0 += TILE) {
      const long b1 = min_long(b0 + TILE, t->B);
      for (long b = b0; b < b1; b++)
        for (long a = a0; a < a1; a++) y[b * t->K * t->A + a] = x[a * t->K * t->B + b];
    }
  }
}

/* One plane (o, k) of single words, or some rows (o, b, k, .) of y. */
static void transpose_task(void *context, long task) {
  const transpose_args *t = context;
  const long plane = t->A * t->K * t->B * t->I;
  if (t->I == 1) {
    const long o = task / t->K, k = task % t->K;
    transpose_words(t, t->x + o * plane + k * t->B, t->y + o * plane + k * t->A);
    return;
  }
  const long last = min_long((task + 1) * t->step, t->O * t->B * t->K);
  for (long row = task * t->step; row < last; row++) {
    const long k = row % t->K, b = row / t->K % t->B, o = row / t->K / t->B;
    const uint32_t *x = t->x + o * plane + (k * t->B + b) * t->I;
    uint32_t *y = t->y + row * t->A * t->I;
    for (long a = 0; a < t->A; a++)
      memcpy(y + a * t->I, x + a * t->K * t->B * t->I, (size_t)t->I * 4);
  }
}

RM_API void rm_transpose(const uint32_t *x, uint32_t *y, uint64_t O, uint64_t A, uint64_t K,
                         uint64_t B, uint64_t I) {
  transpose_args t = {x, y, (long)O, (long)A, (long)K, (long)B, (long)I, 0};
  if (t.O * t.A * t.K * t.B * t.I == 0) return;
  t.step = max_long(1, RM_SPAN / (t.A * t.I));
  rm_parallel(t.I == 1 ? t.O * t.K : ceil_div(t.O * t.B * t.K, t.step), transpose_task, &t);
}
