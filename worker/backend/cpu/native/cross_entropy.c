/*
 * Cross-entropy of logits z(M,V) with targets t(M), through statistics s(M,3) of each token: the
 * largest logit, the sum of exp(z - largest), the target's logit. A target that is none of the V
 * classes from `first` on is another rank's.
 */
#include <float.h>
#include <math.h>

#include "vector_math.h"

#define LOG2_E 1.44269504088896341f
#define STATISTICS 3
/* Logits whose maximum is found before they are read again, from the first-level cache. */
#define CHUNK 4096
#define MOST_PARTS 1024

typedef struct {
  const float *z, *s, *ds;
  const int32_t *t;
  float *out;
  double *partial;
  double count;
  long M, V, first, parts, step;
} ce_args;

/* The first n lanes from memory, the others `rest`. */
RM_INLINE vf vload_or(const float *p, long n, float rest) {
  if (n >= VL) return vload(p);
  vf x = vset(rest);
  memcpy(&x, p, (size_t)n * 4);
  return x;
}

static float row_max(const float *z, long n, float max) {
  vf m0 = vset(max), m1 = m0;
  for (long j = 0; j < n; j += 2 * VL) {
    m0 = vmax(vload_or(z + j, n - j, -FLT_MAX), m0);
    if (j + VL < n) m1 = vmax(vload_or(z + j + VL, n - j - VL, -FLT_MAX), m1);
  }
  m0 = vmax(m0, m1);
  for (int j = 0; j < VL; j++)
    if (m0[j] > max) max = m0[j];
  return max;
}

/* exp(z - max) of a logit: an error of the exponent weighs as little as the weight itself. */
RM_INLINE vf weight(vf z, vf max, const exp2_constants *c) {
  return vexp2_down((z - max) * LOG2_E, c);
}

static double row_sum(const float *z, long n, float max) {
  const exp2_constants c = vexp2_constants();
  const vf top = vset(max);
  vf s0 = {0}, s1 = {0};
  for (long j = 0; j < n; j += 2 * VL) {
    s0 += weight(vload_or(z + j, n - j, -INFINITY), top, &c);
    if (j + VL < n) s1 += weight(vload_or(z + j + VL, n - j - VL, -INFINITY), top, &c);
  }
  return (double)vsum(s0 + s1);
}

static float one_weight(float z, float max) {
  const exp2_constants c = vexp2_constants();
  return weight(vset(z), vset(max), &c)[0];
}

static void stats_task(void *context, long task) {
  const ce_args *a = context;
  const long begin = task * a->step, end = min_long(begin + a->step, a->M);
  for (long m = begin; m < end; m++) {
    const float *z = a->z + m * a->V;
    float max = -FLT_MAX;
    double sum = 0;
    for (long j = 0; j < a->V; j += CHUNK) {
      const long n = min_long(CHUNK, a->V - j);
      const float larger = row_max(z + j, n, max);
      sum = sum * (double)one_weight(max, larger) + row_sum(z + j, n, larger);
      max = larger;
    }
    const long target = a->t[m] - a->first;
    float *s = a->out + m * STATISTICS;
    s[0] = max;
    s[1] = (float)sum;
    s[2] = target >= 0 && target < a->V ? z[target] : 0;
  }
}

RM_API void rm_ce_stats(const float *z, const int32_t *t, float *s, uint64_t M, uint64_t V,
                        uint64_t first) {
  ce_args a = {.z = z, .t = t, .out = s, .M = (long)M, .V = (long)V, .first = (long)first};
  a.step = max_long(1, RM_SPAN / max_long(1, a.V));
  rm_parallel(ceil_div(a.M, a.step), stats_task, &a);
}

static void merge_task(void *context, long task) {
  const ce_args *a = context;
  const long begin = task * a->step, end = min_long(begin + a->step, a->M);
  for (long m = begin; m < end; m++) {
    float max = -FLT_MAX, sum = 0, target = 0;
    for (long p = 0; p < a->parts; p++) {
      const float part = a->s[(p * a->M + m) * STATISTICS];
      if (part > max) max = part;
    }
    for (long p = 0; p < a->parts; p++) {
      const float *part = a->s + (p * a->M + m) * STATISTICS;
      sum += part[1] * one_weight(part[0], max);
      target += part[2];
    }
    float *s = a->out + m * STATISTICS;
    s[0] = max;
    s[1] = sum;
    s[2] = target;
  }
}

/* Statistics s(M,3) of all classes from blocks(parts,M,3) of the ranks', merged in block order. */
RM_API void rm_ce_merge(const float *blocks, float *s, uint64_t parts, uint64_t M) {
  ce_args a = {.s = blocks, .out = s, .M = (long)M, .parts = (long)parts};
  a.step = max_long(1, 1024 / max_long(1, a.parts));
  rm_parallel(ceil_div(a.M, a.step), merge_task, &a);
}

static void loss_task(void *context, long task) {
  const ce_args *a = context;
  const long begin = task * a->step, end = min_long(begin + a->step, a->M);
  double total = 0;
  for (long m = begin; m < end; m++) {
    const float *s = a->s + m * STATISTICS;
    total += (double)s[0] + log((double)s[1]) - (double)s[2];
  }
  a->partial[task] = total;
}

/* *loss = sum over tokens of (largest + log(sum) - target) / count, in double. */
RM_API void rm_ce_loss(const float *s, float *loss, uint64_t M, double count) {
  double partial[MOST_PARTS], total = 0;
  ce_args a = {.s = s, .partial = partial, .M = (long)M};
  a.step = max_long(1024, ceil_div(a.M, MOST_PARTS));
  const long tasks = ceil_div(a.M, a.step);
  rm_parallel(tasks, loss_task, &a);
  for (long p = 0; p < tasks; p++) total += partial[p];
  *loss = (float)(total / count);
}

static void grad_task(void *context, long task) {
  const ce_args *a = context;
  const long begin = task * a->step, end = min_long(begin + a->step, a->M);
  const double factor = (double)*a->ds / a->count;
  const exp2_constants c = vexp2_constants();
  for (long m = begin; m < end; m++) {
    const float *z = a->z + m * a->V;
    float *dz = a->out + m * a->V;
    const float max = a->s[m * STATISTICS];
    const vf top = vset(max);
    const double inverse = 1.0 / (double)a->s[m * STATISTICS + 1];
    const vf scale = vset((float)(factor * inverse));
    const long target = a->t[m] - a->first;
    const int own = target >= 0 && target < a->V;
    /* Before dz overwrites it. */
    const float at_target = own ? z[target] : 0;
    long j = 0;
    for (; j + VL <= a->V; j += VL) vstore(dz + j, weight(vload(z + j), top, &c) * scale);
    if (j < a->V)
      vstore_part(dz + j, weight(vload_part(z + j, a->V - j), top, &c) * scale, a->V - j);
    if (own) dz[target] = (float)(factor * ((double)one_weight(at_target, max) * inverse - 1));
  }
}

/* dz = *ds / count * (exp(z - largest) / sum - [class is the target]). dz may be z. */
RM_API void rm_ce_grad(const float *ds, const float *z, const int32_t *t, const float *s, float *dz,
                       uint64_t M, uint64_t V, uint64_t first, double count) {
  ce_args a = {.z = z, .s = s, .ds = ds, .t = t, .out = dz, .count = count};
  a.M = (long)M;
  a.V = (long)V;
  a.first = (long)first;
  a.step = max_long(1, RM_SPAN / max_long(1, a.V));
  rm_parallel(ceil_div(a.M, a.step), grad_task, &a);
}
