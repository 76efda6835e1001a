/* NCCL as far as it is used. Names, values and prototypes as in nccl.h of NCCL 2.14 and later. */
#pragma once
#include <cstddef>

#include "../driver/cuda_types.h"

#define NCCL_LOOK_ALIKE_API extern "C" __attribute__((visibility("default")))

enum ncclResult_t {
  ncclSuccess = 0,
  ncclUnhandledCudaError = 1,
  ncclSystemError = 2,
  ncclInternalError = 3,
  ncclInvalidArgument = 4,
  ncclInvalidUsage = 5,
  ncclRemoteError = 6,
  ncclInProgress = 7,
};

enum ncclDataType_t { ncclInt32 = 2, ncclFloat32 = 7, ncclFloat64 = 8, ncclBfloat16 = 9 };
enum ncclRedOp_t { ncclSum = 0 };

struct ncclUniqueId {
  char internal[128];
};

struct ncclConfig_t {
  std::size_t size;
  unsigned int magic, version;
  int blocking, cga_cluster_size, min_ctas, max_ctas;
  const char *net_name;
};
static_assert(sizeof(ncclConfig_t) == 40, "the configuration of NCCL 2.17");

using ncclComm_t = struct ncclComm *;

/* Of the look-alike driver. */
extern "C" CUresult rm_lookalike_enqueue(CUstream stream, int (*step)(void *), void (*drop)(void *), void *argument);
extern "C" int rm_lookalike_on_device(CUdeviceptr address, std::size_t bytes);
