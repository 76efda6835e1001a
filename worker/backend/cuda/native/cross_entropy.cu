/*
 * Cross-entropy of logits z(M,V) with targets t(M), through statistics s(M,3) of each token: the largest logit, the sum of
 * exp(z - largest), the target's logit. A target that is none of the V classes from `first` on is another rank's.
 *
 * Bound by memory: statistics read the logits once, with a running maximum whose sum is scaled when it grows; gradients read
 * and write them once. V is often odd (50257), so that rows begin at any element: their whole aligned vectors are moved as
 * such, and the few elements before and behind those one by one. V <= 1024 has a warp for a row, else a block or several.
 */
#include "vectors.cuh"

#define LOG2_E 1.44269504088896341f
#define LEAST (-3.402823466e+38f)
#define STATISTICS 3
/* Rows of a block where a warp has one. */
#define WARPS 4
/* Vectors of a thread whose loads are in flight at once. */
#define IN_FLIGHT 4
/* Threads of a block that sums up losses, and tokens of it. */
#define LOSS_THREADS 256
#define LOSS_TOKENS 1024

/* exp(z - max) of a logit: an error of the exponent weighs as little as the weight itself. */
RM_DEVICE float weight(float z, float max) { return exp2f((z - max) * LOG2_E); }

/* A row's whole aligned vectors, and its other elements: fewer than a vector before them, and behind. */
template <typename T>
struct row_parts {
  int head, vectors, tail;
  RM_CALL row_parts(const T *row, int V) {
    constexpr int L = lanes<T>::count;
    const int past = (int)(((u64)row & 15) / sizeof(T));
    head = min(V, (L - past) % L);
    vectors = (V - head) / L;
    tail = V - head - vectors * L;
  }
  /* The n-th of the other elements, or -1. */
  RM_CALL int edge(int n) const {
    if (n < head) return n;
    return n < head + tail ? n + vectors * lanes<T>::count : -1;
  }
};

/* ---- statistics ---- */

/* The sum of weights of the logits so far, relative to the largest of them. NaN is passed over by the maximum alone. */
struct running_sum {
  float max, sum;
  RM_CALL void raise(float to) {
    if (to > max) {
      sum *= weight(max, to);
      max = to;
    }
  }
};

template <typename T, bool BLOCK>
RM_DEVICE void row_statistics(const T *z, const int *t, float *s, i64 M, int V, i64 first) {
  constexpr int L = lanes<T>::count;
  __shared__ float maxima[32], sums[32];
  const int lane = BLOCK ? threadIdx.x : threadIdx.x & 31, across = BLOCK ? blockDim.x : 32;
  const i64 row = BLOCK ? blockIdx.x : (i64)blockIdx.x * WARPS + (threadIdx.x >> 5);
  if (row >= M) return;
  z += row * V;
  const row_parts<T> parts(z, V);
  running_sum own = {LEAST, 0.0f};
  const int edge = parts.edge(lane);
  if (edge >= 0) {
    const float x = widen(z[edge]);
    own.raise(x);
    own.sum += weight(x, own.max);
  }
  for (int v = lane; v < parts.vectors; v += IN_FLIGHT * across) {
    uint4 raw[IN_FLIGHT];
#pragma unroll
    for (int k = 0; k < IN_FLIGHT; k++) {
      const int w = v + k * across;
      if (w < parts.vectors) raw[k] = load16(z + parts.head + (i64)w * L);
    }
#pragma unroll
    for (int k = 0; k < IN_FLIGHT; k++) {
      if (v + k * across >= parts.vectors) continue;
      float x[L], larger = own.max;
      unpack(raw[k], x);
#pragma unroll
      for (int j = 0; j < L; j++) larger = fmaxf(larger, x[j]);
      own.raise(larger);
      float sum = 0.0f;
#pragma unroll
      for (int j = 0; j < L; j++) sum += weight(x[j], own.max);
      own.sum += sum;
    }
  }
  float max = warp_max(own.max), sum = warp_sum(own.sum * weight(own.max, max));
  if constexpr (BLOCK) {
    if ((lane & 31) == 0) {
      maxima[lane >> 5] = max;
      sums[lane >> 5] = sum;
    }
    __syncthreads();
    if (lane == 0) {
      const int warps = across >> 5;
      for (int w = 1; w < warps; w++) max = fmaxf(max, maxima[w]);
      sum = 0.0f;
      for (int w = 0; w < warps; w++) sum += sums[w] * weight(maxima[w], max);
    }
  }
  if (lane == 0) {
    const i64 target = t[row] - first;
    s[row * STATISTICS] = max;
    s[row * STATISTICS + 1] = sum;
    s[row * STATISTICS + 2] = target >= 0 && target < V ? widen(z[target]) : 0.0f;
  }
}

/* Statistics s(M,3) of all classes from blocks(parts,M,3) of the ranks', merged in block order. */
RM_KERNEL rm_ce_merge(const float *blocks, float *s, i64 parts, i64 M) {
  const i64 m = (i64)blockIdx.x * blockDim.x + threadIdx.x;
  if (m >= M) return;
  float max = LEAST, sum = 0.0f, target = 0.0f;
  for (i64 p = 0; p < parts; p++) max = fmaxf(max, blocks[(p * M + m) * STATISTICS]);
  for (i64 p = 0; p < parts; p++) {
    const float *part = blocks + (p * M + m) * STATISTICS;
    sum += part[1] * weight(part[0], max);
    target += part[2];
  }
  s[m * STATISTICS] = max;
  s[m * STATISTICS + 1] = sum;
  s[m * STATISTICS + 2] = target;
}

/* ---- loss ---- */

/* The sum over the block's tokens of largest + log(sum) - target, in double; divided by count it is the loss of a lone block. */
RM_KERNEL rm_ce_loss(const float *s, double *partial, float *loss, i64 M, double count) {
  __shared__ double sums[32];
  const i64 first = (i64)blockIdx.x * LOSS_TOKENS, last = min(first + LOSS_TOKENS, M);
  double total = 0.0;
  for (i64 m = first + threadIdx.x; m < last; m += LOSS_THREADS) {
    const float *token = s + m * STATISTICS;
    total += (double)token[0] + log((double)token[1]) - (double)token[2];
  }
  total = block_sum(total, sums);
  if (threadIdx.x > 0) return;
  if (gridDim.x == 1)
    *loss = (float)(total / count);
  else
    partial[blockIdx.x] = total;
}

/* *loss = the sum of blocks' sums, over count. One block. */
RM_KERNEL rm_ce_loss_sum(const double *partial, i64 blocks, float *loss, double count) {
  __shared__ double sums[32];
  double total = 0.0;
  for (i64 b = threadIdx.x; b < blocks; b += LOSS_THREADS) total += partial[b];
  total = block_sum(total, sums);
  if (threadIdx.x == 0) *loss = (float)(total / count);
}

/* ---- gradient ---- */

/* What a row's elements share: dz = weight scale, and for the target factor (weight inverse - 1), in double. */
struct row_gradient {
  float max, scale;
  double factor, inverse;
  /* -1 where it is another rank's. */
  int target;
  RM_CALL float other(float z) const { return weight(z, max) * scale; }
  RM_CALL float of_target(float z) const {
    return (float)(factor * ((double)weight(z, max) * inverse - 1.0));
  }
  RM_CALL float at(float z, int j) const { return j == target ? of_target(z) : other(z); }
};

/*
 * dz = *ds / count * (exp(z - largest) / sum - [class is the target]). dz may be z. Where a block has a row, block (m, p) of
 * `pieces` has every pieces-th stretch of its vectors.
 */
template <typename T, bool BLOCK>
RM_DEVICE void row_gradients(const float *ds, const T *z, const int *t, const float *s, T *dz,
                             i64 M, int V, i64 first, double count, unsigned pieces) {
  constexpr int L = lanes<T>::count;
  const int lane = BLOCK ? threadIdx.x : threadIdx.x & 31, across = BLOCK ? blockDim.x : 32;
  const i64 row = BLOCK ? blockIdx.x / pieces : (i64)blockIdx.x * WARPS + (threadIdx.x >> 5);
  const int piece = BLOCK ? blockIdx.x % pieces : 0;
  if (row >= M) return;
  z += row * V;
  dz += row * V;
  const float *token = s + row * STATISTICS;
  const double factor = (double)*ds / count, inverse = 1.0 / (double)token[1];
  const i64 target = t[row] - first;
  const row_gradient g = {token[0], (float)(factor * inverse), factor, inverse,
                          target >= 0 && target < V ? (int)target : -1};
  if ((((u64)z ^ (u64)dz) & 15) != 0) {
    for (i64 j = piece * across + lane; j < V; j += (i64)pieces * across)
      store(dz + j, g.at(widen(z[j]), (int)j));
    return;
  }
  const row_parts<T> parts(z, V);
  const int edge = piece == 0 ? parts.edge(lane) : -1;
  if (edge >= 0) store(dz + edge, g.at(widen(z[edge]), edge));
  const i64 stride = (i64)pieces * IN_FLIGHT * across;
  for (i64 v = (i64)piece * IN_FLIGHT * across + lane; v < parts.vectors; v += stride) {
    uint4 raw[IN_FLIGHT];
#pragma unroll
    for (int k = 0; k < IN_FLIGHT; k++) {
      const i64 w = v + k * across;
      if (w < parts.vectors) raw[k] = load16(z + parts.head + w * L);
    }
#pragma unroll
    for (int k = 0; k < IN_FLIGHT; k++) {
      const i64 w = v + k * across;
      if (w >= parts.vectors) continue;
      const int j0 = parts.head + (int)w * L;
      float x[L];
      unpack(raw[k], x);
      float at_target = 0.0f;
#pragma unroll
      for (int j = 0; j < L; j++) {
        at_target = j0 + j == g.target ? x[j] : at_target;
        x[j] = g.other(x[j]);
      }
      if ((unsigned)(g.target - j0) < L) {
        at_target = g.of_target(at_target);
#pragma unroll
        for (int j = 0; j < L; j++) x[j] = j0 + j == g.target ? at_target : x[j];
      }
      store16(dz + j0, pack(x));
    }
  }
}

#define ROWS(NAME, T, BLOCK)                                                                       \
  RM_KERNEL rm_ce_stats_##NAME(const T *z, const int *t, float *s, i64 M, i64 V, i64 first) {      \
    row_statistics<T, BLOCK>(z, t, s, M, (int)V, first);                                           \
  }                                                                                                \
  RM_KERNEL rm_ce_grad_##NAME(const float *ds, const T *z, const int *t, const float *s, T *dz,    \
                              i64 M, i64 V, i64 first, double count, int pieces) {                 \
    row_gradients<T, BLOCK>(ds, z, t, s, dz, M, (int)V, first, count, (unsigned)pieces);           \
  }
ROWS(warp_f32, float, false)
ROWS(block_f32, float, true)
ROWS(warp_bf16, bf16, false)
ROWS(block_bf16, bf16, true)
