/*
 * Sums to a scalar, accumulated in double and rounded once, as worker/backend/cpu/native/reduce.c has them. A tensor is cut
 * among blocks by its length alone; one block's sum is the result, those of several are added in order by a second launch.
 */
#include "map_elements.cuh"

/* Vectors of each operand that a thread has in flight. A block takes SUM_TILE elements at a time. */
#define VECTORS 4
#define SUM_TILE (STREAM_THREADS * VECTORS * 4)

/* Terms of an element of x, and of y where it uses that. */
struct Plain {
  static constexpr bool USES_Y = false;
  static RM_CALL double of(float x, float) { return (double)x; }
};
struct Square {
  static constexpr bool USES_Y = false;
  static RM_CALL double of(float x, float) { return (double)x * (double)x; }
};
struct SquaredDifference {
  static constexpr bool USES_Y = true;
  static RM_CALL double of(float x, float y) {
    const double d = (double)x - (double)y;
    return d * d;
  }
};

/* This block's part of the sum, in thread 0. */
template <typename Term>
RM_DEVICE double block_part(const float *x, const float *y, i64 n) {
  __shared__ double warps[32];
  /* A chain of additions for each lane of a vector. */
  double sum[4] = {0.0, 0.0, 0.0, 0.0};
  const bool vectors = aligned16(x) && (!Term::USES_Y || aligned16(y));
  for (i64 tile = (i64)blockIdx.x * SUM_TILE; tile < n; tile += (i64)gridDim.x * SUM_TILE) {
    if (vectors && tile + SUM_TILE <= n) {
      float4 a[VECTORS], b[VECTORS];
#pragma unroll
      for (int u = 0; u < VECTORS; u++) {
        const i64 e = tile + (u * STREAM_THREADS + (int)threadIdx.x) * 4;
        a[u] = load4(x + e);
        b[u] = Term::USES_Y ? load4(y + e) : a[u];
      }
      after_loads();
#pragma unroll
      for (int u = 0; u < VECTORS; u++) {
        sum[0] += Term::of(a[u].x, b[u].x);
        sum[1] += Term::of(a[u].y, b[u].y);
        sum[2] += Term::of(a[u].z, b[u].z);
        sum[3] += Term::of(a[u].w, b[u].w);
      }
    } else {
#pragma unroll 4
      for (int u = 0; u < VECTORS * 4; u++) {
        const i64 e = tile + u * STREAM_THREADS + (int)threadIdx.x;
        if (e < n) sum[0] += Term::of(x[e], Term::USES_Y ? y[e] : 0.0f);
      }
    }
  }
  return block_sum((sum[0] + sum[1]) + (sum[2] + sum[3]), warps);
}

/* *s = sum / divisor, or this block's part of the sum. */
RM_DEVICE void finish(double part, double divisor, double *parts, float *s) {
  if (threadIdx.x != 0) return;
  if (gridDim.x == 1)
    *s = (float)(part / divisor);
  else
    parts[blockIdx.x] = part;
}

/* Sum of `count` parts, in every thread. */
RM_DEVICE double sum_of_parts(const double *parts, int count) {
  __shared__ double warps[32];
  double sum = 0.0;
  for (int i = threadIdx.x; i < count; i += STREAM_THREADS) sum += parts[i];
  return block_sum(sum, warps);
}

RM_KERNEL rm_sum(const float *x, i64 n, double divisor, double *parts, float *s) {
  finish(block_part<Plain>(x, nullptr, n), divisor, parts, s);
}

RM_KERNEL rm_mse(const float *x, const float *y, i64 n, double count, double *parts, float *s) {
  finish(block_part<SquaredDifference>(x, y, n), count, parts, s);
}

RM_KERNEL rm_sum_parts(const double *parts, int count, double divisor, float *s) {
  const double sum = sum_of_parts(parts, count);
  if (threadIdx.x == 0) *s = (float)(sum / divisor);
}

/* *s, or one of `parts` where there are several blocks: the host passes the latter as s. */
RM_KERNEL rm_sum_squares(const float *x, i64 n, double *s) {
  const double part = block_part<Square>(x, nullptr, n);
  if (threadIdx.x == 0) s[blockIdx.x] = part;
}

RM_KERNEL rm_sum_squares_parts(const double *parts, int count, double *s) {
  const double sum = sum_of_parts(parts, count);
  if (threadIdx.x == 0) *s = sum;
}

/* ---- gradients of sums ---- */

struct ScaledDifference {
  double factor;
  RM_CALL void operator()(const float (&a)[2], float (&r)[1]) const {
    r[0] = (float)(((double)a[0] - (double)a[1]) * factor);
  }
};

/* dx = *ds factor (x - y); factor is 2 / count. */
RM_KERNEL rm_mse_grad(const float *ds, const float *x, const float *y, float *dx, i64 n,
                      double factor) {
  map_elements<float, 2, 1>({{x, y}}, {{dx}}, n, ScaledDifference{(double)*ds * factor});
}

/* Every element is *s * factor. */
RM_KERNEL rm_broadcast(const float *s, float *y, i64 n, double factor) {
  const float value = (float)((double)*s * factor);
  const i64 first = (i64)blockIdx.x * (STREAM_THREADS * ELEMENTS);
#pragma unroll
  for (int u = 0; u < ELEMENTS; u++) {
    const i64 e = first + u * STREAM_THREADS + (int)threadIdx.x;
    if (e < n) y[e] = value;
  }
}

/* ---- scalars of gradient clipping ---- */

RM_KERNEL rm_sqrt(const double *x, double *y) {
  if (threadIdx.x == 0) *y = sqrt(*x);
}

/* *factor = min(1, max_norm / (*norm + 1e-6)). NaN stays NaN. */
RM_KERNEL rm_clip_factor(const double *norm, float *factor, double max_norm) {
  if (threadIdx.x != 0) return;
  const double f = max_norm / (*norm + 1e-6);
  *factor = (float)(f > 1.0 ? 1.0 : f);
}
