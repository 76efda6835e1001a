/* Entry points of cuBLAS. Products are work of the handle's stream, like kernels. */
#include "blas.h"

#include <cstdio>

#include "../driver/faults.h"
#include "../driver/memory.h"

using namespace look_alike;

namespace {

struct Name {
  int status;
  const char *name;
};
constexpr Name NAMES[] = {
    {BLAS_SUCCESS, "CUBLAS_STATUS_SUCCESS"},
    {BLAS_NOT_INITIALIZED, "CUBLAS_STATUS_NOT_INITIALIZED"},
    {BLAS_ALLOC_FAILED, "CUBLAS_STATUS_ALLOC_FAILED"},
    {BLAS_INVALID_VALUE, "CUBLAS_STATUS_INVALID_VALUE"},
    {BLAS_ARCH_MISMATCH, "CUBLAS_STATUS_ARCH_MISMATCH"},
    {BLAS_MAPPING_ERROR, "CUBLAS_STATUS_MAPPING_ERROR"},
    {BLAS_EXECUTION_FAILED, "CUBLAS_STATUS_EXECUTION_FAILED"},
    {BLAS_INTERNAL_ERROR, "CUBLAS_STATUS_INTERNAL_ERROR"},
    {BLAS_NOT_SUPPORTED, "CUBLAS_STATUS_NOT_SUPPORTED"},
    {BLAS_LICENSE_ERROR, "CUBLAS_STATUS_LICENSE_ERROR"},
};

/* What a call on a handle answers at once: an injected status, or that of a handle or a context that is no more. */
cublasStatus_t refuse(const Call &call, cublasHandle_t handle) {
  // An injected status stands as it is; a lost device is none of cuBLAS's statuses.
  if (const int injected = call.refused(); injected != 0) return injected > BLAS_LICENSE_ERROR ? BLAS_INTERNAL_ERROR : injected;
  if (call.state().blas.count(handle) == 0) return BLAS_NOT_INITIALIZED;
  if (handle->context->retained == 0 || handle->context->error != CUDA_SUCCESS) return BLAS_INTERNAL_ERROR;
  return BLAS_SUCCESS;
}

#define LOOK_ALIKE_ENTER_BLAS(handle)                                 \
  const Call call(__func__, Needs::nothing);                          \
  if (const cublasStatus_t refused = refuse(call, handle); refused != BLAS_SUCCESS) return refused

/* Bytes from the first element of a column-major matrix to behind its last one, over the whole batch. */
std::size_t extent(const Matrix &x, long long rows, long long columns, int batch) {
  if (rows == 0 || columns == 0 || batch == 0) return 0;
  return static_cast<std::size_t>((batch - 1) * x.stride + (columns - 1) * x.ld + rows) * (x.type == R_32F ? 4 : 2);
}

Outcome check_memory(CUcontext context, const char *what, const void *matrix, std::size_t bytes) {
  const auto address = reinterpret_cast<CUdeviceptr>(matrix);
  if (bytes == 0 || in_device_memory(context, address, bytes) || in_pinned_memory(matrix, bytes)) return {};
  char text[128];
  std::snprintf(text, sizeof text, "a cuBLAS product was given matrix %s at 0x%llx: %zu bytes reach out of device memory", what,
                address, bytes);
  return {CUDA_ERROR_ILLEGAL_ADDRESS, text};
}

Outcome run(CUcontext context, const Gemm &g) {
  const Outcome checks[] = {
      check_memory(context, "A", g.a.data, extent(g.a, g.transpose_a ? g.k : g.m, g.transpose_a ? g.m : g.k, g.batch)),
      check_memory(context, "B", g.b.data, extent(g.b, g.transpose_b ? g.n : g.k, g.transpose_b ? g.k : g.n, g.batch)),
      check_memory(context, "C", g.c.data, extent(g.c, g.m, g.n, g.batch)),
  };
  for (const Outcome &check : checks)
    if (check.status != 0) return check;
  run_gemm(g);
  return {};
}

bool valid(const Gemm &g) {
  const auto least = [](long long rows) { return rows > 1 ? rows : 1; };
  return g.m >= 0 && g.n >= 0 && g.k >= 0 && g.batch >= 0 && g.a.ld >= least(g.transpose_a ? g.k : g.m) &&
         g.b.ld >= least(g.transpose_b ? g.n : g.k) && g.c.ld >= least(g.m);
}

cublasStatus_t submit_gemm(cublasHandle_t handle, const Gemm &gemm) {
  if (!valid(gemm)) return BLAS_INVALID_VALUE;
  if (gemm.m == 0 || gemm.n == 0 || gemm.batch == 0) return BLAS_SUCCESS;
  CUcontext context = handle->context;
  const CUresult status = submit(context, stream_of(context, handle->stream),
                                 {"cuBLAS product", [context, gemm] { return run(context, gemm); }, {}});
  return status == CUDA_SUCCESS ? BLAS_SUCCESS : BLAS_EXECUTION_FAILED;
}

bool is_operation(int operation) { return operation == OP_N || operation == OP_T || operation == OP_C; }

/* What differs from product to product; as the arguments of cublasGemmStridedBatchedEx. */
cublasStatus_t multiply(cublasHandle_t handle, int transa, int transb, const void *alpha, const void *beta, Gemm gemm,
                        cublasComputeType_t compute) {
  if (!is_operation(transa) || !is_operation(transb) || alpha == nullptr || beta == nullptr) return BLAS_INVALID_VALUE;
  const bool known_compute = compute == COMPUTE_32F || compute == COMPUTE_32F_PEDANTIC || compute == COMPUTE_32F_FAST_TF32;
  const bool floats = gemm.a.type == R_32F && gemm.b.type == R_32F && gemm.c.type == R_32F;
  const bool halves =
      gemm.a.type == R_16BF && gemm.b.type == R_16BF && (gemm.c.type == R_16BF || gemm.c.type == R_32F);
  if (!known_compute || !(floats || halves)) return BLAS_NOT_SUPPORTED;
  const bool tf32_asked = compute == COMPUTE_32F_FAST_TF32 ||
                          (compute == COMPUTE_32F && (handle->math_mode & MATH_MODE) == MATH_TF32);
  gemm.transpose_a = transa != OP_N;
  gemm.transpose_b = transb != OP_N;
  gemm.alpha = *static_cast<const float *>(alpha);
  gemm.beta = *static_cast<const float *>(beta);
  gemm.tf32 = floats && tf32_asked && Settings::get().compute_capability >= 80;
  return submit_gemm(handle, gemm);
}

Gemm shape(int m, int n, int k) {
  Gemm gemm{};
  gemm.m = m;
  gemm.n = n;
  gemm.k = k;
  gemm.batch = 1;
  return gemm;
}

}  // namespace

LOOK_ALIKE_API cublasStatus_t cublasCreate_v2(cublasHandle_t *handle) {
  const Call call(__func__, Needs::nothing);
  if (const int injected = call.refused(); injected != 0) return injected > BLAS_LICENSE_ERROR ? BLAS_INTERNAL_ERROR : injected;
  CUcontext context = current_context();
  if (context == nullptr || context->retained == 0) return BLAS_NOT_INITIALIZED;
  if (context->error != CUDA_SUCCESS) return BLAS_INTERNAL_ERROR;
  *handle = new Blas{context};
  call.state().blas.insert(*handle);
  return BLAS_SUCCESS;
}

LOOK_ALIKE_API cublasStatus_t cublasDestroy_v2(cublasHandle_t handle) {
  const Call call(__func__, Needs::nothing);
  const int injected = call.refused();
  const bool lost = injected == Faults::LOST;
  if (injected != 0 && !lost) return injected > BLAS_LICENSE_ERROR ? BLAS_INTERNAL_ERROR : injected;
  // Also where the device is lost: what the host holds goes.
  if (call.state().blas.erase(handle) == 0) return BLAS_NOT_INITIALIZED;
  delete handle;
  return lost ? BLAS_INTERNAL_ERROR : BLAS_SUCCESS;
}

LOOK_ALIKE_API cublasStatus_t cublasGetVersion_v2(cublasHandle_t handle, int *version) {
  const Call call(__func__, Needs::nothing);
  // A null handle is allowed here.
  if (handle != nullptr && call.state().blas.count(handle) == 0) return BLAS_NOT_INITIALIZED;
  *version = 130000;
  return BLAS_SUCCESS;
}

LOOK_ALIKE_API const char *cublasGetStatusName(cublasStatus_t status) {
  for (const Name &entry : NAMES)
    if (entry.status == status) return entry.name;
  return "CUBLAS_STATUS_UNKNOWN";
}

LOOK_ALIKE_API const char *cublasGetStatusString(cublasStatus_t status) { return cublasGetStatusName(status); }

LOOK_ALIKE_API cublasStatus_t cublasSetStream_v2(cublasHandle_t handle, CUstream stream) {
  LOOK_ALIKE_ENTER_BLAS(handle);
  handle->stream = stream;
  return BLAS_SUCCESS;
}

LOOK_ALIKE_API cublasStatus_t cublasSetWorkspace_v2(cublasHandle_t handle, void *workspace, size_t bytes) {
  LOOK_ALIKE_ENTER_BLAS(handle);
  const auto address = reinterpret_cast<CUdeviceptr>(workspace);
  if (bytes > 0 && (address % 256 != 0 || !in_device_memory(handle->context, address, bytes))) return BLAS_INVALID_VALUE;
  return BLAS_SUCCESS;
}

LOOK_ALIKE_API cublasStatus_t cublasSetMathMode(cublasHandle_t handle, cublasMath_t mode) {
  LOOK_ALIKE_ENTER_BLAS(handle);
  handle->math_mode = mode;
  return BLAS_SUCCESS;
}

LOOK_ALIKE_API cublasStatus_t cublasGemmStridedBatchedEx(cublasHandle_t handle, cublasOperation_t transa, cublasOperation_t transb,
                                                         int m, int n, int k, const void *alpha, const void *A, cudaDataType Atype,
                                                         int lda, long long int strideA, const void *B, cudaDataType Btype, int ldb,
                                                         long long int strideB, const void *beta, void *C, cudaDataType Ctype,
                                                         int ldc, long long int strideC, int batchCount,
                                                         cublasComputeType_t computeType, cublasGemmAlgo_t) {
  LOOK_ALIKE_ENTER_BLAS(handle);
  Gemm gemm = shape(m, n, k);
  gemm.a = {A, Atype, lda, strideA};
  gemm.b = {B, Btype, ldb, strideB};
  gemm.c = {C, Ctype, ldc, strideC};
  gemm.batch = batchCount;
  return multiply(handle, transa, transb, alpha, beta, gemm, computeType);
}

LOOK_ALIKE_API cublasStatus_t cublasGemmEx(cublasHandle_t handle, cublasOperation_t transa, cublasOperation_t transb, int m, int n,
                                           int k, const void *alpha, const void *A, cudaDataType Atype, int lda, const void *B,
                                           cudaDataType Btype, int ldb, const void *beta, void *C, cudaDataType Ctype, int ldc,
                                           cublasComputeType_t computeType, cublasGemmAlgo_t) {
  LOOK_ALIKE_ENTER_BLAS(handle);
  Gemm gemm = shape(m, n, k);
  gemm.a = {A, Atype, lda, 0};
  gemm.b = {B, Btype, ldb, 0};
  gemm.c = {C, Ctype, ldc, 0};
  return multiply(handle, transa, transb, alpha, beta, gemm, computeType);
}

LOOK_ALIKE_API cublasStatus_t cublasSgemm_v2(cublasHandle_t handle, cublasOperation_t transa, cublasOperation_t transb, int m, int n,
                                             int k, const float *alpha, const float *A, int lda, const float *B, int ldb,
                                             const float *beta, float *C, int ldc) {
  LOOK_ALIKE_ENTER_BLAS(handle);
  Gemm gemm = shape(m, n, k);
  gemm.a = {A, R_32F, lda, 0};
  gemm.b = {B, R_32F, ldb, 0};
  gemm.c = {C, R_32F, ldc, 0};
  return multiply(handle, transa, transb, alpha, beta, gemm, COMPUTE_32F);
}
