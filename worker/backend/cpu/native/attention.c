/*
 * Attention: o = softmax(q k^T / sqrt(features)) v for q, o(B,T,H,features) and
 * k, v(B,T,KV,features), and its gradients. Query head h reads key-value head (h + shift) / group.
 */
#include <math.h>

#include "vector_math.h"

#define MOST_FEATURES 512

typedef struct {
  const float *q, *k, *v, *o, *lse, *d_out;
  float *out, *statistics, *dq, *dk, *dv;
  long B, T, H, KV, features, group, shift;
  int causal;
} attention_args;

static float dot(const float *a, const float *b, long n) {
  vf sum = {0};
  long j = 0;
  for (; j + VL <= n; j += VL) sum += vload(a + j) * vload(b + j);
  if (j < n) sum += vload_part(a + j, n - j) * vload_part(b + j, n - j);
  return vsum(sum);
}
static void add(float *y, const float *x, float factor, long n) {
  for (long j = 0; j < n; j++) y[j] += factor * x[j];
}
static float one_exp(float x) { return vexp(vset(x))[0]; }

static void forward_task(void *context, long task) {
  const attention_args *a = context;
  const long n = a->features, b = task / a->H, h = task % a->H;
  const long kv = (h + a->shift) / a->group, stride = a->KV * n;
  const float scale = 1.0f / sqrtf((float)n);
  const float *k = a->k + b * a->T * stride + kv * n;
  const float *v = a->v == NULL ? NULL : a->v + b * a->T * stride + kv * n;
  for (long t = 0; t < a->T; t++) {
    const float *q = a->q + ((b * a->T + t) * a->H + h) * n;
    const long keys = a->causal ? t + 1 : a->T;
    float sum[MOST_FEATURES] = {0}, max = -INFINITY, total = 0;
    for (long s = 0; s < keys; s++) {
      const float score = scale * dot(q, k + s * stride, n);
      if (score > max) {
        const float back = one_exp(max - score);
        total *= back;
        for (long j = 0; j < n; j++) sum[j] *= back;
        max = score;
      }
      const float p = one_exp(score - max);
      total += p;
      if (v != NULL) add(sum, v + s * stride, p, n);
    }
    if (a->out != NULL)
      for (long j = 0; j < n; j++) a->out[((b * a->T + t) * a->H + h) * n + j] = sum[j] / total;
    if (a->statistics != NULL) a->statistics[(b * a->T + t) * a->H + h] = max + logf(total);
  }
}

static void backward_task(void *context, long task) {
  const attention_args *a = context;
  const long n = a->features, b = task / a->KV, kv = task % a->KV;
  const long stride = a->KV * n, start = b * a->T * stride + kv * n;
  const float scale = 1.0f / sqrtf((float)n);
  for (long s = 0; s < a->T; s++) {
    if (a->dk != NULL) memset(a->dk + start + s * stride, 0, (size_t)n * 4);
    if (a->dv != NULL) memset(a->dv + start + s * stride, 0, (size_t)n * 4);
  }
  for (long h = 0; h < a->H; h++) {
    if ((h + a->shift) / a->group != kv) continue;
    for (long t = 0; t < a->T; t++) {
      const long at = ((b * a->T + t) * a->H + h) * n;
      const long keys = a->causal ? t + 1 : a->T;
      const float shift = dot(a->d_out + at, a->o + at, n);
      const float lse = a->lse[(b * a->T + t) * a->H + h];
      if (a->dq != NULL) memset(a->dq + at, 0, (size_t)n * 4);
      for (long s = 0; s < keys; s++) {
        const long key = start + s * stride;
        const float p = one_exp(scale * dot(a->q + at, a->k + key, n) - lse);
        const float ds = scale * p * (dot(a->d_out + at, a->v + key, n) - shift);
        if (a->dq != NULL) add(a->dq + at, a->k + key, ds, n);
        if (a->dk != NULL) add(a->dk + key, a->q + at, ds, n);
        if (a->dv != NULL) add(a->dv + key, a->d_out + at, p, n);
      }
    }
  }
}

/* The output o and lse(B,T,H), the logarithm of each query's sum of exp(score); either may be left
 * out, and v with o. causal: a token sees itself and those before it. */
RM_API void rm_attention(const float *q, const float *k, const float *v, float *o, float *lse,
                         uint64_t B, uint64_t T, uint64_t H, uint64_t KV, uint64_t features,
                         uint64_t group, uint64_t shift, int causal) {
  attention_args a = {.q = q, .k = k, .v = v, .out = o, .statistics = lse, .causal = causal};
  a.B = (long)B, a.T = (long)T, a.H = (long)H, a.KV = (long)KV;
  a.features = (long)features, a.group = (long)group, a.shift = (long)shift;
  rm_parallel(a.B * a.H, forward_task, &a);
}

/* Gradients of q, k and v, any of which may be left out, from that of o and the forward pass's o
 * and lse. */
RM_API void rm_attention_grad(const float *d_out, const float *q, const float *k, const float *v,
                              const float *o, const float *lse, float *dq, float *dk, float *dv,
                              uint64_t B, uint64_t T, uint64_t H, uint64_t KV, uint64_t features,
                              uint64_t group, uint64_t shift, int causal) {
  attention_args a = {.q = q, .k = k, .v = v, .o = o, .lse = lse, .d_out = d_out, .dq = dq,
                      .dk = dk, .dv = dv, .causal = causal};
  a.B = (long)B, a.T = (long)T, a.H = (long)H, a.KV = (long)KV;
  a.features = (long)features, a.group = (long)group, a.shift = (long)shift;
  rm_parallel(a.B * a.KV, backward_task, &a);
}
