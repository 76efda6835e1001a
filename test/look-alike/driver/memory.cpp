#include "memory.h"

#include <cstdlib>
#include <cstring>

#include "call.h"
#include "capture.h"
#include "stream.h"

using namespace look_alike;

namespace look_alike {

namespace {

constexpr std::size_t GUARD = 256, ALIGNMENT = 256;
/* Freed memory is kept, poisoned, so that late reads find NaN and late writes hit nothing else; up to this many bytes of it. */
constexpr std::size_t QUARANTINE = std::size_t{64} << 20;

std::deque<Allocation> quarantine;
std::size_t quarantined = 0;

std::size_t rounded_up(std::size_t bytes) { return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT; }

bool is_poison(const char *from, std::size_t bytes) {
  // Equal to itself, one byte on: all bytes are the first.
  return bytes == 0 || (*from == static_cast<char>(0xff) && std::memcmp(from, from + 1, bytes - 1) == 0);
}

bool allocate(CUcontext context, std::size_t bytes, Allocation &allocation) {
  const std::size_t raw_bytes = GUARD + rounded_up(bytes) + GUARD;
  char *raw = static_cast<char *>(std::aligned_alloc(ALIGNMENT, raw_bytes));
  if (raw == nullptr) return false;
  std::memset(raw, 0xff, raw_bytes);
  allocation = {context, raw + GUARD, bytes, raw, raw_bytes, ++State::get().serial};
  return true;
}

/* Empty, or what was written outside. */
std::string damage(const Allocation &allocation) {
  const std::string whose = "an allocation of " + std::to_string(allocation.bytes) + " bytes";
  const char *end = allocation.base + allocation.bytes;
  if (!is_poison(allocation.raw, GUARD)) return "wrote before the start of " + whose;
  const auto behind = static_cast<std::size_t>(allocation.raw + allocation.raw_bytes - end);
  if (!is_poison(end, behind)) return "wrote past the end of " + whose;
  return {};
}

void forget_oldest() {
  quarantined -= quarantine.front().raw_bytes;
  std::free(quarantine.front().raw);
  quarantine.pop_front();
}

void give_back(const Allocation &allocation) {
  if (allocation.raw_bytes > QUARANTINE) return std::free(allocation.raw);
  std::memset(allocation.raw, 0xff, allocation.raw_bytes);
  quarantine.push_back(allocation);
  quarantined += allocation.raw_bytes;
  while (quarantined > QUARANTINE) forget_oldest();
}

const Allocation *find(const std::map<CUdeviceptr, Allocation> &memory, CUdeviceptr address) {
  auto after = memory.upper_bound(address);
  if (after == memory.begin()) return nullptr;
  return &(--after)->second;
}

bool inside(const Allocation *allocation, CUdeviceptr address, std::size_t bytes) {
  if (allocation == nullptr) return false;
  const std::size_t offset = address - reinterpret_cast<CUdeviceptr>(allocation->base);
  return offset <= allocation->bytes && bytes <= allocation->bytes - offset;
}

CUdeviceptr address_of(const void *pointer) { return reinterpret_cast<CUdeviceptr>(pointer); }

}  // namespace

bool in_device_memory(CUcontext context, CUdeviceptr address, std::size_t bytes) {
  return inside(find(context->device_memory, address), address, bytes);
}

bool in_pinned_memory(const void *address, std::size_t bytes) {
  const State &state = State::get();
  const CUdeviceptr at = address_of(address);
  if (inside(find(state.pinned, at), at, bytes)) return true;
  auto after = state.registered.upper_bound(at);
  if (after == state.registered.begin()) return false;
  --after;
  const std::size_t offset = at - after->first, size = after->second.bytes;
  return offset <= size && bytes <= size - offset;
}

bool known_to_device(CUcontext context, CUdeviceptr address) {
  return in_device_memory(context, address, 0) || in_pinned_memory(reinterpret_cast<const void *>(address), 0);
}

Outcome check_guards(CUcontext context, const std::string &what) {
  const auto fail = [&](const std::string &damage) {
    return Outcome{CUDA_ERROR_ILLEGAL_ADDRESS, what + " " + damage};
  };
  for (const auto &[address, allocation] : context->device_memory)
    if (const std::string found = damage(allocation); !found.empty()) return fail(found);
  for (const auto &[address, allocation] : State::get().pinned)
    if (const std::string found = damage(allocation); !found.empty()) return fail(found);
  return {};
}

void free_memory_of(CUcontext context) {
  for (const auto &[address, allocation] : context->device_memory) give_back(allocation);
  context->device_memory.clear();
  context->device_bytes = 0;
  State &state = State::get();
  for (auto at = state.pinned.begin(); at != state.pinned.end();) {
    if (at->second.context != context) {
      ++at;
      continue;
    }
    give_back(at->second);
    at = state.pinned.erase(at);
  }
  for (auto at = state.registered.begin(); at != state.registered.end();)
    at = at->second.context == context ? state.registered.erase(at) : std::next(at);
}

}  // namespace look_alike

LOOK_ALIKE_API CUresult CUDAAPI cuMemGetInfo_v2(size_t *free, size_t *total) {
  LOOK_ALIKE_ENTER(Needs::context);
  *total = Settings::get().memory_bytes;
  const std::size_t used = call.context()->device_bytes + CONTEXT_BYTES;
  *free = used < *total ? *total - used : 0;
  return CUDA_SUCCESS;
}

LOOK_ALIKE_API CUresult CUDAAPI cuMemAlloc_v2(CUdeviceptr *address, size_t bytes) {
  LOOK_ALIKE_ENTER(Needs::context);
  if (const CUresult unsafe = refuse_while_capturing(); unsafe != CUDA_SUCCESS) return unsafe;
  if (bytes == 0) return CUDA_ERROR_INVALID_VALUE;
  CUcontext context = call.context();
  const std::size_t taken = rounded_up(bytes), total = Settings::get().memory_bytes;
  if (taken > total || context->device_bytes + CONTEXT_BYTES + taken > total) return CUDA_ERROR_OUT_OF_MEMORY;
  Allocation allocation;
  if (!allocate(call.context(), bytes, allocation)) return CUDA_ERROR_OUT_OF_MEMORY;
  *address = address_of(allocation.base);
  context->device_memory[*address] = allocation;
  context->device_bytes += taken;
  return CUDA_SUCCESS;
}

LOOK_ALIKE_API CUresult CUDAAPI cuMemFree_v2(CUdeviceptr address) {
  LOOK_ALIKE_ENTER(Needs::context);
  if (address == 0) return CUDA_SUCCESS;
  if (const CUresult unsafe = refuse_while_capturing(); unsafe != CUDA_SUCCESS) return unsafe;
  CUcontext context = call.context();
  const auto found = context->device_memory.find(address);
  if (found == context->device_memory.end()) return CUDA_ERROR_INVALID_VALUE;
  // Work that waits may still use it: the real one waits for the device here, too.
  if (const CUresult status = finish_context(context); status != CUDA_SUCCESS) return status;
  context->device_bytes -= rounded_up(found->second.bytes);
  give_back(found->second);
  context->device_memory.erase(found);
  return CUDA_SUCCESS;
}

LOOK_ALIKE_API CUresult CUDAAPI cuMemHostAlloc(void **pointer, size_t bytes, unsigned int flags) {
  LOOK_ALIKE_ENTER(Needs::context);
  if (const CUresult unsafe = refuse_while_capturing(); unsafe != CUDA_SUCCESS) return unsafe;
  // Portable, device-mapped, write-combined.
  if (bytes == 0 || (flags & ~7u) != 0) return CUDA_ERROR_INVALID_VALUE;
  Allocation allocation;
  if (!allocate(call.context(), bytes, allocation)) return CUDA_ERROR_OUT_OF_MEMORY;
  *pointer = allocation.base;
  call.state().pinned[address_of(*pointer)] = allocation;
  return CUDA_SUCCESS;
}

LOOK_ALIKE_API CUresult CUDAAPI cuMemFreeHost(void *pointer) {
  LOOK_ALIKE_ENTER(Needs::context);
  if (const CUresult unsafe = refuse_while_capturing(); unsafe != CUDA_SUCCESS) return unsafe;
  const auto found = call.state().pinned.find(address_of(pointer));
  if (found == call.state().pinned.end()) return CUDA_ERROR_INVALID_VALUE;
  if (const CUresult status = finish_context(call.context()); status != CUDA_SUCCESS) return status;
  give_back(found->second);
  call.state().pinned.erase(found);
  return CUDA_SUCCESS;
}

LOOK_ALIKE_API CUresult CUDAAPI cuMemHostRegister_v2(void *pointer, size_t bytes, unsigned int) {
  LOOK_ALIKE_ENTER(Needs::context);
  if (pointer == nullptr || bytes == 0) return CUDA_ERROR_INVALID_VALUE;
  if (in_pinned_memory(pointer, 1)) return CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED;
  call.state().registered[address_of(pointer)] = {call.context(), bytes};
  return CUDA_SUCCESS;
}

LOOK_ALIKE_API CUresult CUDAAPI cuMemHostUnregister(void *pointer) {
  LOOK_ALIKE_ENTER(Needs::context);
  if (call.state().registered.count(address_of(pointer)) == 0) return CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED;
  if (const CUresult status = finish_context(call.context()); status != CUDA_SUCCESS) return status;
  call.state().registered.erase(address_of(pointer));
  return CUDA_SUCCESS;
}
