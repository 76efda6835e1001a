/* A tile of dy^T x of bfloat16 factors on tensor cores; on devices without, by multiply-adds. */
#pragma once
#include "product_tile.cuh"
#include "tensor_core.cuh"

#if RM_TENSOR_CORES

#define HALF_THREADS 128
#define HALF_DEPTH 32
#define STAGES 4
/* Elements of a slab's row: 16 bytes more than it needs, so that the 8 rows of a matrix lie in different banks. */
#define SLAB_STRIDE (TILE + 8)
#define SLAB (HALF_DEPTH * SLAB_STRIDE)
/* The same for the sums: 128 x 132 floats fit where 4 stages of two slabs were, 68 KiB. */
#define SUM_STRIDE (TILE + 4)

/* Starts copies of rows [k, k + HALF_DEPTH) and columns [c, c + TILE) of a(M, n): zeros past the edges. */
template <bool VECTORS>
RM_DEVICE void fetch_slab(bf16 *slab, const bf16 *a, i64 M, i64 n, i64 k, i64 c) {
#pragma unroll
  for (int e = threadIdx.x; e < HALF_DEPTH * TILE / 8; e += HALF_THREADS) {
    const int r = e / (TILE / 8), first = e % (TILE / 8) * 8;
    const i64 row = k + r, column = c + first;
    bf16 *const to = slab + r * SLAB_STRIDE + first;
    if constexpr (VECTORS) {
      const bool valid = row < M && column < n;
      cp_async16(to, valid ? a + row * n + column : a, valid);
    } else {
#pragma unroll
      for (int j = 0; j < 8; j++) to[j].bits = row < M && column + j < n ? a[row * n + column + j].bits : 0;
    }
  }
}

/*
 * 4 warps of 64 x 64 sums, 128 registers of each thread: a step of a warp, 32 products of 16 x 8 x 16, reads 4 KiB of shared memory.
 * Slabs come three steps ahead. Both fragments have neighbours along k, which are rows here: they are read transposed.
 */
template <bool VECTORS, typename Use>
RM_DEVICE void half_product_tile(const bf16 *dy, const bf16 *x, i64 M, i64 O, i64 I, i64 o0, i64 i0,
                                 const Use &use) {
  extern __shared__ float dyn_smem[];
  bf16 *const slabs = (bf16 *)dyn_smem;
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const int row = warp / 2 * 64, column = warp % 2 * 64;
  float sum[4][8][4];
#pragma unroll
  for (int r = 0; r < 4; r++)
#pragma unroll
    for (int c = 0; c < 8; c++)
#pragma unroll
      for (int e = 0; e < 4; e++) sum[r][c][e] = 0.0f;

  const auto fetch = [&](i64 step) {
    const i64 k = step * HALF_DEPTH;
    bf16 *const to = slabs + (int)(step % STAGES) * (2 * SLAB);
    if (k < M) {
      fetch_slab<VECTORS>(to, dy, M, O, k, o0);
      fetch_slab<VECTORS>(to + SLAB, x, M, I, k, i0);
    }
    cp_async_commit();
  };
#pragma unroll
  for (int s = 0; s < STAGES - 1; s++) fetch(s);
  const i64 steps = (M + HALF_DEPTH - 1) / HALF_DEPTH;
  /* Lane l gives row l % 8 of matrix l / 8, of the four in the order of the fragments' registers. */
  const int of_a = (lane / 16 * 8 + lane % 8) * SLAB_STRIDE + row + lane / 8 % 2 * 8;
  const int of_b = (lane / 8 % 2 * 8 + lane % 8) * SLAB_STRIDE + column + lane / 16 * 8;
  for (i64 step = 0; step < steps; step++) {
    cp_async_wait<STAGES - 2>();
    __syncthreads();
    /* Into the slabs that the step before this one has used. */
    fetch(step + STAGES - 1);
    const bf16 *const a = slabs + (int)(step % STAGES) * (2 * SLAB), *const b = a + SLAB;
#pragma unroll
    for (int d = 0; d < HALF_DEPTH; d += 16) {
      unsigned ar[4][4];
#pragma unroll
      for (int r = 0; r < 4; r++) ldmatrix_x4_trans(ar[r], a + d * SLAB_STRIDE + of_a + r * 16);
#pragma unroll
      for (int c = 0; c < 8; c += 2) {
        unsigned both[4];
        ldmatrix_x4_trans(both, b + d * SLAB_STRIDE + of_b + c * 8);
        const unsigned left[2] = {both[0], both[1]}, right[2] = {both[2], both[3]};
#pragma unroll
        for (int r = 0; r < 4; r++) {
          mma_16816(sum[r][c], ar[r], left);
          mma_16816(sum[r][c + 1], ar[r], right);
        }
      }
    }
  }
  cp_async_wait<0>();
  __syncthreads();

  float *const sums = dyn_smem;
#pragma unroll
  for (int r = 0; r < 4; r++)
#pragma unroll
    for (int c = 0; c < 8; c++)
#pragma unroll
      for (int h = 0; h < 2; h++)
        *(float2 *)(sums + (row + r * 16 + lane / 4 + 8 * h) * SUM_STRIDE + column + c * 8 +
                    lane % 4 * 2) = make_float2(sum[r][c][2 * h], sum[r][c][2 * h + 1]);
  __syncthreads();
  use(sums, SUM_STRIDE, TILE, [](int r) { return r; });
}

#else

#define HALF_THREADS PLAIN_THREADS

#endif

template <bool VECTORS, typename Use>
RM_DEVICE void product_tile(const bf16 *dy, const bf16 *x, i64 M, i64 O, i64 I, i64 o0, i64 i0,
                            const Use &use) {
#if RM_TENSOR_CORES
  half_product_tile<VECTORS>(dy, x, M, O, I, o0, i0, use);
#else
  plain_product_tile<bf16, VECTORS>(dy, x, M, O, I, o0, i0, use);
#endif
}
