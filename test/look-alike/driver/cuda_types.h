/*
 * The part of NVIDIA's cuda.h that the look-alike needs, so that it builds where there is none. With LOOK_ALIKE_REAL_CUDA_H the
 * real one takes its place: every prototype, structure and number below is then checked against it (a unit test does so where
 * a toolkit is installed).
 */
#pragma once
#include <cstddef>

#define LOOK_ALIKE_RESULTS(X)                      \
  X(CUDA_SUCCESS, 0)                               \
  X(CUDA_ERROR_INVALID_VALUE, 1)                   \
  X(CUDA_ERROR_OUT_OF_MEMORY, 2)                   \
  X(CUDA_ERROR_NOT_INITIALIZED, 3)                 \
  X(CUDA_ERROR_DEINITIALIZED, 4)                   \
  X(CUDA_ERROR_DEVICE_UNAVAILABLE, 46)             \
  X(CUDA_ERROR_NO_DEVICE, 100)                     \
  X(CUDA_ERROR_INVALID_DEVICE, 101)                \
  X(CUDA_ERROR_INVALID_IMAGE, 200)                 \
  X(CUDA_ERROR_INVALID_CONTEXT, 201)               \
  X(CUDA_ERROR_NO_BINARY_FOR_GPU, 209)             \
  X(CUDA_ERROR_ECC_UNCORRECTABLE, 214)             \
  X(CUDA_ERROR_INVALID_PTX, 218)                   \
  X(CUDA_ERROR_NVLINK_UNCORRECTABLE, 220)          \
  X(CUDA_ERROR_UNSUPPORTED_PTX_VERSION, 222)       \
  X(CUDA_ERROR_CONTAINED, 226)                     \
  X(CUDA_ERROR_INVALID_HANDLE, 400)                \
  X(CUDA_ERROR_ILLEGAL_STATE, 401)                 \
  X(CUDA_ERROR_NOT_FOUND, 500)                     \
  X(CUDA_ERROR_NOT_READY, 600)                     \
  X(CUDA_ERROR_ILLEGAL_ADDRESS, 700)               \
  X(CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES, 701)       \
  X(CUDA_ERROR_LAUNCH_TIMEOUT, 702)                \
  X(CUDA_ERROR_CONTEXT_IS_DESTROYED, 709)          \
  X(CUDA_ERROR_ASSERT, 710)                        \
  X(CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED, 712) \
  X(CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED, 713)    \
  X(CUDA_ERROR_HARDWARE_STACK_ERROR, 714)          \
  X(CUDA_ERROR_ILLEGAL_INSTRUCTION, 715)           \
  X(CUDA_ERROR_MISALIGNED_ADDRESS, 716)            \
  X(CUDA_ERROR_INVALID_ADDRESS_SPACE, 717)         \
  X(CUDA_ERROR_INVALID_PC, 718)                    \
  X(CUDA_ERROR_LAUNCH_FAILED, 719)                 \
  X(CUDA_ERROR_NOT_PERMITTED, 800)                 \
  X(CUDA_ERROR_NOT_SUPPORTED, 801)                 \
  X(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, 900)    \
  X(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, 901)    \
  X(CUDA_ERROR_STREAM_CAPTURE_MERGE, 902)          \
  X(CUDA_ERROR_STREAM_CAPTURE_UNMATCHED, 903)      \
  X(CUDA_ERROR_STREAM_CAPTURE_UNJOINED, 904)       \
  X(CUDA_ERROR_STREAM_CAPTURE_ISOLATION, 905)      \
  X(CUDA_ERROR_STREAM_CAPTURE_IMPLICIT, 906)       \
  X(CUDA_ERROR_CAPTURED_EVENT, 907)                \
  X(CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD, 908)   \
  X(CUDA_ERROR_UNKNOWN, 999)

#define LOOK_ALIKE_DEVICE_ATTRIBUTES(X)                             \
  X(CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK, 1)                   \
  X(CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X, 2)                         \
  X(CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y, 3)                         \
  X(CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z, 4)                         \
  X(CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X, 5)                          \
  X(CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y, 6)                          \
  X(CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z, 7)                          \
  X(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK, 8)             \
  X(CU_DEVICE_ATTRIBUTE_WARP_SIZE, 10)                              \
  X(CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK, 12)                \
  X(CU_DEVICE_ATTRIBUTE_CLOCK_RATE, 13)                             \
  X(CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, 16)                   \
  X(CU_DEVICE_ATTRIBUTE_INTEGRATED, 18)                             \
  X(CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY, 19)                    \
  X(CU_DEVICE_ATTRIBUTE_PCI_BUS_ID, 33)                             \
  X(CU_DEVICE_ATTRIBUTE_PCI_DEVICE_ID, 34)                          \
  X(CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE, 36)                      \
  X(CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH, 37)                \
  X(CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE, 38)                          \
  X(CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR, 39)         \
  X(CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT, 40)                     \
  X(CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING, 41)                     \
  X(CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID, 50)                          \
  X(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, 75)               \
  X(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, 76)               \
  X(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR, 81)   \
  X(CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR, 82)       \
  X(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, 97)

#define LOOK_ALIKE_FUNCTION_ATTRIBUTES(X)                \
  X(CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK, 0)          \
  X(CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES, 1)              \
  X(CU_FUNC_ATTRIBUTE_CONST_SIZE_BYTES, 2)               \
  X(CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES, 3)               \
  X(CU_FUNC_ATTRIBUTE_NUM_REGS, 4)                       \
  X(CU_FUNC_ATTRIBUTE_PTX_VERSION, 5)                    \
  X(CU_FUNC_ATTRIBUTE_BINARY_VERSION, 6)                 \
  X(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 8)  \
  X(CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT, 9)

#define LOOK_ALIKE_FLAGS(X)                    \
  X(CU_STREAM_DEFAULT, 0)                      \
  X(CU_STREAM_NON_BLOCKING, 1)                 \
  X(CU_EVENT_DISABLE_TIMING, 2)                \
  X(CU_STREAM_CAPTURE_STATUS_NONE, 0)          \
  X(CU_STREAM_CAPTURE_STATUS_ACTIVE, 1)        \
  X(CU_STREAM_CAPTURE_STATUS_INVALIDATED, 2)   \
  X(CU_STREAM_CAPTURE_MODE_GLOBAL, 0)          \
  X(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL, 1)    \
  X(CU_STREAM_CAPTURE_MODE_RELAXED, 2)         \
  X(CU_MEMORYTYPE_HOST, 1)                     \
  X(CU_MEMORYTYPE_DEVICE, 2)                   \
  X(CU_JIT_ERROR_LOG_BUFFER, 5)                \
  X(CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES, 6)

#ifdef LOOK_ALIKE_REAL_CUDA_H

#include <cuda.h>
#define LOOK_ALIKE_CHECK(name, value) static_assert(static_cast<int>(name) == value, #name);
LOOK_ALIKE_RESULTS(LOOK_ALIKE_CHECK)
LOOK_ALIKE_DEVICE_ATTRIBUTES(LOOK_ALIKE_CHECK)
LOOK_ALIKE_FUNCTION_ATTRIBUTES(LOOK_ALIKE_CHECK)
LOOK_ALIKE_FLAGS(LOOK_ALIKE_CHECK)
#undef LOOK_ALIKE_CHECK

#else

#define CUDAAPI
#define CU_STREAM_LEGACY ((CUstream)0x1)
#define CU_STREAM_PER_THREAD ((CUstream)0x2)

#define LOOK_ALIKE_ENUMERATOR(name, value) name = value,
enum CUresult { LOOK_ALIKE_RESULTS(LOOK_ALIKE_ENUMERATOR) };
enum CUdevice_attribute { LOOK_ALIKE_DEVICE_ATTRIBUTES(LOOK_ALIKE_ENUMERATOR) };
enum CUfunction_attribute { LOOK_ALIKE_FUNCTION_ATTRIBUTES(LOOK_ALIKE_ENUMERATOR) };
enum { LOOK_ALIKE_FLAGS(LOOK_ALIKE_ENUMERATOR) };
#undef LOOK_ALIKE_ENUMERATOR

using CUdeviceptr = unsigned long long;
using CUdevice = int;
using CUcontext = struct CUctx_st *;
using CUmodule = struct CUmod_st *;
using CUfunction = struct CUfunc_st *;
using CUstream = struct CUstream_st *;
using CUevent = struct CUevent_st *;
using CUgraph = struct CUgraph_st *;
using CUgraphNode = struct CUgraphNode_st *;
using CUgraphExec = struct CUgraphExec_st *;
using CUarray = struct CUarray_st *;
using CUstreamCaptureStatus = int;
using CUstreamCaptureMode = int;
using CUmemorytype = int;
using CUjit_option = int;

struct CUuuid {
  char bytes[16];
};

struct CUDA_MEMCPY2D {
  size_t srcXInBytes, srcY;
  CUmemorytype srcMemoryType;
  const void *srcHost;
  CUdeviceptr srcDevice;
  CUarray srcArray;
  size_t srcPitch;
  size_t dstXInBytes, dstY;
  CUmemorytype dstMemoryType;
  void *dstHost;
  CUdeviceptr dstDevice;
  CUarray dstArray;
  size_t dstPitch;
  size_t WidthInBytes, Height;
};

#endif

static_assert(sizeof(CUDA_MEMCPY2D) == 128 && offsetof(CUDA_MEMCPY2D, dstMemoryType) == 72, "CUDA_MEMCPY2D");
static_assert(sizeof(CUuuid) == 16, "CUuuid");
