/*
 * Normalisation of rows x(M,D): xhat = (x - mean) rate with rate = 1 / sqrt(spread + eps). RMS norm takes 0 for the mean and the
 * mean of squares for the spread; layer norm the mean and the variance.
 *
 * Bound by memory: a row is read once and stays in registers, D <= 1024 in those of one warp, wider rows in those of one block,
 * so that statistics cost no second pass. What is not in whole vectors, or too wide for registers, is read again, from cache.
 */
#include "vectors.cuh"

/* Rows of a block where a warp has one. */
#define WARPS 4
/* Threads of a block that has a row in registers, at most. */
#define ROW_THREADS 512
/* Rows of partial sums that a block of rm_norm_columns adds at once, at most. */
#define COLUMN_ROWS 32

/*
 * Sums of K values over the threads of a row, in each of them. Blocks use the two halves of `shared` in turns: a half is
 * written again only after the barrier of the other, when all have read it.
 */
template <bool BLOCK, int K>
RM_DEVICE void row_sums(float (&v)[K], float (*shared)[3][32], int &turn) {
#pragma unroll
  for (int k = 0; k < K; k++) v[k] = warp_sum(v[k]);
  if constexpr (BLOCK) {
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
    float(*half)[32] = shared[turn];
    turn ^= 1;
    if (lane == 0) {
#pragma unroll
      for (int k = 0; k < K; k++) half[k][warp] = v[k];
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < K; k++) {
      v[k] = half[k][0];
      for (int w = 1; w < warps; w++) v[k] += half[k][w];
    }
  }
}

template <bool BLOCK>
RM_DEVICE float row_sum(float v, float (*shared)[3][32], int &turn) {
  float sums[1] = {v};
  row_sums<BLOCK>(sums, shared, turn);
  return sums[0];
}

RM_DEVICE float rate_of(float squares, i64 D, float eps) {
  return 1.0f / sqrtf(squares / (float)D + eps);
}

/* Floats of a gain or bias beside a vector of T. */
template <int N>
RM_DEVICE void load_floats(const float *p, float (&v)[N]) {
#pragma unroll
  for (int i = 0; i < N; i += 4) {
    const float4 q = load4(p + i);
    v[i] = q.x, v[i + 1] = q.y, v[i + 2] = q.z, v[i + 3] = q.w;
  }
}

/* Where a thread stands in its row, and which row is its first. */
template <bool BLOCK>
struct row_threads {
  int lane, across;
  i64 first, step;
  RM_CALL row_threads() {
    lane = BLOCK ? threadIdx.x : threadIdx.x & 31;
    across = BLOCK ? blockDim.x : 32;
    first = BLOCK ? blockIdx.x : (i64)blockIdx.x * WARPS + (threadIdx.x >> 5);
    step = BLOCK ? gridDim.x : (i64)gridDim.x * WARPS;
  }
};

/* VECTORS vectors of a row in a thread's registers; those past the row's end are zeros, which no sum may take for elements. */
template <typename T, int VECTORS>
RM_DEVICE void load_row(const T *row, int D, int lane, int across, uint4 (&raw)[VECTORS]) {
#pragma unroll
  for (int k = 0; k < VECTORS; k++) {
    const int e = (k * across + lane) * lanes<T>::count;
    raw[k] = e < D ? load16(row + e) : make_uint4(0, 0, 0, 0);
  }
}

/* Runs the statements for each vector of the row: k in registers, e its first column. */
#define EACH_VECTOR(...)                                     \
  do {                                                       \
    _Pragma("unroll") for (int k = 0; k < VECTORS; k++) {    \
      const int e = (k * at.across + at.lane) * V;           \
      if (e < D) {                                           \
        __VA_ARGS__                                          \
      }                                                      \
    }                                                        \
  } while (0)
#define EACH_LANE _Pragma("unroll") for (int j = 0; j < V; j++)

/* The row's mean, for a layer norm. */
template <typename T, int VECTORS, bool BLOCK>
RM_DEVICE float row_mean(const uint4 (&raw)[VECTORS], int D, const row_threads<BLOCK> &at,
                         float (*shared)[3][32], int &turn) {
  constexpr int V = lanes<T>::count;
  float sum = 0.0f;
  EACH_VECTOR({
    float x[V];
    unpack(raw[k], x);
    EACH_LANE sum += x[j];
  });
  return row_sum<BLOCK>(sum, shared, turn) / (float)D;
}

/* ---- forward ---- */

/* y = xhat g, + b where b is not NULL: that is a layer norm. y may be x. */
template <typename T, int VECTORS, bool BLOCK>
RM_DEVICE void norm_rows(const T *x, const float *g, const float *b, T *y, i64 M, int D,
                         float eps) {
  constexpr int V = lanes<T>::count;
  __shared__ float shared[2][3][32];
  int turn = 0;
  const row_threads<BLOCK> at;
  for (i64 row = at.first; row < M; row += at.step) {
    uint4 raw[VECTORS];
    load_row<T>(x + row * D, D, at.lane, at.across, raw);
    const float mean = b ? row_mean<T>(raw, D, at, shared, turn) : 0.0f;
    float squares = 0.0f;
    EACH_VECTOR({
      float xi[V];
      unpack(raw[k], xi);
      EACH_LANE squares += (xi[j] - mean) * (xi[j] - mean);
    });
    const float rate = rate_of(row_sum<BLOCK>(squares, shared, turn), D, eps);
    EACH_VECTOR({
      float xi[V], gi[V], bi[V] = {0};
      unpack(raw[k], xi);
      load_floats(g + e, gi);
      if (b) load_floats(b + e, bi);
      EACH_LANE xi[j] = (xi[j] - mean) * rate * gi[j] + bi[j];
      store16(y + row * D + e, pack(xi));
    });
  }
}

/* Rows of any width and alignment, one block each; later passes find the row in cache. */
template <typename T>
RM_DEVICE void norm_any(const T *x, const float *g, const float *b, T *y, i64 M, i64 D, float eps) {
  __shared__ float shared[2][3][32];
  int turn = 0;
  for (i64 row = blockIdx.x; row < M; row += gridDim.x) {
    const T *xr = x + row * D;
    T *yr = y + row * D;
    float mean = 0.0f;
    if (b) {
      float sum = 0.0f;
      for (i64 e = threadIdx.x; e < D; e += blockDim.x) sum += widen(xr[e]);
      mean = row_sum<true>(sum, shared, turn) / (float)D;
    }
    float squares = 0.0f;
    for (i64 e = threadIdx.x; e < D; e += blockDim.x) {
      const float c = widen(xr[e]) - mean;
      squares += c * c;
    }
    const float rate = rate_of(row_sum<true>(squares, shared, turn), D, eps);
    for (i64 e = threadIdx.x; e < D; e += blockDim.x)
      store(yr + e, (widen(xr[e]) - mean) * rate * g[e] + (b ? b[e] : 0.0f));
  }
}

/* ---- gradients ---- */

/* dx = rate (d - shift - xhat slope) with d = dy g, slope = mean(d xhat) and, for a layer norm, shift = mean(d). */
struct row_statistics {
  float mean, rate, slope, shift;
};

/* From sums over the row of (x - mean)^2, d (x - mean) and d. */
template <bool BLOCK>
RM_DEVICE row_statistics statistics_of(float mean, float squares, float dots, float plain,
                                       int layer, i64 D, float eps, float (*shared)[3][32],
                                       int &turn) {
  row_statistics s = {mean, 0.0f, 0.0f, 0.0f};
  if (layer) {
    float sums[3] = {squares, dots, plain};
    row_sums<BLOCK>(sums, shared, turn);
    squares = sums[0], dots = sums[1];
    s.shift = sums[2] / (float)D;
  } else {
    float sums[2] = {squares, dots};
    row_sums<BLOCK>(sums, shared, turn);
    squares = sums[0], dots = sums[1];
  }
  s.rate = rate_of(squares, D, eps);
  s.slope = s.rate * dots / (float)D;
  return s;
}

/* Writes a thread's sums of dy xhat to its block's row of partial sums; warps' are added first, in order. */
template <typename T, int VECTORS, bool BLOCK>
RM_DEVICE void store_sums(const float (&sums)[VECTORS][lanes<T>::count], float *partial, int D) {
  constexpr int V = lanes<T>::count;
  const row_threads<BLOCK> at;
  float *row = partial + (i64)blockIdx.x * D;
  if constexpr (BLOCK) {
    EACH_VECTOR({
      for (int j = 0; j < V; j += 4)
        store4(row + e + j,
               make_float4(sums[k][j], sums[k][j + 1], sums[k][j + 2], sums[k][j + 3]));
    });
  } else {
    alignas(16) __shared__ float columns[WARPS][32 * VECTORS * V];
    float *mine = columns[threadIdx.x >> 5];
    EACH_VECTOR({
      for (int j = 0; j < V; j += 4)
        store4(mine + e + j,
               make_float4(sums[k][j], sums[k][j + 1], sums[k][j + 2], sums[k][j + 3]));
    });
    __syncthreads();
    for (int c = threadIdx.x; c < D; c += 32 * WARPS) {
      float sum = columns[0][c];
      for (int w = 1; w < WARPS; w++) sum += columns[w][c];
      row[c] = sum;
    }
  }
}

/*
 * dx(M,D), unless NULL, and partial(blocks,D), unless NULL: sums over a block's rows of dy xhat, which stay in registers
 * until its last. dx may be dy or x. Without dx there is no g.
 */
template <typename T, int VECTORS, bool BLOCK>
RM_DEVICE void norm_grad_rows(int layer, const T *dy, const T *x, const float *g, T *dx,
                              float *partial, i64 M, int D, float eps) {
  constexpr int V = lanes<T>::count;
  __shared__ float shared[2][3][32];
  int turn = 0;
  const row_threads<BLOCK> at;
  float sums[VECTORS][V] = {};
  for (i64 row = at.first; row < M; row += at.step) {
    uint4 raw_x[VECTORS], raw_dy[VECTORS];
    load_row<T>(x + row * D, D, at.lane, at.across, raw_x);
    load_row<T>(dy + row * D, D, at.lane, at.across, raw_dy);
    const float mean = layer ? row_mean<T>(raw_x, D, at, shared, turn) : 0.0f;
    float squares = 0.0f, dots = 0.0f, plain = 0.0f;
    EACH_VECTOR({
      float xi[V], d[V], gi[V] = {0};
      unpack(raw_x[k], xi);
      unpack(raw_dy[k], d);
      if (dx) load_floats(g + e, gi);
      EACH_LANE {
        const float c = xi[j] - mean;
        squares += c * c;
        dots += d[j] * gi[j] * c;
        plain += d[j] * gi[j];
      }
    });
    const row_statistics s =
        statistics_of<BLOCK>(mean, squares, dots, plain, layer, D, eps, shared, turn);
    EACH_VECTOR({
      float xi[V], d[V];
      unpack(raw_x[k], xi);
      unpack(raw_dy[k], d);
      EACH_LANE {
        xi[j] = (xi[j] - s.mean) * s.rate;
        sums[k][j] += d[j] * xi[j];
      }
      if (dx) {
        float gi[V];
        load_floats(g + e, gi);
        EACH_LANE xi[j] = s.rate * (d[j] * gi[j] - s.shift - xi[j] * s.slope);
        store16(dx + row * D + e, pack(xi));
      }
    });
  }
  if (partial) store_sums<T, VECTORS, BLOCK>(sums, partial, D);
}

/* The same for rows of any width and alignment; a block adds to its partial sums in place. */
template <typename T>
RM_DEVICE void norm_grad_any(int layer, const T *dy, const T *x, const float *g, T *dx,
                             float *partial, i64 M, i64 D, float eps) {
  __shared__ float shared[2][3][32];
  int turn = 0;
  for (i64 row = blockIdx.x; row < M; row += gridDim.x) {
    const T *xr = x + row * D, *dyr = dy + row * D;
    float mean = 0.0f;
    if (layer) {
      float sum = 0.0f;
      for (i64 e = threadIdx.x; e < D; e += blockDim.x) sum += widen(xr[e]);
      mean = row_sum<true>(sum, shared, turn) / (float)D;
    }
    float squares = 0.0f, dots = 0.0f, plain = 0.0f;
    for (i64 e = threadIdx.x; e < D; e += blockDim.x) {
      const float c = widen(xr[e]) - mean, d = dx ? widen(dyr[e]) * g[e] : 0.0f;
      squares += c * c;
      dots += d * c;
      plain += d;
    }
    const row_statistics s =
        statistics_of<true>(mean, squares, dots, plain, layer, D, eps, shared, turn);
    for (i64 e = threadIdx.x; e < D; e += blockDim.x) {
      const float xhat = (widen(xr[e]) - s.mean) * s.rate, d = widen(dyr[e]);
      if (partial) {
        float *sum = partial + (i64)blockIdx.x * D + e;
        *sum = (row == blockIdx.x ? 0.0f : *sum) + d * xhat;
      }
      if (dx) store(dx + row * D + e, s.rate * (d * g[e] - s.shift - xhat * s.slope));
    }
  }
}

/*
 * dg(D) = sum over rows of partial(rows,D), in double. A block has 32 columns; its warps take rows in turns, and their sums are
 * added in order.
 */
RM_KERNEL __launch_bounds__(32 * COLUMN_ROWS)
rm_norm_columns(const float *partial, float *dg, i64 rows, i64 D) {
  __shared__ double sums[COLUMN_ROWS][32];
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
  const i64 column = (i64)blockIdx.x * 32 + lane;
  double sum = 0.0;
  if (column < D) {
#pragma unroll 4
    for (i64 r = warp; r < rows; r += warps) sum += (double)partial[r * D + column];
  }
  sums[warp][lane] = sum;
  __syncthreads();
  if (warp == 0 && column < D) {
    for (int w = 1; w < warps; w++) sum += sums[w][lane];
    dg[column] = (float)sum;
  }
}

/* Kernels by elements of a thread: 8 or 32 where a warp has a row, 16 or 32 where a block has one. */
#define NORM_ROWS(NAME, T, ELEMENTS, BLOCK, THREADS)                                               \
  RM_KERNEL __launch_bounds__(THREADS) rm_norm_##NAME(const T *x, const float *g, const float *b,  \
                                                      T *y, i64 M, i64 D, float eps) {             \
    norm_rows<T, ELEMENTS / lanes<T>::count, BLOCK>(x, g, b, y, M, (int)D, eps);                   \
  }                                                                                                \
  RM_KERNEL __launch_bounds__(THREADS, 1)                                                          \
      rm_norm_grad_##NAME(int layer, const T *dy, const T *x, const float *g, T *dx,               \
                          float *partial, i64 M, i64 D, float eps) {                               \
    norm_grad_rows<T, ELEMENTS / lanes<T>::count, BLOCK>(layer, dy, x, g, dx, partial, M, (int)D,  \
                                                         eps);                                     \
  }
#define NORMS(T, SUFFIX)                                                                           \
  NORM_ROWS(warp8_##SUFFIX, T, 8, false, 32 * WARPS)                                               \
  NORM_ROWS(warp32_##SUFFIX, T, 32, false, 32 * WARPS)                                             \
  NORM_ROWS(block16_##SUFFIX, T, 16, true, ROW_THREADS)                                            \
  NORM_ROWS(block32_##SUFFIX, T, 32, true, ROW_THREADS)                                            \
  RM_KERNEL rm_norm_any_##SUFFIX(const T *x, const float *g, const float *b, T *y, i64 M,          \
                                 i64 D, float eps) {                                               \
    norm_any<T>(x, g, b, y, M, D, eps);                                                            \
  }                                                                                                \
  RM_KERNEL rm_norm_grad_any_##SUFFIX(int layer, const T *dy, const T *x, const float *g, T *dx,   \
                                      float *partial, i64 M, i64 D, float eps) {                   \
    norm_grad_any<T>(layer, dy, x, g, dx, partial, M, D, eps);                                     \
  }
NORMS(float, f32)
NORMS(bf16, bf16)
