/*
 * Few rows M: updates and gradients of w(O,I) = dy^T x element by element, and the sum of squares of such a gradient.
 *
 * AdamW moves 24 bytes an element and nothing else comes near that. On an H100 a multiprocessor gets 15 bytes of it a clock, so a
 * warp's band of 512 elements takes 820 clocks of memory; each row of the factors costs it 4 clocks of multiply-adds and
 * 5 of shared memory (a vector of x for each lane, one of dy for all), for M = 8 a twentieth, for M = 48 a third of that.
 */
#include "factors.cuh"

#define THREADS 256
#define WARPS (THREADS / 32)
/* Weight rows of a warp at a time. */
#define BAND_ROWS 4

/*
 * A block updates `rows` weight rows (a multiple of WARPS * BAND_ROWS, at most THREADS) in BAND_COLUMNS columns. It keeps its part
 * of the factors in shared memory, floats x(M, BAND_COLUMNS) and dy(M, rows), dy times the clip factor. Blocks along a row
 * are neighbours, so that they move whole rows together.
 */
template <typename T, update_kind KIND, bool VECTORS>
RM_DEVICE void update_rows(const T *dy, const T *x, float *w, float *m, float *v, int M, i64 O, i64 I,
                           const float *factor, const step_scalars *scalars, int rows) {
  extern __shared__ float dyn_smem[];
  float *const xs = dyn_smem, *const ds = dyn_smem + M * BAND_COLUMNS;
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const i64 across = (I + BAND_COLUMNS - 1) / BAND_COLUMNS, down = blockIdx.x / across;
  const i64 i0 = (blockIdx.x - down * across) * BAND_COLUMNS, o0 = down * rows;

  const float f = factor_of(factor);
  for (int e = threadIdx.x; e < M * BAND_COLUMNS; e += THREADS) {
    const i64 r = e / BAND_COLUMNS, i = i0 + e % BAND_COLUMNS;
    xs[e] = i < I ? widen(x[r * I + i]) : 0.0f;
  }
  if ((int)threadIdx.x < rows) {
    const i64 o = o0 + threadIdx.x;
#pragma unroll 8
    for (int r = 0; r < M; r++) ds[r * rows + threadIdx.x] = o < O ? f * widen(dy[r * O + o]) : 0.0f;
  }
  __syncthreads();

  using lane_at = band_lane<VECTORS>;
  const i64 i = i0 + lane_at::first(lane);
  if (i >= I) return;
  const float *const mine = xs + lane_at::first(lane);
  for (int first = warp * BAND_ROWS; first < rows && o0 + first < O; first += WARPS * BAND_ROWS)
    update_band<KIND, VECTORS, BAND_ROWS>({w, m, v}, O, I, o0 + first, i, scalars,
                                          [&](float (&g)[BAND_ROWS][4]) {
#pragma unroll
      for (int c = 0; c < BAND_ROWS; c++)
#pragma unroll
        for (int j = 0; j < 4; j++) g[c][j] = 0.0f;
#pragma unroll 2
      for (int r = 0; r < M; r++) {
        float d[4], xr[4];
        unpack(load16(ds + r * rows + first), d);
        if constexpr (VECTORS) {
          unpack(load16(mine + r * BAND_COLUMNS), xr);
        } else {
#pragma unroll
          for (int j = 0; j < 4; j++) xr[j] = mine[r * BAND_COLUMNS + lane_at::place(j)];
        }
#pragma unroll
        for (int c = 0; c < BAND_ROWS; c++)
#pragma unroll
          for (int j = 0; j < 4; j++) g[c][j] += d[c] * xr[j];
      }
    });
}

#define UPDATE_ROWS(T, NAME, KIND, TITLE)                                                          \
  RM_KERNEL __launch_bounds__(THREADS, 2) rm_rows_##TITLE##_##NAME(                                \
      const T *dy, const T *x, float *w, float *m, float *v, int M, i64 O, i64 I,                  \
      const float *factor, const step_scalars *scalars, int rows) {                                \
    update_rows<T, KIND, true>(dy, x, w, m, v, M, O, I, factor, scalars, rows);                    \
  }                                                                                                \
  RM_KERNEL __launch_bounds__(THREADS, 2) rm_rows_##TITLE##_##NAME##_odd(                          \
      const T *dy, const T *x, float *w, float *m, float *v, int M, i64 O, i64 I,                  \
      const float *factor, const step_scalars *scalars, int rows) {                                \
    update_rows<T, KIND, false>(dy, x, w, m, v, M, O, I, factor, scalars, rows);                   \
  }
UPDATE_ROWS(float, f32, ADAMW, adamw)
UPDATE_ROWS(float, f32, SGD, sgd)
UPDATE_ROWS(float, f32, SGD_MOMENTUM, sgd_momentum)
UPDATE_ROWS(float, f32, STORE, store)
UPDATE_ROWS(bf16, bf16, ADAMW, adamw)
UPDATE_ROWS(bf16, bf16, SGD, sgd)
UPDATE_ROWS(bf16, bf16, SGD_MOMENTUM, sgd_momentum)
UPDATE_ROWS(bf16, bf16, STORE, store)

/* ---- ||dy^T x||^2 = sum over rows p, q of (dy_p . dy_q)(x_p . x_q), dots in double ---- */

/* Rows of a tile of the Gram matrices, and columns that it takes at a time. */
#define GRAM 32

/* Tile pairs (p, q), q <= p, in the order (0,0) (1,0) (1,1) (2,0) ... */
RM_DEVICE void tile_pair(i64 index, i64 &p, i64 &q) {
  p = (i64)((sqrt(8.0 * (double)index + 1.0) - 1.0) / 2.0);
  while (p * (p + 1) / 2 > index) p--;
  while ((p + 1) * (p + 2) / 2 <= index) p++;
  q = index - p * (p + 1) / 2;
}

/*
 * sum[u][v] += a_i . a_j over columns [from, to) for rows i = GRAM p + ty + 16 u and j = GRAM q + tx + 16 v of a(M,n). Both
 * sides are widened once, into shared memory; a step of a warp reads 4 lines of it for 4 products of each thread.
 */
template <typename T>
RM_DEVICE void gram_tile(const T *a, i64 M, i64 n, i64 p, i64 q, i64 from, i64 to,
                         double (&sum)[2][2]) {
  __shared__ double left[GRAM][GRAM + 1], right[GRAM][GRAM + 1];
  const int tx = threadIdx.x & 15, ty = threadIdx.x >> 4;
  for (i64 k0 = from; k0 < to; k0 += GRAM) {
    __syncthreads();
#pragma unroll
    for (int e = threadIdx.x; e < GRAM * GRAM; e += THREADS) {
      const int r = e / GRAM, k = e % GRAM;
      const i64 i = p * GRAM + r, j = q * GRAM + r;
      left[k][r] = i < M && k0 + k < to ? (double)widen(a[i * n + k0 + k]) : 0.0;
      right[k][r] = j < M && k0 + k < to ? (double)widen(a[j * n + k0 + k]) : 0.0;
    }
    __syncthreads();
#pragma unroll 8
    for (int k = 0; k < GRAM; k++)
#pragma unroll
      for (int u = 0; u < 2; u++)
#pragma unroll
        for (int v = 0; v < 2; v++) sum[u][v] += left[k][ty + 16 * u] * right[k][tx + 16 * v];
  }
}

/* Few tile pairs: the dots are cut into chunks of columns, of dy and then of x. parts(chunks, pairs, GRAM, GRAM). */
template <typename T>
RM_DEVICE void gram_parts(const T *dy, const T *x, double *parts, i64 M, i64 O, i64 I, i64 pairs,
                          i64 chunk, i64 chunks_of_dy) {
  const i64 c = blockIdx.x / pairs, pair = blockIdx.x - c * pairs;
  i64 p, q;
  tile_pair(pair, p, q);
  const bool of_dy = c < chunks_of_dy;
  const i64 n = of_dy ? O : I, from = (of_dy ? c : c - chunks_of_dy) * chunk;
  double sum[2][2] = {{0.0, 0.0}, {0.0, 0.0}};
  gram_tile(of_dy ? dy : x, M, n, p, q, from, min(from + chunk, n), sum);
  const int tx = threadIdx.x & 15, ty = threadIdx.x >> 4;
  double *to = parts + (i64)blockIdx.x * (GRAM * GRAM);
#pragma unroll
  for (int u = 0; u < 2; u++)
#pragma unroll
    for (int v = 0; v < 2; v++)
      if (p * GRAM + ty + 16 * u < M && q * GRAM + tx + 16 * v < M)
        to[(ty + 16 * u) * GRAM + tx + 16 * v] = sum[u][v];
}

/* products[pair] = the pair's share of the sum, from its parts. */
RM_KERNEL rm_gram_combine(const double *parts, double *products, i64 M, i64 pairs, i64 chunks_of_dy,
                          i64 chunks_of_x) {
  __shared__ double shared[32];
  const i64 pair = blockIdx.x, stride = pairs * (GRAM * GRAM);
  i64 p, q;
  tile_pair(pair, p, q);
  double total = 0.0;
  for (int e = threadIdx.x; e < GRAM * GRAM; e += THREADS) {
    if (p * GRAM + e / GRAM >= M || q * GRAM + e % GRAM >= M) continue;
    const double *at = parts + pair * (GRAM * GRAM) + e;
    double of_dy = 0.0, of_x = 0.0;
#pragma unroll 8
    for (i64 c = 0; c < chunks_of_dy; c++) of_dy += at[c * stride];
    at += chunks_of_dy * stride;
#pragma unroll 8
    for (i64 c = 0; c < chunks_of_x; c++) of_x += at[c * stride];
    total += of_dy * of_x;
  }
  total = block_sum(total, shared);
  if (threadIdx.x == 0) products[pair] = p == q ? total : 2.0 * total;
}

/* Many tile pairs: a block each forms both dots of its pair. */
template <typename T>
RM_DEVICE void gram_products(const T *dy, const T *x, double *products, i64 M, i64 O, i64 I) {
  __shared__ double shared[32];
  i64 p, q;
  tile_pair(blockIdx.x, p, q);
  double of_dy[2][2] = {{0.0, 0.0}, {0.0, 0.0}}, of_x[2][2] = {{0.0, 0.0}, {0.0, 0.0}};
  gram_tile(dy, M, O, p, q, 0, O, of_dy);
  gram_tile(x, M, I, p, q, 0, I, of_x);
  double total = 0.0;
#pragma unroll
  for (int u = 0; u < 2; u++)
#pragma unroll
    for (int v = 0; v < 2; v++) total += of_dy[u][v] * of_x[u][v];
  total = block_sum(total, shared);
  if (threadIdx.x == 0) products[blockIdx.x] = p == q ? total : 2.0 * total;
}

#define GRAM_KERNELS(T, NAME)                                                                     \
  RM_KERNEL __launch_bounds__(THREADS)                                                            \
      rm_gram_parts_##NAME(const T *dy, const T *x, double *parts, i64 M, i64 O, i64 I,           \
                           i64 pairs, i64 chunk, i64 chunks_of_dy) {                              \
    gram_parts(dy, x, parts, M, O, I, pairs, chunk, chunks_of_dy);                                \
  }                                                                                               \
  RM_KERNEL __launch_bounds__(THREADS)                                                            \
      rm_gram_products_##NAME(const T *dy, const T *x, double *products, i64 M, i64 O, i64 I) {   \
    gram_products(dy, x, products, M, O, I);                                                      \
  }
GRAM_KERNELS(float, f32)
GRAM_KERNELS(bf16, bf16)

/* *s = the sum of x[0..n), by one block. */
RM_KERNEL rm_sum_doubles(const double *x, i64 n, double *s) {
  __shared__ double shared[32];
  double total = 0.0;
#pragma unroll 8
  for (i64 e = threadIdx.x; e < n; e += THREADS) total += x[e];
  total = block_sum(total, shared);
  if (threadIdx.x == 0) *s = total;
}
