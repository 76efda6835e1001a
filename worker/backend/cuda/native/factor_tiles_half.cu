// targets: 75 80
/* Updates by products of many rows of bfloat16 factors, and the sum of the squares of such a product. */
#include "product_tile_half.cuh"

#include "factor_tiles.cuh"

UPDATE_TILE(bf16, bf16, HALF_THREADS, ADAMW, adamw)
UPDATE_TILE(bf16, bf16, HALF_THREADS, SGD, sgd)
UPDATE_TILE(bf16, bf16, HALF_THREADS, SGD_MOMENTUM, sgd_momentum)

/* parts[block] = the sum of the squares of its tile, in double. */
template <bool VECTORS>
RM_DEVICE void square_tile(const bf16 *dy, const bf16 *x, double *parts, i64 M, i64 O, i64 I) {
  __shared__ double shared[32];
  i64 o0, i0;
  tile_place(O, I, o0, i0);
  double total = 0.0;
  product_tile<VECTORS>(dy, x, M, O, I, o0, i0, [&](const float *sums, int stride, int rows, const auto &) {
#pragma unroll 4
    for (int e = threadIdx.x; e < rows * TILE; e += blockDim.x) {
      const double g = sums[e / TILE * stride + e % TILE];
      total += g * g;
    }
  });
  total = block_sum(total, shared);
  if (threadIdx.x == 0) parts[blockIdx.x] = total;
}

RM_KERNEL __launch_bounds__(HALF_THREADS, 2)
    rm_tile_squares_bf16(const bf16 *dy, const bf16 *x, double *parts, i64 M, i64 O, i64 I) {
  square_tile<true>(dy, x, parts, M, O, I);
}
RM_KERNEL __launch_bounds__(HALF_THREADS, 2)
    rm_tile_squares_bf16_odd(const bf16 *dy, const bf16 *x, double *parts, i64 M, i64 O, i64 I) {
  square_tile<false>(dy, x, parts, M, O, I);
}
