/* y(M,O) = x + b(O), and the gradient of b: the sums of the columns of dy(M,O). b and its gradient are float. */
#include "vectors.cuh"

/* V neighbouring elements as floats: a vector, or one. */
template <typename T, int V>
struct group {
  uint4 held;
  RM_CALL void load(const T *p) { held = load16(p); }
  RM_CALL void read(float (&x)[V]) const { unpack(held, x); }
  static RM_CALL void write(T *p, const float (&x)[V]) { store16(p, pack(x)); }
};

template <typename T>
struct group<T, 1> {
  T held;
  RM_CALL void load(const T *p) { held = *p; }
  RM_CALL void read(float (&x)[1]) const { x[0] = widen(held); }
  static RM_CALL void write(T *p, const float (&x)[1]) { store(p, x[0]); }
};

/* Rows that a thread has in flight. */
#define ROWS 4

/* A thread keeps its columns of b and adds them to ROWS rows. O is a multiple of V. y may be x. */
template <typename T, int V>
RM_DEVICE void bias(const T *x, const float *b, T *y, i64 M, i64 O, int log_lanes) {
  const row_place at = place_of<ROWS>(O / V, log_lanes);
  const i64 column = at.word * V;
  if (column >= O) return;
  group<T, V> loaded[ROWS];
#pragma unroll
  for (int p = 0; p < ROWS; p++) {
    const i64 row = at.row + p * at.step;
    if (row < M) loaded[p].load(x + row * O + column);
  }
  float shift[V];
#pragma unroll
  for (int j = 0; j < V; j++) shift[j] = b[column + j];
  after_loads();
#pragma unroll
  for (int p = 0; p < ROWS; p++) {
    const i64 row = at.row + p * at.step;
    if (row >= M) continue;
    float value[V];
    loaded[p].read(value);
#pragma unroll
    for (int j = 0; j < V; j++) value[j] += shift[j];
    group<T, V>::write(y + row * O + column, value);
  }
}

/* ---- sums of columns ---- */

/* A block has 32 neighbouring groups of columns, and LINES rows of them at a time. */
#define LINES (STREAM_THREADS / 32)

/* Sum of ROWS values of a column. bf16 values have 8 bits, so that a float holds their sum as well as a double would. */
template <typename T>
RM_DEVICE double sum_of_rows(float a, float b, float c, float d) {
  if constexpr (sizeof(T) == 2) return (double)((a + b) + (c + d));
  return ((double)a + (double)b) + ((double)c + (double)d);
}

/*
 * Sums over rows [chunk * rows, + rows) of columns: db where `parts` is null (there is one chunk then), else parts[chunk][O].
 * The order is that of the sizes alone: rows of a thread, lines of a block, chunks.
 */
template <typename T, int V>
RM_DEVICE void bias_db(const T *dy, float *db, double *parts, i64 M, i64 O, i64 rows) {
  __shared__ double sums[LINES][V][32];
  const i64 across = (O / V + 31) / 32, chunk = blockIdx.x / across;
  const i64 left = (blockIdx.x - chunk * across) * 32 * V;
  const int lane = threadIdx.x & 31, line = threadIdx.x >> 5;
  const i64 column = left + lane * V, last = min(M, (chunk + 1) * rows);
  double sum[V];
#pragma unroll
  for (int j = 0; j < V; j++) sum[j] = 0.0;
  if (column < O) {
    for (i64 row = chunk * rows + line; row < last; row += LINES * ROWS) {
      group<T, V> loaded[ROWS];
#pragma unroll
      for (int p = 0; p < ROWS; p++)
        if (row + p * LINES < last) loaded[p].load(dy + (row + p * LINES) * O + column);
      after_loads();
      float value[ROWS][V];
#pragma unroll
      for (int p = 0; p < ROWS; p++) {
        if (row + p * LINES < last) {
          loaded[p].read(value[p]);
        } else {
#pragma unroll
          for (int j = 0; j < V; j++) value[p][j] = 0.0f;
        }
      }
#pragma unroll
      for (int j = 0; j < V; j++)
        sum[j] += sum_of_rows<T>(value[0][j], value[1][j], value[2][j], value[3][j]);
    }
  }
#pragma unroll
  for (int j = 0; j < V; j++) sums[line][j][lane] = sum[j];
  __syncthreads();
  for (int c = threadIdx.x; c < 32 * V; c += STREAM_THREADS) {
    const i64 o = left + (c & 31) * V + (c >> 5);
    if (o >= O) continue;
    double total = 0.0;
#pragma unroll
    for (int i = 0; i < LINES; i++) total += sums[i][c >> 5][c & 31];
    if (parts == nullptr)
      db[o] = (float)total;
    else
      parts[chunk * O + o] = total;
  }
}

RM_KERNEL rm_bias_db_parts(const double *parts, float *db, i64 chunks, i64 O) {
  const i64 o = (i64)blockIdx.x * STREAM_THREADS + threadIdx.x;
  if (o >= O) return;
  double sum = 0.0;
#pragma unroll 8
  for (i64 chunk = 0; chunk < chunks; chunk++) sum += parts[chunk * O + o];
  db[o] = (float)sum;
}

/* `vectors` says that rows are whole vectors, at multiples of 16 bytes. */
#define BIAS(T, SUFFIX)                                                                           \
  RM_KERNEL rm_bias_##SUFFIX(const T *x, const float *b, T *y, i64 M, i64 O, int log_lanes,       \
                             int vectors) {                                                       \
    if (vectors)                                                                                  \
      bias<T, lanes<T>::count>(x, b, y, M, O, log_lanes);                                         \
    else                                                                                          \
      bias<T, 1>(x, b, y, M, O, log_lanes);                                                       \
  }                                                                                               \
  RM_KERNEL rm_bias_db_##SUFFIX(const T *dy, float *db, double *parts, i64 M, i64 O, i64 rows,    \
                                int vectors) {                                                    \
    if (vectors)                                                                                  \
      bias_db<T, lanes<T>::count>(dy, db, parts, M, O, rows);                                     \
    else                                                                                          \
      bias_db<T, 1>(dy, db, parts, M, O, rows);                                                   \
  }
BIAS(float, f32)
BIAS(bf16, bf16)
