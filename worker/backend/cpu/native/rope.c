/*
 * Rotary position embedding. Angles depend on position and feature alone: each task makes the
 * cosines and sines of its positions once, for all rows of the batch and all heads.
 */
#include "vector_math.h"

/* Largest head, MAX_HEAD_DIM of the loader. */
#define MOST_FEATURES 512

typedef struct {
  const float *x, *frequencies;
  float *y;
  long B, T, F, features, first, step;
  float direction;
} rope_args;

/* cosine[2i] = cosine[2i + 1] = cos(position f_i); sine likewise, with - + in turns: a pair (a, b)
 * becomes (a cos - b sin, b cos + a sin). */
static void angles(const rope_args *a, long position, float *cosine, float *sine) {
  const long pairs = a->features / 2;
  for (long i = 0; i < pairs; i += VL) {
    const long n = min_long(VL, pairs - i);
    /* The angle is rounded to float, as in PyTorch, and its functions are taken of what that is. */
    const vf angle = vload_part(a->frequencies + i, n) * (float)position;
    vd s, c;
    vsincos(vwiden(angle), &s, &c);
    const vf sf = vnarrow(s) * a->direction, cf = vnarrow(c);
    for (long j = 0; j < n; j++) {
      cosine[2 * (i + j)] = cosine[2 * (i + j) + 1] = cf[j];
      sine[2 * (i + j)] = -sf[j];
      sine[2 * (i + j) + 1] = sf[j];
    }
  }
}

static void rope_task(void *context, long task) {
  const rope_args *a = context;
  float cosine[MOST_FEATURES], sine[MOST_FEATURES];
  const long begin = task * a->step, end = min_long(begin + a->step, a->T);
  for (long t = begin; t < end; t++) {
    angles(a, a->first + t, cosine, sine);
    for (long b = 0; b < a->B; b++) {
      for (long head = 0; head < a->F; head += a->features) {
        const long at = (b * a->T + t) * a->F + head;
        long j = 0;
        for (; j + VL <= a->features; j += VL) {
          const vf x = vload(a->x + at + j);
          vstore(a->y + at + j, x * vload(cosine + j) + vswap_pairs(x) * vload(sine + j));
        }
        if (j < a->features) {
          const long n = a->features - j;
          const vf x = vload_part(a->x + at + j, n);
          vstore_part(a->y + at + j,
                      x * vload_part(cosine + j, n) + vswap_pairs(x) * vload_part(sine + j, n), n);
        }
      }
    }
  }
}

/*
 * y(B,T,F) = x with every pair of a head of `features` turned by position * frequency, positions
 * counted from `first`; direction -1 turns back. y may be x.
 */
RM_API void rm_rope(const float *x, const float *frequencies, float *y, uint64_t B, uint64_t T,
                    uint64_t F, uint64_t features, uint64_t first, int direction) {
  rope_args a = {x,        frequencies,     y,           (long)B, (long)T, (long)F,
                 (long)features, (long)first, 1, (float)direction};
  a.step = max_long(1, RM_SPAN / max_long(1, a.B * a.F));
  rm_parallel(ceil_div(a.T, a.step), rope_task, &a);
}
