/*
 * Attention on tensor cores: tiles of bfloat16 in shared memory, and the two products of them, by mma.m16n8k16.
 *
 * A warp owns 16 M rows of the block's tile and keeps its results for them, as fragments: scores(own, stream), which
 * become weights and then without leaving their registers the left factor of a product with the tile that streams by.
 * Rows are padded by 16 bytes, so that the eight that an ldmatrix reads at a time lie in different banks. Each right
 * fragment read serves M mma: with M = 2 shared memory is busy about half of the time that an A100's tensor cores
 * are.
 */
#pragma once
#include "attention.cuh"
#include "tensor_core.cuh"

#if RM_TENSOR_CORES

/* Heads of at most N features, M times 16 rows of each of 4 warps, and STREAM rows that stream by. */
template <int N_, int M_, int STREAM>
struct fragments {
  static constexpr int N = N_, M = M_, stream = STREAM;
  static constexpr int warps = 4, threads = 32 * warps, own = 16 * M * warps;
  /* bfloat16 from one row of a tile to the next, and of both tiles. */
  static constexpr int row = N + 8, own_tile = own * row, stream_tile = stream * row;
  /* Of 8 columns each, in scores(own, stream) and in results(own, N). */
  static constexpr int score_blocks = stream / 8, blocks = N / 8;
  using scores = float[M][score_blocks][4];
  using results = float[M][blocks][4];
};

/* The thread's place in fragments of results: rows g and g + 8, columns 2 t and 2 t + 1. */
struct fragment_place {
  int warp, lane, g, t;
};

RM_DEVICE fragment_place place_of_thread() {
  const int lane = threadIdx.x % 32;
  return {(int)threadIdx.x / 32, lane, lane / 4, lane % 4};
}

/*
 * Starts to copy tile(ROWS, N) = x(count, n), whose rows are `stride` apart; what is not there becomes zeros. Address
 * and stride are multiples of 16 bytes, n of 8.
 */
template <int ROWS, typename S>
RM_DEVICE void start_rows(bf16 *tile, const bf16 *x, i64 stride, int count, int n) {
  constexpr int units = S::N / 8, copies = ROWS * units / S::threads, step = S::threads / units;
  static_assert(ROWS * units % S::threads == 0 && S::threads % units == 0, "whole rows at a time");
  const int column = 8 * (threadIdx.x % units), first = threadIdx.x / units;
  const bf16 *from = x + first * stride + column;
  bf16 *to = tile + first * S::row + column;
#pragma unroll
  for (int i = 0; i < copies; i++) {
    const bool there = first + i * step < count && column < n;
    cp_async16(to + i * step * S::row, there ? from + i * step * stride : x, there);
  }
}

/*
 * Where a lane's row of an ldmatrix lies: left factors (rows, k) and transposed right ones (k, columns); right ones
 * (columns, k).
 */
template <typename S>
RM_DEVICE int left_row(int lane) {
  return (lane % 16) * S::row + lane / 16 * 8;
}
template <typename S>
RM_DEVICE int right_row(int lane) {
  return (lane % 8 + lane / 16 * 8) * S::row + lane / 8 % 2 * 8;
}

template <typename S>
RM_DEVICE void clear_scores(typename S::scores &s) {
#pragma unroll
  for (int m = 0; m < S::M; m++)
#pragma unroll
    for (int j = 0; j < S::score_blocks; j++)
#pragma unroll
      for (int e = 0; e < 4; e++) s[m][j][e] = 0;
}

/* s(16 M, stream) = a(16 M, N) b(stream, N)^T, a being the warp's rows of its tile. */
template <typename S>
RM_DEVICE void multiply_transposed(typename S::scores &s, const bf16 *a, const bf16 *b, int lane) {
  clear_scores<S>(s);
  a += left_row<S>(lane);
  b += right_row<S>(lane);
#pragma unroll
  for (int k = 0; k < S::N; k += 16) {
    unsigned left[S::M][4];
#pragma unroll
    for (int m = 0; m < S::M; m++) ldmatrix_x4(left[m], a + 16 * m * S::row + k);
#pragma unroll
    for (int j = 0; j < S::score_blocks; j += 2) {
      unsigned right[4];
      ldmatrix_x4(right, b + 8 * j * S::row + k);
      const unsigned low[2] = {right[0], right[1]}, high[2] = {right[2], right[3]};
#pragma unroll
      for (int m = 0; m < S::M; m++) {
        mma_16816(s[m][j], left[m], low);
        mma_16816(s[m][j + 1], left[m], high);
      }
    }
  }
}

/* sum(16 M, N) += w(16 M, stream) b(stream, N), w rounded to bfloat16. */
template <typename S>
RM_DEVICE void add_product(typename S::results &sum, const typename S::scores &w, const bf16 *b, int lane) {
  b += left_row<S>(lane);
#pragma unroll
  for (int k = 0; k < S::stream; k += 16) {
    unsigned left[S::M][4];
#pragma unroll
    for (int m = 0; m < S::M; m++)
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const float(&x)[4] = w[m][k / 8 + half];
        left[m][2 * half] = pack_bf16(x[0], x[1]);
        left[m][2 * half + 1] = pack_bf16(x[2], x[3]);
      }
#pragma unroll
    for (int j = 0; j < S::blocks; j += 2) {
      unsigned right[4];
      ldmatrix_x4_trans(right, b + k * S::row + 8 * j);
      const unsigned low[2] = {right[0], right[1]}, high[2] = {right[2], right[3]};
#pragma unroll
      for (int m = 0; m < S::M; m++) {
        mma_16816(sum[m][j], left[m], low);
        mma_16816(sum[m][j + 1], left[m], high);
      }
    }
  }
}

template <typename S>
RM_DEVICE void clear(typename S::results &sum) {
#pragma unroll
  for (int m = 0; m < S::M; m++)
#pragma unroll
    for (int j = 0; j < S::blocks; j++)
#pragma unroll
      for (int e = 0; e < 4; e++) sum[m][j][e] = 0;
}

/*
 * x(count, n) = sum, rows times their factors: those of a warp, from the first of its rows of x on. By way of its
 * rows of a tile that it alone reads, for whole 16-byte stores.
 */
template <typename S>
RM_DEVICE void store_results(bf16 *x, i64 stride, int count, int n, const typename S::results &sum,
                             const float (&factor)[2 * S::M], bf16 *tile, const fragment_place &at) {
  __syncwarp();
#pragma unroll
  for (int m = 0; m < S::M; m++)
#pragma unroll
    for (int half = 0; half < 2; half++)
#pragma unroll
      for (int j = 0; j < S::blocks; j++) {
        const float f = factor[2 * m + half];
        *(unsigned *)(tile + (16 * m + 8 * half + at.g) * S::row + 8 * j + 2 * at.t) =
            pack_bf16(sum[m][j][2 * half] * f, sum[m][j][2 * half + 1] * f);
      }
  __syncwarp();
  constexpr int units = S::N / 8, step = 32 / units;
  const int column = 8 * (at.lane % units);
  if (column < n)
    for (int r = at.lane / units; r < 16 * S::M && r < count; r += step)
      *(uint4 *)(x + r * stride + column) = *(const uint4 *)(tile + r * S::row + column);
}

#endif
