/*
 * Products on tensor cores: bfloat16 factors, float32 sums, one warp at a time; and copies into shared memory that run beside
 * them. For modules built for compute_80 and later, behind `#if RM_TENSOR_CORES`; every lane of a warp takes part in each call.
 *
 * Fragments are PTX's of mma.m16n8k16. With g = lane / 4 and t = lane % 4, the two halves of a register being neighbours
 * along k (a, b), the lower one first:
 *   a[0] = A[g][2t, 2t+1]     a[1] = A[g+8][2t, 2t+1]   a[2] = A[g][2t+8, 2t+9]   a[3] = A[g+8][2t+8, 2t+9]
 *   b[0] = B[2t, 2t+1][g]     b[1] = B[2t+8, 2t+9][g]
 *   d[0], d[1] = D[g][2t, 2t+1]                         d[2], d[3] = D[g+8][2t, 2t+1]
 * So two neighbouring D along n, rounded by `pack_bf16`, are one A along k: no shuffle between two products in a row.
 */
#pragma once
#include "common.cuh"

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
#define RM_TENSOR_CORES 1
#else
#define RM_TENSOR_CORES 0
#endif

#if defined(RM_LOOK_ALIKE)
/* The same functions in plain C++. */
#include "look_alike_tensor_core.h"
#elif RM_TENSOR_CORES

RM_DEVICE unsigned shared_address(const void *p) { return (unsigned)__cvta_generic_to_shared(p); }

/* d(16, 8) += a(16, 16) b(16, 8) */
RM_DEVICE void mma_16816(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
               "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/*
 * Four 8 x 8 matrices of 16-bit elements from shared memory. `row`: the 16 bytes, aligned to 16, of row lane % 8 of matrix
 * lane / 8. r[i] holds, of matrix i, the elements 2t and 2t + 1 of row g; transposed, those of column g.
 */
RM_DEVICE void ldmatrix_x4(unsigned (&r)[4], const void *row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}

RM_DEVICE void ldmatrix_x4_trans(unsigned (&r)[4], const void *row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}

/* Two matrices; lanes from 16 on give any valid address. */
RM_DEVICE void ldmatrix_x2(unsigned (&r)[2], const void *row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(shared_address(row))
               : "memory");
}

RM_DEVICE void ldmatrix_x2_trans(unsigned (&r)[2], const void *row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(shared_address(row))
               : "memory");
}

/*
 * Starts a copy of 16 bytes, both ends aligned to 16, past the registers and the L1 cache. Not valid: writes zeros and reads
 * nothing. Done after `cp_async_wait`, and seen by other threads after a barrier.
 */
RM_DEVICE void cp_async16(void *shared, const void *global, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
               :
               : "r"(shared_address(shared)), "l"(__cvta_generic_to_global(global)), "r"(valid ? 16 : 0)
               : "memory");
}

/* Ends a group of this thread's copies. */
RM_DEVICE void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

/* Waits until at most the N youngest groups of this thread's copies run. */
template <int N>
RM_DEVICE void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

/* Two floats to nearest even, `low` in the lower half. */
RM_DEVICE unsigned pack_bf16(float low, float high) {
  unsigned both;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
  return both;
}

#endif
