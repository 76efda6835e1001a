/*
 * Linear layers of few rows, x(M,I), w(O,I), y(M,O): bound by streaming w, which each kernel reads once. More rows go to cuBLAS.
 *
 * What has to keep up with memory, on an H100 at 15 bytes of w per clock and multiprocessor, for M = 8 float32 rows: 30 of 128
 * multiply-adds a clock; and x, which comes from the L1 cache, 30 of 128 bytes a clock, because a warp uses each vector of
 * it for WEIGHT_ROWS rows of w.
 */
#include "vectors.cuh"

#define THREADS 256
#define WARPS (THREADS / 32)

/*
 * A lane's share of 32 * count consecutive elements of a row: a vector, or where rows are not aligned to vectors single elements
 * that are 32 apart. Its first element is first(lane), the others are place(j) behind that.
 */
template <typename T, bool VECTORS>
struct strip {
  static constexpr int count = lanes<T>::count;
  uint4 bits;
  static RM_CALL int first(int lane) { return lane * count; }
  static RM_CALL int place(int j) { return j; }
  RM_CALL void load(const T *p) { bits = load16(p); }
  RM_CALL void load_once(const T *p) { bits = load16_once(p); }
  /* From element k on of a row of n; zeros past its end. */
  RM_CALL void load_part(const T *row, i64 k, i64 n) {
    bits = k < n ? load16(row + k) : make_uint4(0, 0, 0, 0);
  }
  /* Past the end of the row anything of it: no load waits for a branch. */
  RM_CALL void load_within(const T *row, i64 k, i64 n) { load_once(row + min(k, n - count)); }
  RM_CALL void floats(float (&x)[count]) const { unpack(bits, x); }
};

template <typename T>
struct strip<T, false> {
  static constexpr int count = 4;
  float value[count];
  static RM_CALL int first(int lane) { return lane; }
  static RM_CALL int place(int j) { return 32 * j; }
  RM_CALL void load(const T *p) {
#pragma unroll
    for (int j = 0; j < count; j++) value[j] = widen(p[32 * j]);
  }
  RM_CALL void load_once(const T *p) { load(p); }
  RM_CALL void load_part(const T *row, i64 k, i64 n) {
#pragma unroll
    for (int j = 0; j < count; j++) value[j] = k + 32 * j < n ? widen(row[k + 32 * j]) : 0.0f;
  }
  RM_CALL void load_within(const T *row, i64 k, i64 n) {
#pragma unroll
    for (int j = 0; j < count; j++) value[j] = widen(row[min(k + 32 * j, n - 1)]);
  }
  RM_CALL void floats(float (&x)[count]) const {
#pragma unroll
    for (int j = 0; j < count; j++) x[j] = value[j];
  }
};

/* ---- y = x w^T ---- */

/* Rows of w that a warp takes together. */
#define WEIGHT_ROWS 4

/*
 * N <= 32 sums over a warp at once: in each step a lane hands over half of its values, N - 1 exchanges in all until one is
 * left. Lane i * (32 / N) gets the sum of v[i], as a tree of fixed shape. v is used up.
 */
template <int N, int OFFSET = 16>
RM_DEVICE float warp_sums(float *v, int lane) {
  if constexpr (OFFSET == 0) {
    return v[0];
  } else if constexpr (N == 1) {
    v[0] += __shfl_xor_sync(0xffffffffu, v[0], OFFSET);
    return warp_sums<1, OFFSET / 2>(v, lane);
  } else {
    const bool upper = (lane & OFFSET) != 0;
#pragma unroll
    for (int i = 0; i < N / 2; i++) {
      const float keep = upper ? v[i + N / 2] : v[i], give = upper ? v[i] : v[i + N / 2];
      v[i] = keep + __shfl_xor_sync(0xffffffffu, give, OFFSET);
    }
    return warp_sums<N / 2, OFFSET / 2>(v, lane);
  }
}

/* sum[c * ROWS + r] += x_r . w_c for strips of ROWS rows of x, each as `load_x(r)` gives it, and WEIGHT_ROWS rows of w. */
template <int ROWS, typename P, typename Load>
RM_DEVICE void add_products(const Load &load_x, const P (&w)[WEIGHT_ROWS],
                            float (&sum)[WEIGHT_ROWS * ROWS]) {
  float wc[WEIGHT_ROWS][P::count];
#pragma unroll
  for (int c = 0; c < WEIGHT_ROWS; c++) w[c].floats(wc[c]);
#pragma unroll
  for (int r = 0; r < ROWS; r++) {
    float xr[P::count];
    load_x(r).floats(xr);
#pragma unroll
    for (int c = 0; c < WEIGHT_ROWS; c++)
#pragma unroll
      for (int j = 0; j < P::count; j++) sum[c * ROWS + r] += xr[j] * wc[c][j];
  }
}

/*
 * Each warp forms ROWS x WEIGHT_ROWS dots; ROWS >= M, those past M repeat the last row. The next vectors of w are on their
 * way while the last are used: 2 KiB for each of 16 warps on a multiprocessor, twice what latency asks for.
 */
template <typename T, int ROWS, bool VECTORS>
RM_DEVICE void linear(const T *x, const T *w, T *y, int M, i64 O, i64 I) {
  using piece = strip<T, VECTORS>;
  constexpr int STEP = 32 * piece::count, SUMS = WEIGHT_ROWS * ROWS;
  const int lane = threadIdx.x & 31, first = piece::first(lane);
  const i64 o = ((i64)blockIdx.x * WARPS + (threadIdx.x >> 5)) * WEIGHT_ROWS;
  if (o >= O) return;
  const int last = (int)min((i64)(WEIGHT_ROWS - 1), O - 1 - o);
  w += o * I;

  float sum[SUMS];
#pragma unroll
  for (int s = 0; s < SUMS; s++) sum[s] = 0.0f;
  piece ahead[WEIGHT_ROWS];
  if (STEP <= I) {
#pragma unroll
    for (int c = 0; c < WEIGHT_ROWS; c++) ahead[c].load_once(w + min(c, last) * I + first);
  }
  i64 k = 0;
  for (; k + STEP <= I; k += STEP) {
    piece here[WEIGHT_ROWS];
#pragma unroll
    for (int c = 0; c < WEIGHT_ROWS; c++) here[c] = ahead[c];
    if (k + 2 * STEP <= I) {
#pragma unroll
      for (int c = 0; c < WEIGHT_ROWS; c++) ahead[c].load_once(w + min(c, last) * I + k + STEP + first);
    }
    add_products<ROWS>(
        [&](int r) {
          piece loaded;
          loaded.load(x + min(r, M - 1) * I + k + first);
          return loaded;
        },
        here, sum);
  }
  if (k < I) {
#pragma unroll
    for (int c = 0; c < WEIGHT_ROWS; c++) ahead[c].load_part(w + min(c, last) * I, k + first, I);
    add_products<ROWS>(
        [&](int r) {
          piece loaded;
          loaded.load_part(x + min(r, M - 1) * I, k + first, I);
          return loaded;
        },
        ahead, sum);
  }

  constexpr int AT_ONCE = SUMS < 32 ? SUMS : 32;
#pragma unroll
  for (int s = 0; s < SUMS; s += AT_ONCE) {
    const float total = warp_sums<AT_ONCE>(sum + s, lane);
    const int i = s + lane / (32 / AT_ONCE), c = i / ROWS, r = i % ROWS;
    if (lane % (32 / AT_ONCE) == 0 && r < M && o + c < O) store(y + r * O + o + c, total);
  }
}

#define LINEAR(T, NAME, ROWS)                                                                     \
  RM_KERNEL __launch_bounds__(THREADS, 2)                                                         \
      rm_linear_##NAME##_##ROWS(const T *x, const T *w, T *y, int M, i64 O, i64 I) {              \
    linear<T, ROWS, true>(x, w, y, M, O, I);                                                      \
  }
#define LINEAR_ODD(T, NAME, ROWS)                                                                 \
  RM_KERNEL __launch_bounds__(THREADS, ROWS > 8 ? 1 : 2)                                          \
      rm_linear_##NAME##_##ROWS##_odd(const T *x, const T *w, T *y, int M, i64 O, i64 I) {        \
    linear<T, ROWS, false>(x, w, y, M, O, I);                                                     \
  }
LINEAR(float, f32, 1)
LINEAR(float, f32, 4)
LINEAR(float, f32, 8)
LINEAR(float, f32, 16)
LINEAR_ODD(float, f32, 8)
LINEAR_ODD(float, f32, 16)
LINEAR(bf16, bf16, 8)
LINEAR_ODD(bf16, bf16, 8)

/* ---- dx = dy w ---- */

/* Rows of w whose vectors a warp has in flight. */
#define IN_FLIGHT 8
/* Sums that a block puts together at once: 32 KiB. */
#define SHARED_SUMS 8192

/* sum[r] += d[q * ROWS + r] w[q] for N rows of w. */
template <typename P, int ROWS, int N>
RM_DEVICE void add_rows(const float *d, const P (&w)[N], float (&sum)[ROWS][P::count]) {
#pragma unroll
  for (int q = 0; q < N; q++) {
    float wq[P::count];
    w[q].floats(wq);
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
      const float dr = d[q * ROWS + r];
#pragma unroll
      for (int j = 0; j < P::count; j++) sum[r][j] += dr * wq[j];
    }
  }
}

/*
 * A block forms ROWS x 32 * count sums over `span` rows of w, its warps taking 32 of them in turns; ROWS >= M. A lane keeps the
 * sums of its columns in registers, and dy, the same for all columns, comes from shared memory, four values in a load.
 * The warps' sums are then added in order. Blocks along a row of w are neighbours, so that they read whole rows together.
 * With several spans the sums go to parts(spans, M, I).
 */
template <typename T, int ROWS, bool VECTORS>
RM_DEVICE void linear_dx(const T *dy, const T *w, T *dx, float *parts, int M, i64 O, i64 I, i64 span) {
  using piece = strip<T, VECTORS>;
  constexpr int V = piece::count, COLUMNS = 32 * V;
  __shared__ __align__(16) float shared[SHARED_SUMS];
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const i64 across = (I + COLUMNS - 1) / COLUMNS, part = blockIdx.x / across;
  const i64 first = (blockIdx.x - part * across) * COLUMNS, i = first + piece::first(lane);
  const i64 begin = part * span, end = min(begin + span, O);

  float sum[ROWS][V];
#pragma unroll
  for (int r = 0; r < ROWS; r++)
#pragma unroll
    for (int j = 0; j < V; j++) sum[r][j] = 0.0f;
  float *staged = shared + warp * (32 * ROWS);
  for (i64 o = begin + warp * 32; o < end; o += THREADS) {
    __syncwarp();
#pragma unroll
    for (int r = 0; r < ROWS; r++)
      staged[lane * ROWS + r] = r < M && o + lane < end ? widen(dy[r * O + o + lane]) : 0.0f;
    __syncwarp();
    const int rows = (int)min((i64)32, end - o);
    const T *from = w + o * I;
    int u = 0;
#pragma unroll 1
    for (; u + IN_FLIGHT <= rows; u += IN_FLIGHT) {
      piece loaded[IN_FLIGHT];
#pragma unroll
      for (int q = 0; q < IN_FLIGHT; q++) loaded[q].load_within(from + (u + q) * I, i, I);
      after_loads();
      add_rows(staged + u * ROWS, loaded, sum);
    }
#pragma unroll 1
    for (; u < rows; u++) {
      piece loaded[1];
      loaded[0].load_within(from + u * I, i, I);
      add_rows(staged + u * ROWS, loaded, sum);
    }
  }

  constexpr int MOST = SHARED_SUMS / (WARPS * COLUMNS), PASS = ROWS < MOST ? ROWS : MOST;
#pragma unroll
  for (int r0 = 0; r0 < ROWS; r0 += PASS) {
    __syncthreads();
#pragma unroll
    for (int r = 0; r < PASS; r++)
#pragma unroll
      for (int j = 0; j < V; j++)
        shared[(warp * PASS + r) * COLUMNS + piece::first(lane) + piece::place(j)] = sum[r0 + r][j];
    __syncthreads();
    for (int e = threadIdx.x; e < PASS * COLUMNS; e += THREADS) {
      float total = 0.0f;
#pragma unroll
      for (int s = 0; s < WARPS; s++) total += shared[s * PASS * COLUMNS + e];
      const int r = r0 + e / COLUMNS;
      const i64 column = first + e % COLUMNS;
      if (r < M && column < I) {
        if (parts)
          parts[(part * M + r) * I + column] = total;
        else
          store(dx + r * I + column, total);
      }
    }
  }
}

#define LINEAR_DX(T, NAME, ROWS)                                                                  \
  RM_KERNEL __launch_bounds__(THREADS, 2)                                                         \
      rm_linear_dx_##NAME##_##ROWS(const T *dy, const T *w, T *dx, float *parts, int M, i64 O,    \
                                   i64 I, i64 span) {                                             \
    linear_dx<T, ROWS, true>(dy, w, dx, parts, M, O, I, span);                                    \
  }
#define LINEAR_DX_ODD(T, NAME, ROWS)                                                              \
  RM_KERNEL __launch_bounds__(THREADS, 2)                                                         \
      rm_linear_dx_##NAME##_##ROWS##_odd(const T *dy, const T *w, T *dx, float *parts, int M,     \
                                         i64 O, i64 I, i64 span) {                                \
    linear_dx<T, ROWS, false>(dy, w, dx, parts, M, O, I, span);                                   \
  }
LINEAR_DX(float, f32, 1)
LINEAR_DX(float, f32, 4)
LINEAR_DX(float, f32, 8)
LINEAR_DX(float, f32, 16)
LINEAR_DX_ODD(float, f32, 8)
LINEAR_DX_ODD(float, f32, 16)
LINEAR_DX(bf16, bf16, 8)
LINEAR_DX_ODD(bf16, bf16, 8)

/* y[e] = the sum of parts(count, n)[.][e], in order. */
template <typename T>
RM_DEVICE void sum_parts(const float *parts, T *y, i64 count, i64 n) {
  const i64 e = (i64)blockIdx.x * THREADS + threadIdx.x;
  if (e >= n) return;
  float total = 0.0f;
#pragma unroll 8
  for (i64 p = 0; p < count; p++) total += parts[p * n + e];
  store(y + e, total);
}
RM_KERNEL rm_linear_dx_sum_f32(const float *parts, float *dx, i64 count, i64 n) {
  sum_parts(parts, dx, count, n);
}
RM_KERNEL rm_linear_dx_sum_bf16(const float *parts, bf16 *dx, i64 count, i64 n) {
  sum_parts(parts, dx, count, n);
}
