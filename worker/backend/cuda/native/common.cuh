/*
 * What all kernels share. Threads of a block are a multiple of 32. Sums have a fixed order: two runs give the same bits, and no
 * float atomics touch a result. Tensors are dense; addresses are aligned to their element, and to 16 bytes where
 * `aligned16` says so: a kernel that moves vectors asks it, and takes single elements otherwise.
 */
#pragma once
#include <cuda_runtime.h>

typedef unsigned short ushort;
typedef unsigned long long u64;
typedef long long i64;

#define RM_KERNEL extern "C" __global__ void
/*
 * A function of this file: no name of internal linkage, in which nvcc would write a hash of the path that it compiled. Where
 * all files become one library, each keeps its own.
 */
#ifdef __CUDACC__
#define RM_DEVICE __device__ __forceinline__
#else
#define RM_DEVICE static __device__ __forceinline__
#endif
/* A member function. */
#define RM_CALL __device__ __forceinline__

/* The upper half of a float, rounded to nearest even. */
struct bf16 {
  ushort bits;
};

RM_DEVICE float widen(float x) { return x; }
RM_DEVICE float widen(bf16 h) { return __uint_as_float((unsigned)h.bits << 16); }

RM_DEVICE ushort bf16_bits(float x) {
  const unsigned bits = __float_as_uint(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return (ushort)((bits >> 16) | 0x40u);
  return (ushort)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

/* x as T: `store(p, x)`. */
RM_DEVICE void store(float *p, float x) { *p = x; }
RM_DEVICE void store(bf16 *p, float x) { p->bits = bf16_bits(x); }

/* As the host packs it: shared/optimizer/step-scalars.ts, rounded to float once. */
struct step_scalars {
  float one_minus_beta1, beta2, one_minus_beta2, decay, step_size, root_scale, eps, momentum;
  u64 step;
};

RM_DEVICE bool aligned16(const void *p) { return ((u64)p & 15) == 0; }
RM_DEVICE bool aligned8(const void *p) { return ((u64)p & 7) == 0; }

/* Four elements in one access: 16 bytes of float, 8 of bf16. */
RM_DEVICE float4 load4(const float *p) { return *(const float4 *)p; }
RM_DEVICE float4 load4(const bf16 *p) {
  const uint2 v = *(const uint2 *)p;
  return make_float4(__uint_as_float(v.x << 16), __uint_as_float(v.x & 0xffff0000u),
                     __uint_as_float(v.y << 16), __uint_as_float(v.y & 0xffff0000u));
}
RM_DEVICE void store4(float *p, float4 v) { *(float4 *)p = v; }
RM_DEVICE void store4(bf16 *p, float4 v) {
  uint2 u;
  u.x = (unsigned)bf16_bits(v.x) | (unsigned)bf16_bits(v.y) << 16;
  u.y = (unsigned)bf16_bits(v.z) | (unsigned)bf16_bits(v.w) << 16;
  *(uint2 *)p = u;
}

/* 16 bytes that a step touches once: they leave the caches before what is read again. */
RM_DEVICE uint4 load16_once(const void *p) { return __ldcs((const uint4 *)p); }
RM_DEVICE void store16_once(void *p, uint4 v) { __stcs((uint4 *)p, v); }

/* Sum over a warp, in every lane: a tree of fixed shape. */
template <typename T>
RM_DEVICE T warp_sum(T v) {
#pragma unroll
  for (int o = 16; o > 0; o >>= 1) v += __shfl_xor_sync(0xffffffffu, v, o);
  return v;
}

RM_DEVICE float warp_max(float v) {
#pragma unroll
  for (int o = 16; o > 0; o >>= 1) v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, o));
  return v;
}

/*
 * Sum over a block of at most 1024 threads, in every thread. `shared` holds 32 values and is free for reuse after the next
 * barrier of the caller.
 */
template <typename T>
RM_DEVICE T block_sum(T v, T *shared) {
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = (blockDim.x + 31) >> 5;
  v = warp_sum(v);
  if (lane == 0) shared[warp] = v;
  __syncthreads();
  v = lane < warps ? shared[lane] : T(0);
  return warp_sum(v);
}
