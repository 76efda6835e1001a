/*
 * cuBLAS as far as it is used. Statuses, enumerations and prototypes as in cublas_api.h of CUDA 12 and 13; matrices are
 * column-major.
 */
#pragma once
#include "../driver/stream.h"

using cublasStatus_t = int;
using cublasHandle_t = look_alike::Blas *;
using cublasOperation_t = int;
using cublasMath_t = int;
using cublasComputeType_t = int;
using cublasGemmAlgo_t = int;
using cudaDataType = int;

namespace look_alike {

enum BlasStatus {
  BLAS_SUCCESS = 0,
  BLAS_NOT_INITIALIZED = 1,
  BLAS_ALLOC_FAILED = 3,
  BLAS_INVALID_VALUE = 7,
  BLAS_ARCH_MISMATCH = 8,
  BLAS_MAPPING_ERROR = 11,
  BLAS_EXECUTION_FAILED = 13,
  BLAS_INTERNAL_ERROR = 14,
  BLAS_NOT_SUPPORTED = 15,
  BLAS_LICENSE_ERROR = 16,
};

/* cudaDataType */
constexpr int R_32F = 0, R_16BF = 14;
/* cublasComputeType_t */
constexpr int COMPUTE_32F = 68, COMPUTE_32F_PEDANTIC = 69, COMPUTE_32F_FAST_16BF = 75, COMPUTE_32F_FAST_TF32 = 77;
/* cublasMath_t: the mode, and flags above it */
constexpr int MATH_MODE = 15, MATH_TF32 = 3;
/* cublasOperation_t */
constexpr int OP_N = 0, OP_T = 1, OP_C = 2;

struct Blas {
  CUcontext context;
  CUstream stream = nullptr;
  int math_mode = 0;
};

/* Column-major; `ld` elements from column to column, `stride` from one matrix of a batch to the next. */
struct Matrix {
  const void *data;
  int type;
  long long ld, stride;
};

/* c = alpha op(a) op(b) + beta c, for each of `batch`. op(a) is [m, k], op(b) [k, n]. */
struct Gemm {
  bool transpose_a, transpose_b;
  int m, n, k;
  float alpha, beta;
  Matrix a, b, c;
  int batch;
  /* Factors lose mantissa bits first, as tensor cores make them: TF32 has 10. */
  bool tf32;
};

void run_gemm(const Gemm &gemm);

}  // namespace look_alike
