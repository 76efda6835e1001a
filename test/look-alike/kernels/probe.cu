/*
 * Kernels that the look-alike's own tests launch: what threads of a block can do together, and what they can do wrong. Never
 * compiled for a GPU.
 */
#include "../../../worker/backend/cuda/native/tensor_core.cuh"

/* y = a x + y */
RM_KERNEL probe_axpy(const float *x, float *y, float a, i64 n) {
  const i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) y[i] += a * x[i];
}

/* out[t] = the thread's index, along x + 100 y + 10000 z, plus a million times the block's */
RM_KERNEL probe_indices(int *out) {
  const unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  const unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  out[block * blockDim.x * blockDim.y * blockDim.z + thread] =
      (int)(threadIdx.x + 100 * threadIdx.y + 10000 * threadIdx.z + 1000000 * block);
}

struct probe_struct {
  double scale;
  int count;
  float *out;
};

/* An argument of every size, and a struct. */
RM_KERNEL probe_arguments(probe_struct s, bool flag, unsigned short half, double d) {
  for (int i = 0; i < s.count; i++) s.out[i] = (float)(s.scale * (flag ? 1 : -1) + half + d);
}

/* Each block's sum of x[block, :], by a tree in static shared memory. */
RM_KERNEL probe_tree(const float *x, float *out) {
  __shared__ float sums[256];
  const unsigned t = threadIdx.x;
  sums[t] = x[blockIdx.x * blockDim.x + t];
  __syncthreads();
  for (unsigned s = blockDim.x / 2; s > 0; s >>= 1) {
    if (t < s) sums[t] += sums[t + s];
    __syncthreads();
  }
  if (t == 0) out[blockIdx.x] = sums[0];
}

/* out = x reversed, within each block, through dynamic shared memory. */
RM_KERNEL probe_reverse(const float *x, float *out) {
  extern __shared__ float dyn_smem[];
  const unsigned t = threadIdx.x;
  dyn_smem[t] = x[blockIdx.x * blockDim.x + t];
  __syncthreads();
  out[blockIdx.x * blockDim.x + t] = dyn_smem[blockDim.x - 1 - t];
}

/* Shared memory without the barrier that it needs. */
RM_KERNEL probe_race(const float *x, float *out) {
  extern __shared__ float dyn_smem[];
  const unsigned t = threadIdx.x;
  dyn_smem[t] = x[blockIdx.x * blockDim.x + t];
  /* Reads of the warp before only: threads that run in order do not see that it may not have written yet. */
  out[blockIdx.x * blockDim.x + t] = dyn_smem[t < 32 ? t : t - 32];
}

/* One warp: out[k * 32 + lane] is the k-th way to talk. */
RM_KERNEL probe_warp(int *out) {
  const int lane = (int)(threadIdx.x & 31);
  int *o = out + lane;
  o[0 * 32] = __shfl_sync(~0u, lane, 5);
  o[1 * 32] = __shfl_sync(~0u, lane, 3, 8);
  o[2 * 32] = __shfl_down_sync(~0u, lane, 4);
  o[3 * 32] = __shfl_down_sync(~0u, lane, 4, 8);
  o[4 * 32] = __shfl_up_sync(~0u, lane, 3);
  o[5 * 32] = __shfl_up_sync(~0u, lane, 3, 16);
  o[6 * 32] = __shfl_xor_sync(~0u, lane, 17);
  o[7 * 32] = (int)__ballot_sync(~0u, lane % 3 == 0);
  o[8 * 32] = __any_sync(~0u, lane == 31) + 2 * __all_sync(~0u, lane < 32) + 4 * __all_sync(~0u, lane < 31);
  /* Halves of the warp that talk apart, one more often than the other. */
  const unsigned mine = lane < 16 ? 0x0000ffffu : 0xffff0000u;
  int v = lane;
  for (int i = 0; i < (lane < 16 ? 1 : 3); i++) v += __shfl_xor_sync(mine, v, 1);
  o[9 * 32] = v;
  o[10 * 32] = (int)(__shfl_xor_sync(~0u, (double)lane + 0.5, 1) * 2);
}

/* Lanes leave one after the other; those that stay go on talking. */
RM_KERNEL probe_leaving(int *out) {
  const int lane = (int)threadIdx.x;
  int sum = 0;
  for (int round = 0; round < 8; round++) {
    if (lane < round) return;
    sum += __shfl_sync(~0u << round, lane, round);
    __syncwarp(~0u << round);
    out[lane] = sum;
  }
}

/* Threads that left count as there; out[block] = votes of threads 1, 2, 3, ... */
RM_KERNEL probe_count(int *out) {
  if (threadIdx.x == 0) return;
  const int votes = __syncthreads_count(threadIdx.x % 3 == 1);
  if (__syncthreads_and(1) && !__syncthreads_or(0) && threadIdx.x == 1) out[blockIdx.x] = votes;
}

/* d = a b by one warp: a [16, 16] and b [16, 8] in bf16, row-major; the fragments from memory, element by element. */
RM_KERNEL probe_mma(const ushort *a, const ushort *b, float *d) {
  const unsigned g = threadIdx.x / 4, t = threadIdx.x % 4;
  const auto pair = [](ushort low, ushort high) { return (unsigned)low | (unsigned)high << 16; };
  const auto row = [&](unsigned i, unsigned k) { return pair(a[i * 16 + k], a[i * 16 + k + 1]); };
  const auto column = [&](unsigned k, unsigned j) { return pair(b[k * 8 + j], b[(k + 1) * 8 + j]); };
  const unsigned fa[4] = {row(g, 2 * t), row(g + 8, 2 * t), row(g, 2 * t + 8), row(g + 8, 2 * t + 8)};
  const unsigned fb[2] = {column(2 * t, g), column(2 * t + 8, g)};
  float fd[4] = {0.0f, 0.0f, 0.0f, 0.0f};
  mma_16816(fd, fa, fb);
  for (int i = 0; i < 4; i++) d[(g + (i / 2) * 8) * 8 + 2 * t + i % 2] = fd[i];
}

/* The same product, fed by cp.async and ldmatrix: a as it lies, b transposed. */
RM_KERNEL probe_ldmatrix_mma(const ushort *a, const ushort *b, float *d) {
  extern __shared__ float dyn_smem[];
  ushort *sa = (ushort *)dyn_smem, *sb = sa + 256;
  const unsigned lane = threadIdx.x, g = lane / 4, t = lane % 4;
  cp_async16(sa + 8 * lane, a + 8 * lane, true);
  cp_async16(sb + 8 * (lane % 16), b + 8 * (lane % 16), true);
  cp_async_commit();
  cp_async_wait<0>();
  __syncthreads();
  unsigned fa[4], fb[2];
  /* Matrices: rows 0-7 and 8-15 of k 0-7, then of k 8-15. */
  ldmatrix_x4(fa, sa + 16 * (lane % 16) + 8 * (lane / 16));
  ldmatrix_x2_trans(fb, sb + 8 * (lane % 16));
  float fd[4] = {0.0f, 0.0f, 0.0f, 0.0f};
  mma_16816(fd, fa, fb);
  for (int i = 0; i < 4; i++) d[(g + (i / 2) * 8) * 8 + 2 * t + i % 2] = fd[i];
}

/* out[i] = what ldmatrix gives lane i % 32 in register i / 32, of 8 x 8 matrices whose halves count up */
RM_KERNEL probe_ldmatrix(unsigned *out, int transposed) {
  extern __shared__ float dyn_smem[];
  ushort *s = (ushort *)dyn_smem;
  for (unsigned i = threadIdx.x; i < 256; i += 32) s[i] = (ushort)i;
  __syncthreads();
  unsigned r[4];
  if (transposed) ldmatrix_x4_trans(r, s + 8 * threadIdx.x);
  else ldmatrix_x4(r, s + 8 * threadIdx.x);
  for (int i = 0; i < 4; i++) out[32 * i + threadIdx.x] = r[i];
}

/* Three groups of copies; `keep` may be under way when the thread looks: out[group] = what it sees. */
RM_KERNEL probe_async(const float *x, float *out, int keep) {
  extern __shared__ float dyn_smem[];
  for (int group = 0; group < 3; group++) {
    cp_async16(dyn_smem + 4 * group, x + 4 * group, group != 2);
    cp_async_commit();
  }
  if (keep == 0) cp_async_wait<0>();
  if (keep == 1) cp_async_wait<1>();
  if (keep == 2) cp_async_wait<2>();
  for (int i = 0; i < 12; i++) out[i] = dyn_smem[i];
}

/* out[i] = (x[2i], x[2i + 1]) in bf16 */
RM_KERNEL probe_pack(const float *x, unsigned *out) { out[threadIdx.x] = pack_bf16(x[2 * threadIdx.x], x[2 * threadIdx.x + 1]); }

static float probe_deep(float *x, int depth) {
  volatile float frame[256];
  frame[0] = x[0];
  return depth == 0 ? frame[0] : probe_deep(x, depth - 1) + frame[0];
}

/* What kernels do wrong, by number. */
RM_KERNEL __launch_bounds__(64) probe_wrong(int how, float *x, i64 at) {
  extern __shared__ float dyn_smem[];
  if (how == 0) x[at] = 1.0f;
  if (how == 1 && threadIdx.x < 7) __syncthreads();
  if (how == 1 && threadIdx.x >= 7) __syncwarp();
  if (how == 2) __shfl_sync(threadIdx.x % 2 == 0 ? 0xffffffffu : 0x0000ffffu, 1.0f, 0);
  if (how == 3) __shfl_sync(threadIdx.x % 32 < 16 ? 0x7fffffffu : 0xffffffffu, 1.0f, 0);
  if (how == 4) *(volatile float *)at = 1.0f;
  if (how == 5) *(float4 *)(x + at) = make_float4(1.0f, 2.0f, 3.0f, 4.0f);
  if (how == 6) dyn_smem[at] = 1.0f;
  if (how == 7) __trap();
  if (how == 8) x[0] = (float)(100 / (int)at);
  if (how == 9) cp_async16(dyn_smem + 1, x, true);
  if (how == 10) x[0] = probe_deep(x, 100);
}
