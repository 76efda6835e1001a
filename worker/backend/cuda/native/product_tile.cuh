/*
 * A tile of dy^T x, dy(M,O) and x(M,I), by one block, for kernels that use it up where it is formed. Both factors have the sums'
 * index M as their rows, so their slabs go to shared memory as they lie. Sums run over M in order.
 *
 * product_tile calls use(sums, stride, rows, place) in all threads: sums[r * stride + c], in shared memory, is row place(r) and
 * column c of the tile, zero past the edges of O and I. From a multiple of 16 on, rows lie side by side in the tile too.
 */
#pragma once
#include "vectors.cuh"

/* Rows (of O) and columns (of I) of a tile. */
#define TILE 128
/* Rows of tiles whose blocks are neighbours: they share slabs of x, and those along a row slabs of dy, in the L2 cache. */
#define TILE_GROUP 16

RM_DEVICE void tile_place(i64 O, i64 I, i64 &o, i64 &i) {
  const i64 down = (O + TILE - 1) / TILE, across = (I + TILE - 1) / TILE;
  const i64 group = blockIdx.x / (TILE_GROUP * across), rest = blockIdx.x - group * (TILE_GROUP * across);
  const i64 rows = min((i64)TILE_GROUP, down - group * TILE_GROUP);
  i = rest / rows * TILE;
  o = (group * TILE_GROUP + rest % rows) * TILE;
}

/* ---- on the multiply-add units ---- */

#define PLAIN_THREADS 256
/* Rows of a slab of either factor. */
#define PLAIN_DEPTH 16

/* This thread's share of rows [k, k + PLAIN_DEPTH) and columns [c, c + TILE) of a(M, n): zeros past the edges. */
template <typename T, bool VECTORS>
struct slab_share {
  float value[8];
  RM_CALL void load(const T *a, i64 M, i64 n, i64 k, i64 c) {
    const int t = threadIdx.x;
    if constexpr (VECTORS) {
#pragma unroll
      for (int q = 0; q < 2; q++) {
        const i64 row = k + t / 32 + 8 * q, column = c + t % 32 * 4;
        const float4 v = row < M && column < n ? load4(a + row * n + column) : make_float4(0, 0, 0, 0);
        value[4 * q] = v.x;
        value[4 * q + 1] = v.y;
        value[4 * q + 2] = v.z;
        value[4 * q + 3] = v.w;
      }
    } else {
#pragma unroll
      for (int q = 0; q < 8; q++) {
        const i64 row = k + t / TILE + 2 * q, column = c + t % TILE;
        value[q] = row < M && column < n ? widen(a[row * n + column]) : 0.0f;
      }
    }
  }
  RM_CALL void put(float (&slab)[PLAIN_DEPTH][TILE]) const {
    const int t = threadIdx.x;
    if constexpr (VECTORS) {
#pragma unroll
      for (int q = 0; q < 2; q++)
        store4(&slab[t / 32 + 8 * q][t % 32 * 4], make_float4(value[4 * q], value[4 * q + 1],
                                                              value[4 * q + 2], value[4 * q + 3]));
    } else {
#pragma unroll
      for (int q = 0; q < 8; q++) slab[t / TILE + 2 * q][t % TILE] = value[q];
    }
  }
};

/*
 * 256 threads of 8 x 8 sums: a warp has 32 rows and 64 columns, so that a step of it, 64 multiply-adds of each thread, reads 4
 * lines of shared memory. The next slabs come while the last are used.
 */
template <typename T, bool VECTORS, typename Use>
RM_DEVICE void plain_product_tile(const T *dy, const T *x, i64 M, i64 O, i64 I, i64 o0, i64 i0,
                                  const Use &use) {
  __shared__ __align__(16) float slabs[2][2][PLAIN_DEPTH][TILE];
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const int row = warp / 2 * 32 + lane / 8 * 4, column = warp % 2 * 64 + lane % 8 * 4;
  float sum[8][8];
#pragma unroll
  for (int r = 0; r < 8; r++)
#pragma unroll
    for (int c = 0; c < 8; c++) sum[r][c] = 0.0f;

  slab_share<T, VECTORS> a, b;
  a.load(dy, M, O, 0, o0);
  b.load(x, M, I, 0, i0);
  a.put(slabs[0][0]);
  b.put(slabs[0][1]);
  __syncthreads();
  int at = 0;
  for (i64 k = 0; k < M; k += PLAIN_DEPTH) {
    const bool more = k + PLAIN_DEPTH < M;
    if (more) {
      a.load(dy, M, O, k + PLAIN_DEPTH, o0);
      b.load(x, M, I, k + PLAIN_DEPTH, i0);
    }
#pragma unroll 2
    for (int d = 0; d < PLAIN_DEPTH; d++) {
      float ar[2][4], br[2][4];
#pragma unroll
      for (int h = 0; h < 2; h++) {
        unpack(load16(&slabs[at][0][d][row + 16 * h]), ar[h]);
        unpack(load16(&slabs[at][1][d][column + 32 * h]), br[h]);
      }
#pragma unroll
      for (int r = 0; r < 8; r++)
#pragma unroll
        for (int c = 0; c < 8; c++) sum[r][c] += ar[r / 4][r % 4] * br[c / 4][c % 4];
    }
    at ^= 1;
    if (more) {
      a.put(slabs[at][0]);
      b.put(slabs[at][1]);
    }
    __syncthreads();
  }

  /* Half a tile at a time is what the slabs' memory holds: half of each thread's rows, so that it keeps half of its sums. */
  float *const sums = &slabs[0][0][0][0];
#pragma unroll
  for (int half = 0; half < 2; half++) {
#pragma unroll
    for (int r = 0; r < 4; r++)
#pragma unroll
      for (int h = 0; h < 2; h++) {
        const float *from = &sum[4 * half + r][4 * h];
        store4(sums + (row / 32 * 16 + row % 32 + r) * TILE + column + 32 * h,
               make_float4(from[0], from[1], from[2], from[3]));
      }
    __syncthreads();
    use(sums, TILE, TILE / 2, [=](int r) { return r / 16 * 32 + 16 * half + r % 16; });
    __syncthreads();
  }
}

/* By the factors' type; that of bfloat16 is in product_tile_half.cuh. */
template <bool VECTORS, typename Use>
RM_DEVICE void product_tile(const float *dy, const float *x, i64 M, i64 O, i64 I, i64 o0, i64 i0,
                            const Use &use) {
  plain_product_tile<float, VECTORS>(dy, x, M, O, I, o0, i0, use);
}
