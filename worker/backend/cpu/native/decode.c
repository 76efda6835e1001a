/*
 * Text, token by token: attention of one token over the keys and values kept so far, and the draw of
 * the next token.
 */
#include <math.h>

#include "vector_math.h"

/* Largest head, MAX_HEAD_DIM of the loader, and positions whose scores are held at a time. */
#define MOST_FEATURES 512
#define TILE 128

typedef struct {
  const float *q, *keys, *values;
  float *o;
  long H, stride, features, group, shift, positions, step;
  float scale;
} cached_args;

/* scores[s] = scale q . k_s for n keys; returns the largest. */
static float tile_scores(const cached_args *a, const float *q, const float *k, long n,
                         float *scores) {
  float max = -INFINITY;
  for (long s = 0; s < n; s++) {
    const float *key = k + s * a->stride;
    vf s0 = {0}, s1 = {0};
    long j = 0;
    for (; j + 2 * VL <= a->features; j += 2 * VL) {
      s0 += vload(q + j) * vload(key + j);
      s1 += vload(q + j + VL) * vload(key + j + VL);
    }
    for (; j < a->features; j += VL) {
      const long left = min_long(VL, a->features - j);
      s0 += vload_part(q + j, left) * vload_part(key + j, left);
    }
    scores[s] = a->scale * vsum(s0 + s1);
    if (scores[s] > max) max = scores[s];
  }
  return max;
}

/* sum[j] = back * sum[j] + the weighted values of a tile. They are added up first: shorter sums
 * round less. */
static void add_values(const cached_args *a, const float *weights, const float *v, long n,
                       float back, float *sum) {
  long j = 0;
  for (; j + VL <= a->features; j += VL) {
    vf total = {0};
    for (long s = 0; s < n; s++) total += weights[s] * vload(v + s * a->stride + j);
    vstore(sum + j, vload(sum + j) * back + total);
  }
  for (; j < a->features; j++) {
    float total = 0;
    for (long s = 0; s < n; s++) total += weights[s] * v[s * a->stride + j];
    sum[j] = sum[j] * back + total;
  }
}

static void one_head(const cached_args *a, long h) {
  const long head = (h + a->shift) / a->group * a->features;
  const float *q = a->q + h * a->features;
  float sum[MOST_FEATURES] = {0}, weights[TILE], max = -INFINITY, total = 0;
  for (long first = 0; first < a->positions; first += TILE) {
    const long n = min_long(TILE, a->positions - first), at = first * a->stride + head;
    const float tile = tile_scores(a, q, a->keys + at, n, weights);
    const float back = tile > max ? expf(max - tile) : 1;
    if (tile > max) max = tile;
    for (long s = 0; s < n; s += VL) {
      const long left = min_long(VL, n - s);
      vstore_part(weights + s, vexp(vload_part(weights + s, left) - max), left);
    }
    float weight = 0;
    for (long s = 0; s < n; s++) weight += weights[s];
    total = total * back + weight;
    add_values(a, weights, a->values + at, n, back, sum);
  }
  for (long j = 0; j < a->features; j++) a->o[h * a->features + j] = sum[j] / total;
}

static void cached_task(void *context, long task) {
  const cached_args *a = context;
  const long last = min_long((task + 1) * a->step, a->H);
  for (long h = task * a->step; h < last; h++) one_head(a, h);
}

/*
 * Writes k and v of one token (KV heads each) to row `position` of the caches, and o = its attention
 * to rows 0 to `position`. Query head h reads key-value head (h + shift) / group.
 */
RM_API void rm_attention_cached(const float *q, const float *k, const float *v, float *keys,
                                float *values, float *o, uint64_t H, uint64_t KV, uint64_t features,
                                uint64_t group, uint64_t shift, uint64_t position) {
  const long stride = (long)(KV * features);
  memcpy(keys + (long)position * stride, k, (size_t)stride * 4);
  memcpy(values + (long)position * stride, v, (size_t)stride * 4);
  cached_args a = {.q = q, .keys = keys, .values = values, .o = o, .stride = stride};
  a.H = (long)H, a.features = (long)features, a.group = (long)group, a.shift = (long)shift;
  a.positions = (long)position + 1;
  a.scale = 1.0f / sqrtf((float)features);
  a.step = max_long(1, RM_SPAN / (2 * a.positions * max_long(1, a.features)));
  rm_parallel(ceil_div(a.H, a.step), cached_task, &a);
}

/* ---- the next token ---- */

/* An unsigned integer that grows with x; equal for 0 and -0. */
RM_INLINE uint32_t ordered(float x) {
  const float sum = x + 0.0f;
  uint32_t bits;
  memcpy(&bits, &sum, 4);
  return bits ^ (bits >> 31 ? 0xffffffffu : 0x80000000u);
}

/* The k-th largest of V values in the order of `ordered`, byte by byte from the top; *ties: how many
 * of those equal to it are among the k largest. */
static uint32_t kth_largest(const float *z, long V, long k, long *ties) {
  uint32_t prefix = 0, mask = 0;
  for (int byte = 24; byte >= 0; byte -= 8) {
    long count[256] = {0};
    for (long i = 0; i < V; i++) {
      const uint32_t key = ordered(z[i]);
      if ((key & mask) == prefix) count[key >> byte & 255]++;
    }
    uint32_t bucket = 255;
    for (; bucket > 0 && count[bucket] < k; bucket--) k -= count[bucket];
    prefix |= bucket << byte;
    mask |= 255u << byte;
  }
  *ties = k;
  return prefix;
}

/*
 * *id = a token drawn from V logits with u uniform on [0, 1): among the top_k likeliest (0: all; of
 * equal ones the lower ids), with probabilities exp(z / temperature). Temperature 0: the likeliest,
 * the lowest id of several. NaN where logits are NaN or none is finite.
 */
RM_API void rm_sample_token(const float *z, uint64_t V, double temperature, uint64_t top_k,
                            double u, float *id) {
  const long n = (long)V, k = top_k == 0 ? n : min_long((long)top_k, n);
  long best = 0, odd = 0;
  for (long i = 0; i < n; i++) {
    odd += z[i] != z[i];
    if (z[i] > z[best]) best = i;
  }
  const double max = z[best];
  *id = (float)best;
  if (odd > 0 || !(max < INFINITY && max > -INFINITY)) *id = NAN;
  if (temperature == 0 || *id != *id) return;
  long ties = n;
  const uint32_t least = k == n ? 0 : kth_largest(z, n, k, &ties);
  /* Once for the sum of the weights, once for the id at which their running sum passes u of it. */
  double total = 0;
  for (int pass = 0; pass < 2; pass++) {
    const double target = u * total;
    double sum = 0;
    long left = ties;
    for (long i = 0; i < n; i++) {
      const uint32_t key = ordered(z[i]);
      if (key < least || (key == least && left-- <= 0)) continue;
      const double weight = exp((z[i] - max) / temperature);
      sum += weight;
      if (pass == 0 || !(weight > 0)) continue;
      *id = (float)i;
      if (sum > target) return;
    }
    total = sum;
  }
}
