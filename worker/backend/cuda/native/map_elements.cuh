/*
 * The frame of elementwise kernels. They are bound by memory: a thread has the loads of all its elements in flight, 16 bytes
 * each, before it stores any, also because outputs may be the very bytes of an input. An element's bits do not depend on its
 * place: vectors and single elements go through the same function.
 */
#pragma once
#include "vectors.cuh"

/* Elements of one thread; the host counts blocks of STREAM_THREADS times as many. */
#define ELEMENTS 8

/* Pointers to one element type, by value. */
template <typename T, int COUNT>
struct operands {
  T *at[COUNT];
};

template <typename T, int COUNT>
RM_DEVICE bool all_aligned16(const operands<T, COUNT> &o) {
  bool aligned = true;
#pragma unroll
  for (int k = 0; k < COUNT; k++) aligned = aligned && aligned16(o.at[k]);
  return aligned;
}

/* out[k][e] = f(in[.][e])[k]; `f(a, r)` gets the inputs' elements and sets the results. */
template <typename T, int IN, int OUT, typename F>
RM_DEVICE void map_one(const operands<const T, IN> &in, const operands<T, OUT> &out, i64 e, const F &f) {
  float a[IN], r[OUT];
#pragma unroll
  for (int k = 0; k < IN; k++) a[k] = widen(in.at[k][e]);
  f(a, r);
#pragma unroll
  for (int k = 0; k < OUT; k++) store(out.at[k] + e, r[k]);
}

template <typename T, int IN, int OUT, typename F>
RM_DEVICE void map_elements(const operands<const T, IN> in, const operands<T, OUT> out, i64 n,
                            const F f) {
  constexpr int V = lanes<T>::count, VECTORS = ELEMENTS / V;
  const i64 first = (i64)blockIdx.x * (STREAM_THREADS * ELEMENTS);
  if (all_aligned16(in) && all_aligned16(out)) {
    uint4 loaded[VECTORS][IN];
#pragma unroll
    for (int u = 0; u < VECTORS; u++) {
      const i64 e = first + (u * STREAM_THREADS + (int)threadIdx.x) * V;
#pragma unroll
      for (int k = 0; k < IN; k++)
        if (e + V <= n) loaded[u][k] = load16(in.at[k] + e);
    }
    after_loads();
#pragma unroll
    for (int u = 0; u < VECTORS; u++) {
      const i64 e = first + (u * STREAM_THREADS + (int)threadIdx.x) * V;
      if (e + V <= n) {
        float a[IN][V], r[OUT][V];
#pragma unroll
        for (int k = 0; k < IN; k++) unpack(loaded[u][k], a[k]);
#pragma unroll
        for (int j = 0; j < V; j++) {
          float aj[IN], rj[OUT];
#pragma unroll
          for (int k = 0; k < IN; k++) aj[k] = a[k][j];
          f(aj, rj);
#pragma unroll
          for (int k = 0; k < OUT; k++) r[k][j] = rj[k];
        }
#pragma unroll
        for (int k = 0; k < OUT; k++) store16(out.at[k] + e, pack(r[k]));
      } else {
#pragma unroll 1
        for (i64 rest = e; rest < n; rest++) map_one(in, out, rest, f);
      }
    }
  } else {
#pragma unroll 1
    for (int u = 0; u < ELEMENTS; u++) {
      const i64 e = first + u * STREAM_THREADS + (int)threadIdx.x;
      if (e < n) map_one(in, out, e, f);
    }
  }
}
