/*
 * Sums of several tensors, from the first to the last. The table of operands travels by value: no memory holds it, and a
 * recorded launch needs none either. y may be any of the operands.
 */
#include "vectors.cuh"

/* Elements of one thread; the host counts blocks of STREAM_THREADS times as many. */
#define ELEMENTS 8

/* Sizes of tables: most sums are short, and a launch copies its arguments, of which 4096 bytes are the limit. */
#define FEW 16
#define MANY 480

template <typename T, int MOST>
struct operand_table {
  const T *x[MOST];
  u64 count;
};

/* `vectors` says that all addresses are multiples of 16. */
template <typename T, int MOST>
RM_DEVICE void add_n(const operand_table<T, MOST> &table, T *y, i64 n, int vectors) {
  constexpr int V = lanes<T>::count, VECTORS = ELEMENTS / V;
  const int count = (int)table.count;
  const i64 first = (i64)blockIdx.x * (STREAM_THREADS * ELEMENTS);
  if (vectors && first + STREAM_THREADS * ELEMENTS <= n) {
    float sum[VECTORS][V];
#pragma unroll
    for (int u = 0; u < VECTORS; u++)
      unpack(load16(table.x[0] + first + (u * STREAM_THREADS + (int)threadIdx.x) * V), sum[u]);
#pragma unroll 4
    for (int k = 1; k < count; k++) {
#pragma unroll
      for (int u = 0; u < VECTORS; u++) {
        float x[V];
        unpack(load16(table.x[k] + first + (u * STREAM_THREADS + (int)threadIdx.x) * V), x);
#pragma unroll
        for (int j = 0; j < V; j++) sum[u][j] += x[j];
      }
    }
#pragma unroll
    for (int u = 0; u < VECTORS; u++)
      store16(y + first + (u * STREAM_THREADS + (int)threadIdx.x) * V, pack(sum[u]));
  } else {
#pragma unroll 1
    for (int u = 0; u < ELEMENTS; u++) {
      const i64 e = first + u * STREAM_THREADS + (int)threadIdx.x;
      if (e >= n) continue;
      float sum = widen(table.x[0][e]);
      for (int k = 1; k < count; k++) sum += widen(table.x[k][e]);
      store(y + e, sum);
    }
  }
}

/* Doubles are scalars and other short values: an element a thread. */
template <int MOST>
RM_DEVICE void add_n_double(const operand_table<double, MOST> &table, double *y, i64 n) {
  const i64 e = (i64)blockIdx.x * STREAM_THREADS + threadIdx.x;
  if (e >= n) return;
  double sum = table.x[0][e];
#pragma unroll 4
  for (int k = 1; k < (int)table.count; k++) sum += table.x[k][e];
  y[e] = sum;
}

#define ADD_N(SIZE, MOST)                                                                         \
  RM_KERNEL rm_add_##SIZE##_f32(operand_table<float, MOST> x, float *y, i64 n, int vectors) {     \
    add_n(x, y, n, vectors);                                                                      \
  }                                                                                               \
  RM_KERNEL rm_add_##SIZE##_bf16(operand_table<bf16, MOST> x, bf16 *y, i64 n, int vectors) {      \
    add_n(x, y, n, vectors);                                                                      \
  }                                                                                               \
  RM_KERNEL rm_add_##SIZE##_f64(operand_table<double, MOST> x, double *y, i64 n) {                \
    add_n_double(x, y, n);                                                                        \
  }
ADD_N(few, FEW)
ADD_N(many, MANY)
