/*
 * Copies and fills. Copies from pageable host memory take their bytes at the call, and copies to it are done when the call
 * returns, as in the real driver; with pinned memory both happen when the stream gets there.
 */
#include <cstring>

#include "capture.h"
#include "memory.h"
#include "stream.h"

using namespace look_alike;

namespace {

void *pointer(CUdeviceptr address) { return reinterpret_cast<void *>(address); }

Work move(const char *what, void *to, const void *from, std::size_t bytes) {
  return {what,
          [=] {
            std::memmove(to, from, bytes);
            return Outcome{};
          },
          {}};
}

/* Work of the legacy stream, done when the call returns. */
CUresult run_now(const Call &call, Work work) {
  const CUresult status = submit(call.context(), stream_of(call.context(), nullptr), std::move(work));
  return status != CUDA_SUCCESS ? status : finish_legacy(call.context());
}

bool capturing(const StreamRef &ref) { return ref.stream != nullptr && ref.stream->capture != nullptr; }

/* One side of a copy of rows. */
struct Rows {
  char *first;
  std::size_t pitch;
  CUmemorytype type;
};

/* From where the first row starts to where the last one ends. */
std::size_t extent(const Rows &rows, const CUDA_MEMCPY2D &copy) { return (copy.Height - 1) * rows.pitch + copy.WidthInBytes; }

bool valid(const Call &call, const Rows &rows, const CUDA_MEMCPY2D &copy) {
  if (rows.pitch < copy.WidthInBytes) return false;
  if (rows.type == CU_MEMORYTYPE_HOST) return true;
  return rows.type == CU_MEMORYTYPE_DEVICE &&
         in_device_memory(call.context(), reinterpret_cast<CUdeviceptr>(rows.first), extent(rows, copy));
}

}  // namespace

LOOK_ALIKE_API CUresult CUDAAPI cuMemcpyHtoD_v2(CUdeviceptr to, const void *from, size_t bytes) {
  LOOK_ALIKE_ENTER(Needs::context);
  if (!in_device_memory(call.context(), to, bytes)) return CUDA_ERROR_INVALID_VALUE;
  return run_now(call, move(__func__, pointer(to), from, bytes));
}

LOOK_ALIKE_API CUresult CUDAAPI cuMemcpyDtoH_v2(void *to, CUdeviceptr from, size_t bytes) {
  LOOK_ALIKE_ENTER(Needs::context);
  if (!in_device_memory(call.context(), from, bytes)) return CUDA_ERROR_INVALID_VALUE;
  return run_now(call, move(__func__, to, pointer(from), bytes));
}

LOOK_ALIKE_API CUresult CUDAAPI cuMemcpyDtoD_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes) {
  LOOK_ALIKE_ENTER(Needs::context);
  if (!in_device_memory(call.context(), from, bytes) || !in_device_memory(call.context(), to, bytes))
    return CUDA_ERROR_INVALID_VALUE;
  return run_now(call, move(__func__, pointer(to), pointer(from), bytes));
}

LOOK_ALIKE_API CUresult CUDAAPI cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void *from, size_t bytes, CUstream stream) {
  LOOK_ALIKE_ENTER(Needs::context);
  const StreamRef ref = stream_of(call.context(), stream);
  if (ref.queue == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (!in_device_memory(call.context(), to, bytes)) return CUDA_ERROR_INVALID_VALUE;
  if (in_pinned_memory(from, bytes)) return submit(call.context(), ref, move(__func__, pointer(to), from, bytes));
  if (capturing(ref)) return refuse_captured(ref.stream);
  const auto *first = static_cast<const char *>(from);
  const auto copy = std::make_shared<const std::vector<char>>(first, first + bytes);
  return submit(call.context(), ref,
                {__func__,
                 [=] {
                   std::memcpy(pointer(to), copy->data(), bytes);
                   return Outcome{};
                 },
                 {}});
}

LOOK_ALIKE_API CUresult CUDAAPI cuMemcpyDtoHAsync_v2(void *to, CUdeviceptr from, size_t bytes, CUstream stream) {
  LOOK_ALIKE_ENTER(Needs::context);
  const StreamRef ref = stream_of(call.context(), stream);
  if (ref.queue == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (!in_device_memory(call.context(), from, bytes)) return CUDA_ERROR_INVALID_VALUE;
  const bool pinned = in_pinned_memory(to, bytes);
  if (!pinned && capturing(ref)) return refuse_captured(ref.stream);
  const CUresult status = submit(call.context(), ref, move(__func__, to, pointer(from), bytes));
  return status != CUDA_SUCCESS || pinned ? status : finish_stream(ref);
}

LOOK_ALIKE_API CUresult CUDAAPI cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream) {
  LOOK_ALIKE_ENTER(Needs::context);
  if (!in_device_memory(call.context(), from, bytes) || !in_device_memory(call.context(), to, bytes))
    return CUDA_ERROR_INVALID_VALUE;
  return submit(call.context(), stream_of(call.context(), stream), move(__func__, pointer(to), pointer(from), bytes));
}

LOOK_ALIKE_API CUresult CUDAAPI cuMemcpy2DAsync_v2(const CUDA_MEMCPY2D *copy, CUstream stream) {
  LOOK_ALIKE_ENTER(Needs::context);
  const StreamRef ref = stream_of(call.context(), stream);
  if (ref.queue == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (copy->WidthInBytes == 0 || copy->Height == 0) return CUDA_SUCCESS;
  const auto side = [](CUmemorytype type, const void *host, CUdeviceptr device, std::size_t x, std::size_t y, std::size_t pitch) {
    const char *base = static_cast<const char *>(type == CU_MEMORYTYPE_HOST ? host : pointer(device));
    return Rows{const_cast<char *>(base) + y * pitch + x, pitch, type};
  };
  const Rows from = side(copy->srcMemoryType, copy->srcHost, copy->srcDevice, copy->srcXInBytes, copy->srcY, copy->srcPitch);
  const Rows to = side(copy->dstMemoryType, copy->dstHost, copy->dstDevice, copy->dstXInBytes, copy->dstY, copy->dstPitch);
  if (!valid(call, from, *copy) || !valid(call, to, *copy)) return CUDA_ERROR_INVALID_VALUE;
  const std::size_t width = copy->WidthInBytes, height = copy->Height;
  Work work{__func__,
            [=] {
              for (std::size_t y = 0; y < height; y++) std::memmove(to.first + y * to.pitch, from.first + y * from.pitch, width);
              return Outcome{};
            },
            {}};
  // Pageable memory on either side: the simplest that is as strict as the real driver may be.
  const bool pageable = (from.type == CU_MEMORYTYPE_HOST && !in_pinned_memory(from.first, extent(from, *copy))) ||
                        (to.type == CU_MEMORYTYPE_HOST && !in_pinned_memory(to.first, extent(to, *copy)));
  if (pageable && capturing(ref)) return refuse_captured(ref.stream);
  const CUresult status = submit(call.context(), ref, std::move(work));
  return status != CUDA_SUCCESS || !pageable ? status : finish_stream(ref);
}

LOOK_ALIKE_API CUresult CUDAAPI cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t count, CUstream stream) {
  LOOK_ALIKE_ENTER(Needs::context);
  if (!in_device_memory(call.context(), to, count)) return CUDA_ERROR_INVALID_VALUE;
  return submit(call.context(), stream_of(call.context(), stream),
                {__func__,
                 [=] {
                   std::memset(pointer(to), value, count);
                   return Outcome{};
                 },
                 {}});
}

LOOK_ALIKE_API CUresult CUDAAPI cuMemsetD32Async(CUdeviceptr to, unsigned int value, size_t count, CUstream stream) {
  LOOK_ALIKE_ENTER(Needs::context);
  if (to % 4 != 0 || !in_device_memory(call.context(), to, count * 4)) return CUDA_ERROR_INVALID_VALUE;
  return submit(call.context(), stream_of(call.context(), stream),
                {__func__,
                 [=] {
                   auto *words = static_cast<unsigned *>(pointer(to));
                   for (std::size_t i = 0; i < count; i++) words[i] = value;
                   return Outcome{};
                 },
                 {}});
}
