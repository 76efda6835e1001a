/*
 * Fills, copies between dtypes, strided copies and transpositions: what moves bytes, in the widest words that fit, and computes
 * nothing.
 */
#include "vectors.cuh"

/* Vectors of one thread of a fill. */
#define VECTORS 4

RM_KERNEL rm_fill(float *y, i64 n, float value) {
  const i64 first = (i64)blockIdx.x * (STREAM_THREADS * VECTORS * 4);
  const unsigned bits = __float_as_uint(value);
  if (aligned16(y)) {
#pragma unroll
    for (int u = 0; u < VECTORS; u++) {
      const i64 e = first + (u * STREAM_THREADS + (int)threadIdx.x) * 4;
      if (e + 4 <= n)
        store16(y + e, make_uint4(bits, bits, bits, bits));
      else
        for (i64 rest = e; rest < n; rest++) y[rest] = value;
    }
  } else {
    for (int u = 0; u < VECTORS * 4; u++) {
      const i64 e = first + u * STREAM_THREADS + (int)threadIdx.x;
      if (e < n) y[e] = value;
    }
  }
}

/* ---- float and bf16 ---- */

/* Elements of one thread: a vector of bf16, two of float. */
#define CAST 8

RM_KERNEL rm_round(const float *x, bf16 *y, i64 n) {
  const i64 e = ((i64)blockIdx.x * STREAM_THREADS + threadIdx.x) * CAST;
  if (e + CAST <= n && aligned16(x) && aligned16(y)) {
    const float4 a = load4(x + e), b = load4(x + e + 4);
    const float value[CAST] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
    store16(y + e, pack(value));
  } else {
#pragma unroll 1
    for (i64 i = e; i < e + CAST && i < n; i++) store(y + i, x[i]);
  }
}

RM_KERNEL rm_widen(const bf16 *x, float *y, i64 n) {
  const i64 e = ((i64)blockIdx.x * STREAM_THREADS + threadIdx.x) * CAST;
  if (e + CAST <= n && aligned16(x) && aligned16(y)) {
    float value[CAST];
    unpack(load16(x + e), value);
    store4(y + e, make_float4(value[0], value[1], value[2], value[3]));
    store4(y + e + 4, make_float4(value[4], value[5], value[6], value[7]));
  } else {
#pragma unroll 1
    for (i64 i = e; i < e + CAST && i < n; i++) y[i] = widen(x[i]);
  }
}

/* ---- rows of bytes ---- */

/* Rows of one thread: that many loads are in flight. */
#define ROWS 4

/* Strides are in bytes, and multiples of a word. */
template <typename W>
RM_DEVICE void copy_rows(char *to, i64 to_stride, const char *from, i64 from_stride, i64 words,
                         i64 rows, int log_lanes) {
  const row_place at = place_of<ROWS>(words, log_lanes);
  if (at.word >= words) return;
  W value[ROWS];
#pragma unroll
  for (int p = 0; p < ROWS; p++) {
    const i64 row = at.row + p * at.step;
    if (row < rows) value[p] = ((const W *)(from + row * from_stride))[at.word];
  }
  after_loads();
#pragma unroll
  for (int p = 0; p < ROWS; p++) {
    const i64 row = at.row + p * at.step;
    if (row < rows) ((W *)(to + row * to_stride))[at.word] = value[p];
  }
}

#define COPY_ROWS(BYTES, W)                                                                       \
  RM_KERNEL rm_copy_rows_##BYTES(char *to, i64 to_stride, const char *from, i64 from_stride,      \
                                 i64 words, i64 rows, int log_lanes) {                            \
    copy_rows<W>(to, to_stride, from, from_stride, words, rows, log_lanes);                       \
  }
COPY_ROWS(1, unsigned char)
COPY_ROWS(2, ushort)
COPY_ROWS(4, unsigned)
COPY_ROWS(8, uint2)
COPY_ROWS(16, uint4)

/* ---- two dims changed for each other: x(O,A,K,B,I) to y(O,B,K,A,I) ---- */

/*
 * Rows of I > 1 elements, moved in `words` words each: row (o, b, k, a) of y, where they lie one after another, is row
 * (o, a, k, b) of x. U counts rows: 32 bits wherever they do, since a thread divides by three sizes.
 */
template <typename W, typename U>
RM_DEVICE void transpose_rows(const W *x, W *y, i64 rows, U A, U K, U B, i64 words, int log_lanes) {
  const row_place at = place_of<ROWS>(words, log_lanes);
  if (at.word >= words) return;
  W value[ROWS];
#pragma unroll
  for (int p = 0; p < ROWS; p++) {
    const i64 row = at.row + p * at.step;
    if (row < rows) {
      const U a = (U)row % A, oba = (U)row / A, k = oba % K, ob = oba / K, b = ob % B, o = ob / B;
      value[p] = x[(((o * A + a) * K + k) * B + b) * words + at.word];
    }
  }
  after_loads();
#pragma unroll
  for (int p = 0; p < ROWS; p++) {
    const i64 row = at.row + p * at.step;
    if (row < rows) y[row * words + at.word] = value[p];
  }
}

#define TRANSPOSE_ROWS(BYTES, W)                                                                  \
  RM_KERNEL rm_transpose_rows_##BYTES(const W *x, W *y, i64 rows, i64 A, i64 K, i64 B, i64 words, \
                                      int log_lanes) {                                            \
    if (rows <= 0x7fffffff)                                                                       \
      transpose_rows<W, unsigned>(x, y, rows, (unsigned)A, (unsigned)K, (unsigned)B, words,       \
                                  log_lanes);                                                     \
    else                                                                                          \
      transpose_rows<W, u64>(x, y, rows, (u64)A, (u64)K, (u64)B, words, log_lanes);               \
  }
TRANSPOSE_ROWS(2, ushort)
TRANSPOSE_ROWS(4, unsigned)
TRANSPOSE_ROWS(8, uint2)
TRANSPOSE_ROWS(16, uint4)

/*
 * I = 1: planes (o, k), tile by tile through shared memory, so that both sides move whole lines of a tile. A tile is 128
 * bytes wide; its rows are padded by one bank.
 */
template <typename W>
RM_DEVICE void transpose_tiles(const W *x, W *y, i64 A, i64 K, i64 B) {
  constexpr int TILE = 128 / sizeof(W), PAD = 4 / sizeof(W), LINES = STREAM_THREADS / 32;
  __shared__ W tile[TILE][TILE + PAD];
  const i64 down = (A + TILE - 1) / TILE, across = (B + TILE - 1) / TILE;
  const i64 plane = blockIdx.x / (down * across), rest = blockIdx.x - plane * (down * across);
  const i64 o = plane / K, k = plane - o * K;
  const i64 a0 = rest / across * TILE, b0 = rest % across * TILE;
  const int lane = threadIdx.x & 31, line = threadIdx.x >> 5;
  x += (o * A * K + k) * B;
  y += (o * B * K + k) * A;
  W value[TILE / LINES][TILE / 32] = {};
#pragma unroll
  for (int i = 0; i < TILE / LINES; i++)
#pragma unroll
    for (int j = 0; j < TILE / 32; j++) {
      const i64 a = a0 + line + i * LINES, b = b0 + lane + j * 32;
      if (a < A && b < B) value[i][j] = x[a * K * B + b];
    }
  after_loads();
#pragma unroll
  for (int i = 0; i < TILE / LINES; i++)
#pragma unroll
    for (int j = 0; j < TILE / 32; j++) tile[line + i * LINES][lane + j * 32] = value[i][j];
  __syncthreads();
#pragma unroll
  for (int i = 0; i < TILE; i += LINES)
#pragma unroll
    for (int j = 0; j < TILE; j += 32) {
      const i64 b = b0 + line + i, a = a0 + lane + j;
      if (a < A && b < B) y[b * K * A + a] = tile[lane + j][line + i];
    }
}

RM_KERNEL rm_transpose_tiles_2(const ushort *x, ushort *y, i64 A, i64 K, i64 B) {
  transpose_tiles<ushort>(x, y, A, K, B);
}
RM_KERNEL rm_transpose_tiles_4(const unsigned *x, unsigned *y, i64 A, i64 K, i64 B) {
  transpose_tiles<unsigned>(x, y, A, K, B);
}
