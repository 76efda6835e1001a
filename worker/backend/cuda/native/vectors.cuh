/*
 * Vectors of 16 bytes, the widest access of a thread: 4 floats or 8 bf16. They travel as loaded; sums and products are of
 * floats.
 */
#pragma once
#include "common.cuh"

/* Threads of a block of the kernels that stream. */
#define STREAM_THREADS 256

template <typename T>
struct lanes {
  static constexpr int count = 16 / (int)sizeof(T);
};

RM_DEVICE uint4 load16(const void *p) { return *(const uint4 *)p; }
RM_DEVICE void store16(void *p, uint4 v) { *(uint4 *)p = v; }

/* Keeps all loads before it there: the compiler would move each down to its use, and then one waits for the other. */
RM_DEVICE void after_loads() { asm volatile("" ::: "memory"); }

RM_DEVICE void unpack(uint4 v, float (&x)[4]) {
  x[0] = __uint_as_float(v.x);
  x[1] = __uint_as_float(v.y);
  x[2] = __uint_as_float(v.z);
  x[3] = __uint_as_float(v.w);
}

RM_DEVICE void unpack(uint4 v, float (&x)[8]) {
  const unsigned words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
  for (int j = 0; j < 4; j++) {
    x[2 * j] = __uint_as_float(words[j] << 16);
    x[2 * j + 1] = __uint_as_float(words[j] & 0xffff0000u);
  }
}

RM_DEVICE uint4 pack(const float (&x)[4]) {
  return make_uint4(__float_as_uint(x[0]), __float_as_uint(x[1]), __float_as_uint(x[2]),
                    __float_as_uint(x[3]));
}

RM_DEVICE uint4 pack(const float (&x)[8]) {
  unsigned words[4];
#pragma unroll
  for (int j = 0; j < 4; j++)
    words[j] = (unsigned)bf16_bits(x[2 * j]) | (unsigned)bf16_bits(x[2 * j + 1]) << 16;
  return make_uint4(words[0], words[1], words[2], words[3]);
}

/*
 * Where a thread works on rows of `words` words: 2^log_lanes neighbouring threads lie along a row, the others of the block
 * along rows, and each has ROWS rows, `step` apart. Only blocks divide, not threads.
 */
struct row_place {
  i64 word, row;
  int step;
};

template <int ROWS>
RM_DEVICE row_place place_of(i64 words, int log_lanes) {
  const int width = 1 << log_lanes, step = STREAM_THREADS >> log_lanes;
  const i64 across = (words + width - 1) >> log_lanes, band = blockIdx.x / across;
  return {((blockIdx.x - band * across) << log_lanes) + ((int)threadIdx.x & (width - 1)),
          band * step * ROWS + ((int)threadIdx.x >> log_lanes), step};
}
