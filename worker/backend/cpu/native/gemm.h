#ifndef RANKMESH_GEMM_H
#define RANKMESH_GEMM_H

/* C(M,N) = op(A) op(B), row-major with leading dimensions, on all threads. */
void rm_gemm(int trans_a, int trans_b, long M, long N, long K, const float *A, long lda,
             const float *B, long ldb, float *C, long ldc);

#endif
