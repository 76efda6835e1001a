/* Devices, contexts. */
#include <cstdio>
#include <cstring>

#include "call.h"
#include "capture.h"
#include "faults.h"
#include "memory.h"
#include "objects.h"
#include "stream.h"

using namespace look_alike;

namespace {

CUcontext context_of(const Call &call, CUdevice device) {
  return device >= 0 && device < call.state().device_count() ? call.state().contexts[static_cast<std::size_t>(device)].get()
                                                             : nullptr;
}

int attribute_value(CUdevice_attribute attribute, CUdevice device) {
  const int capability = Settings::get().compute_capability;
  switch (attribute) {
    case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK:
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X:
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y:
      return 1024;
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z:
      return 64;
    case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X:
      return 2147483647;
    case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y:
    case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z:
      return 65535;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK:
      return 49152;
    case CU_DEVICE_ATTRIBUTE_WARP_SIZE:
      return 32;
    case CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK:
    case CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR:
      return 65536;
    case CU_DEVICE_ATTRIBUTE_CLOCK_RATE:
    case CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE:
      return 1000000;
    // Few, as small grids are then enough to fill the device.
    case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT:
      return 2;
    case CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY:
    case CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING:
      return 1;
    case CU_DEVICE_ATTRIBUTE_PCI_BUS_ID:
      return device + 1;
    case CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH:
      return 128;
    case CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE:
      return 4 << 20;
    case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR:
      return capability >= 80 ? 2048 : 1024;
    case CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT:
      return 2;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR:
      return capability / 10;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR:
      return capability % 10;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR:
      return static_cast<int>(shared_memory_limit()) + (capability >= 80 ? 1024 : 0);
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN:
      return static_cast<int>(shared_memory_limit());
    default:
      return 0;
  }
}

}  // namespace

LOOK_ALIKE_API CUresult CUDAAPI cuInit(unsigned int flags) {
  LOOK_ALIKE_ENTER(Needs::nothing);
  if (flags != 0) return CUDA_ERROR_INVALID_VALUE;
  if (call.state().device_count() == 0) return CUDA_ERROR_NO_DEVICE;
  call.state().initialised = true;
  return CUDA_SUCCESS;
}

LOOK_ALIKE_API CUresult CUDAAPI cuDriverGetVersion(int *version) {
  LOOK_ALIKE_ENTER(Needs::nothing);
  *version = 13000;
  return CUDA_SUCCESS;
}

LOOK_ALIKE_API CUresult CUDAAPI cuDeviceGetCount(int *count) {
  LOOK_ALIKE_ENTER(Needs::driver);
  *count = call.state().device_count();
  return CUDA_SUCCESS;
}

LOOK_ALIKE_API CUresult CUDAAPI cuDeviceGet(CUdevice *device, int ordinal) {
  LOOK_ALIKE_ENTER(Needs::driver);
  if (context_of(call, ordinal) == nullptr) return CUDA_ERROR_INVALID_DEVICE;
  *device = ordinal;
  return CUDA_SUCCESS;
}

LOOK_ALIKE_API CUresult CUDAAPI cuDeviceGetName(char *name, int length, CUdevice device) {
  LOOK_ALIKE_ENTER(Needs::driver);
  if (context_of(call, device) == nullptr) return CUDA_ERROR_INVALID_DEVICE;
  std::snprintf(name, static_cast<std::size_t>(length), "CUDA look-alike on the CPU");
  return CUDA_SUCCESS;
}

LOOK_ALIKE_API CUresult CUDAAPI cuDeviceGetUuid_v2(CUuuid *uuid, CUdevice device) {
  LOOK_ALIKE_ENTER(Needs::driver);
  if (context_of(call, device) == nullptr) return CUDA_ERROR_INVALID_DEVICE;
  for (int i = 0; i < 16; i++) uuid->bytes[i] = static_cast<char>(0xa0 + i);
  uuid->bytes[15] = static_cast<char>(device);
  return CUDA_SUCCESS;
}

LOOK_ALIKE_API CUresult CUDAAPI cuDeviceTotalMem_v2(size_t *bytes, CUdevice device) {
  LOOK_ALIKE_ENTER(Needs::driver);
  if (context_of(call, device) == nullptr) return CUDA_ERROR_INVALID_DEVICE;
  *bytes = Settings::get().memory_bytes;
  return CUDA_SUCCESS;
}

LOOK_ALIKE_API CUresult CUDAAPI cuDeviceGetAttribute(int *value, CUdevice_attribute attribute, CUdevice device) {
  LOOK_ALIKE_ENTER(Needs::driver);
  if (context_of(call, device) == nullptr) return CUDA_ERROR_INVALID_DEVICE;
  *value = attribute_value(attribute, device);
  return CUDA_SUCCESS;
}

LOOK_ALIKE_API CUresult CUDAAPI cuDeviceGetPCIBusId(char *text, int length, CUdevice device) {
  LOOK_ALIKE_ENTER(Needs::driver);
  if (context_of(call, device) == nullptr) return CUDA_ERROR_INVALID_DEVICE;
  std::snprintf(text, static_cast<std::size_t>(length), "0000:%02X:00.0", static_cast<unsigned>(device + 1));
  return CUDA_SUCCESS;
}

LOOK_ALIKE_API CUresult CUDAAPI cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device) {
  LOOK_ALIKE_ENTER(Needs::driver);
  CUcontext found = context_of(call, device);
  if (found == nullptr) return CUDA_ERROR_INVALID_DEVICE;
  if (found->retained == 0) open_context(found);
  found->retained++;
  *context = found;
  return CUDA_SUCCESS;
}

LOOK_ALIKE_API CUresult CUDAAPI cuDevicePrimaryCtxRelease_v2(CUdevice device) {
  const Call call(__func__, Needs::driver);
  // Of a lost device, too: what was on it is gone, and what the host holds goes.
  if (call.refused() != CUDA_SUCCESS && call.refused() != Faults::LOST) return call.refused();
  CUcontext found = context_of(call, device);
  if (found == nullptr) return CUDA_ERROR_INVALID_DEVICE;
  if (found->retained == 0) return CUDA_ERROR_INVALID_CONTEXT;
  if (--found->retained == 0) close_context(found);
  return call.refused();
}

LOOK_ALIKE_API CUresult CUDAAPI cuDevicePrimaryCtxReset_v2(CUdevice device) {
  LOOK_ALIKE_ENTER(Needs::driver);
  CUcontext found = context_of(call, device);
  if (found == nullptr) return CUDA_ERROR_INVALID_DEVICE;
  if (found->retained == 0) return CUDA_SUCCESS;
  close_context(found);
  open_context(found);
  return CUDA_SUCCESS;
}

LOOK_ALIKE_API CUresult CUDAAPI cuCtxSetCurrent(CUcontext context) {
  LOOK_ALIKE_ENTER(Needs::driver);
  if (context != nullptr) {
    bool known = false;
    for (const auto &candidate : call.state().contexts) known = known || candidate.get() == context;
    if (!known || context->retained == 0) return CUDA_ERROR_INVALID_CONTEXT;
  }
  current_context() = context;
  return CUDA_SUCCESS;
}

LOOK_ALIKE_API CUresult CUDAAPI cuCtxGetCurrent(CUcontext *context) {
  LOOK_ALIKE_ENTER(Needs::driver);
  *context = current_context();
  return CUDA_SUCCESS;
}

LOOK_ALIKE_API CUresult CUDAAPI cuCtxGetDevice(CUdevice *device) {
  LOOK_ALIKE_ENTER(Needs::context);
  *device = call.context()->ordinal;
  return CUDA_SUCCESS;
}

LOOK_ALIKE_API CUresult CUDAAPI cuCtxSynchronize(void) {
  LOOK_ALIKE_ENTER(Needs::context);
  if (const CUresult unsafe = refuse_while_capturing(); unsafe != CUDA_SUCCESS) return unsafe;
  return finish_context(call.context());
}
