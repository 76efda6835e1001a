/*
 * Random values by counter: element e of a global tensor takes lane e % 4 of Philox block e / 4, so that nothing depends on how
 * tensors are split. A thread makes one 16-byte vector; its words come from whole blocks wherever the slice's rows let it.
 */
#include "philox.cuh"
#include "vectors.cuh"

#define MOST_DIMS 8

/* A rank's slice of a global tensor, as the host packs it: kernels/random.ts. */
struct tensor_slice {
  u64 n, dims;
  u64 global[MOST_DIMS], start[MOST_DIMS], local[MOST_DIMS];
};

/* Where element `at` lies in the global tensor, and how many elements from it on lie in a row there too. */
struct slice_run {
  u64 global, length;
};

RM_DEVICE slice_run run_at(const tensor_slice &s, u64 at) {
  const int last = (int)s.dims - 1;
  u64 rest = at, global = 0, stride = 1, length = s.local[last] - at;
#pragma unroll 1
  for (int d = last; d > 0; d--) {
    const u64 next = rest / s.local[d], index = rest - next * s.local[d];
    if (d == last) length = s.local[d] - index;
    global += (s.start[d] + index) * stride;
    stride *= s.global[d];
    rest = next;
  }
  return {global + (s.start[0] + rest) * stride, length};
}

/* ---- initial weights ---- */

/* float((2u - 1) bound) with u = (word >> 8) / 2^24; `unit` is bound / 2^23, and all but the product is exact. */
RM_DEVICE float uniform_of(unsigned word, double unit) {
  return (float)((double)((int)(word >> 8) - 8388608) * unit);
}

RM_KERNEL rm_fill_uniform(float *y, tensor_slice s, u64 seed, u64 name, double unit) {
  const u64 at = ((u64)blockIdx.x * STREAM_THREADS + threadIdx.x) * 4;
  if (at >= s.n) return;
  const slice_run run = run_at(s, at);
  if (run.length >= 4 && run.global % 4 == 0 && aligned16(y)) {
    const u64 block = run.global / 4;
    const uint4 words = philox_block(seed, name, (unsigned)block, (unsigned)(block >> 32));
    store4(y + at, make_float4(uniform_of(words.x, unit), uniform_of(words.y, unit),
                               uniform_of(words.z, unit), uniform_of(words.w, unit)));
    return;
  }
  const u64 end = at + 4 < s.n ? at + 4 : s.n;
#pragma unroll 1
  for (u64 e = at; e < end; e++) {
    const u64 global = run_at(s, e).global, block = global / 4;
    const uint4 words = philox_block(seed, name, (unsigned)block, (unsigned)(block >> 32));
    y[e] = uniform_of(word_of(words, (unsigned)global % 4), unit);
  }
}

/* ---- dropout ---- */

/*
 * y = x scale where the element's word is at least the threshold, else 0. The step is the counter's second word: all blocks of
 * a step's elements are below 2^32. y may be x.
 */
template <typename T>
RM_DEVICE void dropout(const T *x, T *y, const tensor_slice &s, u64 seed, u64 name,
                       const step_scalars *scalars, unsigned threshold, float scale) {
  constexpr int V = lanes<T>::count;
  const u64 at = ((u64)blockIdx.x * STREAM_THREADS + threadIdx.x) * V;
  if (at >= s.n) return;
  const unsigned step = (unsigned)scalars->step;
  const bool vector = at + V <= s.n && aligned16(x) && aligned16(y);
  uint4 held = make_uint4(0, 0, 0, 0);
  /* On its way while the place is worked out. */
  if (vector) held = load16(x + at);
  after_loads();
  const slice_run run = run_at(s, at);
  if (vector && run.length >= V && run.global % 4 == 0) {
    float value[V];
    unpack(held, value);
#pragma unroll
    for (int j = 0; j < V; j += 4) {
      const uint4 words = philox_block(seed, name, (unsigned)(run.global / 4) + j / 4, step);
      value[j] = words.x >= threshold ? value[j] * scale : 0.0f;
      value[j + 1] = words.y >= threshold ? value[j + 1] * scale : 0.0f;
      value[j + 2] = words.z >= threshold ? value[j + 2] * scale : 0.0f;
      value[j + 3] = words.w >= threshold ? value[j + 3] * scale : 0.0f;
    }
    store16(y + at, pack(value));
    return;
  }
  const u64 end = at + V < s.n ? at + V : s.n;
#pragma unroll 1
  for (u64 e = at; e < end; e++) {
    const u64 global = run_at(s, e).global;
    const uint4 words = philox_block(seed, name, (unsigned)(global / 4), step);
    const float kept = widen(x[e]) * scale;
    store(y + e, word_of(words, (unsigned)global % 4) >= threshold ? kept : 0.0f);
  }
}

RM_KERNEL rm_dropout_f32(const float *x, float *y, tensor_slice s, u64 seed, u64 name,
                         const step_scalars *scalars, u64 threshold, float scale) {
  dropout<float>(x, y, s, seed, name, scalars, (unsigned)threshold, scale);
}
RM_KERNEL rm_dropout_bf16(const bf16 *x, bf16 *y, tensor_slice s, u64 seed, u64 name,
                          const step_scalars *scalars, u64 threshold, float scale) {
  dropout<bf16>(x, y, s, seed, name, scalars, (unsigned)threshold, scale);
}
