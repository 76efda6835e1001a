/*
 * Attention without tensor cores: tiles of float in shared memory, rows as in device memory, and two products of such
 * tiles. Both read 16 bytes at a time along the sum, so that nothing is ever transposed, and both keep their result
 * in registers.
 *
 * A warp is 4 x 8 lanes: of a tile of results a thread has rows y + Y * i and columns x + 8 * j, so that one access
 * of a warp touches 4 neighbouring rows of the left factor (the 8 lanes of a row read the same words) or 8 of the
 * right one. Rows are an odd number of 16-byte units apart, which lets either be one pass over the banks. A thread's
 * r rows and c columns then take r + c accesses for 4 r c multiply-adds: with 4 x 4 shared memory is busy half of the
 * time that arithmetic is.
 */
#pragma once
#include "attention.cuh"

/* Lanes of a warp along the columns. */
#define ACROSS 8

/* Columns of a tile with n features: those from n on are zeros. */
RM_DEVICE int padded(int n) { return (n + 7) / 8 * 8; }

/* Floats from one row of a tile to the next. */
RM_DEVICE int row_floats(int n) { return padded(n) + 4; }

/* Y threads along the rows with R rows each, ACROSS along the columns with C each; heads of at most N features. */
template <int N_, int Y_, int R_, int C_>
struct tiling {
  static constexpr int N = N_, Y = Y_, R = R_, C = C_;
  static constexpr int threads = Y * ACROSS;
  /* Rows of the tile that a block owns, and of those that stream by. */
  static constexpr int own = Y * R, stream = ACROSS * C;
  /* Vectors of 4 features of a thread, where results are (own, N). */
  static constexpr int vectors = N / (4 * ACROSS);
  static constexpr int weight_floats = 4 * ((stream / 4) | 1);
  int x, y;
};

template <typename S>
RM_DEVICE S tiling_of_thread() {
  S s;
  s.x = threadIdx.x % ACROSS;
  s.y = threadIdx.x / ACROSS;
  return s;
}

/* Whether rows of n elements from here on may be read and written by four. */
RM_DEVICE bool by_four(const float *p, int n) { return n % 4 == 0 && aligned16(p); }
RM_DEVICE bool by_four(const bf16 *p, int n) { return n % 4 == 0 && aligned8(p); }

/*
 * tile(ROWS, padded n) = x(count, n), whose rows are `stride` apart; rows from `count` on become zeros. Neighbouring
 * threads read along a row, and each has several reads under way before it writes.
 */
template <int ROWS, typename S, typename T>
RM_DEVICE void load_tile(float *tile, const T *x, i64 stride, int count, int n) {
  constexpr int lanes = S::N >= 128 ? 32 : 16, step = S::threads / lanes;
  constexpr int batch = ROWS / step >= 4 ? 4 : ROWS / step >= 1 ? ROWS / step : 1;
  const int floats = row_floats(n), lane = threadIdx.x % lanes, first = threadIdx.x / lanes;
  if (!by_four(x, n)) {
#pragma unroll 1
    for (int r = first; r < ROWS; r += step)
#pragma unroll 1
      for (int column = lane; column < padded(n); column += lanes)
        tile[r * floats + column] = r < count && column < n ? widen(x[r * stride + column]) : 0;
    return;
  }
#pragma unroll 1
  for (int column = 4 * lane; column < padded(n); column += 4 * lanes)
#pragma unroll 1
    for (int r0 = first; r0 < ROWS; r0 += step * batch) {
      float4 v[batch];
#pragma unroll
      for (int i = 0; i < batch; i++) {
        const int r = r0 + i * step;
        v[i] = r < count && column < n ? load4(x + r * stride + column) : make_float4(0, 0, 0, 0);
      }
#pragma unroll
      for (int i = 0; i < batch; i++)
        if (r0 + i * step < ROWS) *(float4 *)(tile + (r0 + i * step) * floats + column) = v[i];
    }
}

/* The inverse: x(count, n) = the tile's rows. */
template <typename S, typename T>
RM_DEVICE void store_tile(const float *tile, T *x, i64 stride, int count, int n) {
  constexpr int lanes = S::N >= 128 ? 32 : 16, step = S::threads / lanes;
  const bool by_vectors = by_four(x, n);
  const int floats = row_floats(n), lane = threadIdx.x % lanes, width = by_vectors ? 4 : 1;
#pragma unroll 1
  for (int r = threadIdx.x / lanes; r < count; r += step)
#pragma unroll 1
    for (int column = width * lane; column < n; column += width * lanes) {
      const float *from = tile + r * floats + column;
      T *to = x + r * stride + column;
      if (by_vectors)
        store4(to, *(const float4 *)from);
      else
        store(to, *from);
    }
}

/*
 * 16 bytes of shared memory in one access. Asked for in so many words: for a plain float4 the compiler may read parts
 * of it twice to save registers, and does so in some of its runs, so that the code that is committed would differ
 * from what others build.
 */
RM_DEVICE float4 shared_vector(const float *p) {
#ifdef __CUDACC__
  float4 v;
  asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
               : "r"((unsigned)__cvta_generic_to_shared(p))
               : "memory");
  return v;
#else
  return *(const float4 *)p;
#endif
}

/* s(own, stream) = a(own, n) b(stream, n)^T */
template <typename S>
RM_DEVICE void times_transposed(float (&s)[S::R][S::C], const S &t, const float *a, const float *b, int n) {
  const int floats = row_floats(n);
#pragma unroll
  for (int i = 0; i < S::R; i++)
#pragma unroll
    for (int j = 0; j < S::C; j++) s[i][j] = 0;
  a += t.y * floats;
  b += t.x * floats;
#pragma unroll 1
  for (int k = 0; k < n; k += 8)
#pragma unroll
    for (int half = 0; half < 8; half += 4) {
      float4 ak[S::R];
#pragma unroll
      for (int i = 0; i < S::R; i++) ak[i] = shared_vector(a + i * S::Y * floats + k + half);
#pragma unroll
      for (int j = 0; j < S::C; j++) {
        const float4 bk = shared_vector(b + j * ACROSS * floats + k + half);
#pragma unroll
        for (int i = 0; i < S::R; i++) {
          s[i][j] = fmaf(ak[i].x, bk.x, s[i][j]);
          s[i][j] = fmaf(ak[i].y, bk.y, s[i][j]);
          s[i][j] = fmaf(ak[i].z, bk.z, s[i][j]);
          s[i][j] = fmaf(ak[i].w, bk.w, s[i][j]);
        }
      }
    }
}

template <typename S>
using accumulator = float4[S::R][S::vectors];

/* A float tile of weights(own, stream), written by the warp that reads it. */
template <typename S>
RM_DEVICE void keep_weights(float *weights, const S &t, const float (&s)[S::R][S::C]) {
#pragma unroll
  for (int i = 0; i < S::R; i++)
#pragma unroll
    for (int j = 0; j < S::C; j++) weights[(t.y + i * S::Y) * S::weight_floats + t.x + j * ACROSS] = s[i][j];
}

RM_DEVICE void add_product(float4 &sum, float a, float4 b) {
  sum.x = fmaf(a, b.x, sum.x);
  sum.y = fmaf(a, b.y, sum.y);
  sum.z = fmaf(a, b.z, sum.z);
  sum.w = fmaf(a, b.w, sum.w);
}

/* sum(own, n) += weights(own, stream) b(stream, n). Lanes past the columns repeat the last one's work. */
template <typename S>
RM_DEVICE void add_weighted(accumulator<S> &sum, const S &t, const float *weights, const float *b, int n) {
  const int floats = row_floats(n), last = (n - 1) / 4;
  const float *columns[S::vectors];
#pragma unroll
  for (int g = 0; g < S::vectors; g++) columns[g] = b + 4 * min(t.x + g * ACROSS, last);
  weights += t.y * S::weight_floats;
#pragma unroll 1
  for (int k = 0; k < S::stream; k += 4) {
    float4 w[S::R];
#pragma unroll
    for (int i = 0; i < S::R; i++) w[i] = shared_vector(weights + i * S::Y * S::weight_floats + k);
#pragma unroll
    for (int e = 0; e < 4; e++)
#pragma unroll
      for (int g = 0; g < S::vectors; g++) {
        const float4 bk = shared_vector(columns[g] + (k + e) * floats);
#pragma unroll
        for (int i = 0; i < S::R; i++)
          add_product(sum[i][g], e == 0 ? w[i].x : e == 1 ? w[i].y : e == 2 ? w[i].z : w[i].w, bk);
      }
  }
}

template <typename S>
RM_DEVICE void clear(accumulator<S> &sum) {
#pragma unroll
  for (int i = 0; i < S::R; i++)
#pragma unroll
    for (int g = 0; g < S::vectors; g++) sum[i][g] = make_float4(0, 0, 0, 0);
}

/*
 * x(count, n) = sum, row i times factor[i]; rows of x are `stride` apart. By way of a tile that nobody reads any
 * more, so that whole rows are written at a time.
 */
template <typename S, typename T>
RM_DEVICE void store_rows(T *x, i64 stride, int count, int n, const S &t, const accumulator<S> &sum,
                          const float (&factor)[S::R], float *tile) {
  const int floats = row_floats(n);
#pragma unroll
  for (int i = 0; i < S::R; i++)
#pragma unroll
    for (int g = 0; g < S::vectors; g++) {
      const int column = 4 * (t.x + g * ACROSS);
      const float4 v = sum[i][g];
      if (column < n)
        *(float4 *)(tile + (t.y + i * S::Y) * floats + column) =
            make_float4(v.x * factor[i], v.y * factor[i], v.z * factor[i], v.w * factor[i]);
    }
  __syncthreads();
  store_tile<S>(tile, x, stride, count, n);
}

/* Over the threads of a row of results, in each of them. */
RM_DEVICE float row_max(float v) {
#pragma unroll
  for (int o = ACROSS / 2; o > 0; o >>= 1) v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, o));
  return v;
}

RM_DEVICE float row_sum(float v) {
#pragma unroll
  for (int o = ACROSS / 2; o > 0; o >>= 1) v += __shfl_xor_sync(0xffffffffu, v, o);
  return v;
}
