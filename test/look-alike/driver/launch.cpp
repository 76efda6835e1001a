/* cuLaunchKernel. */
#include <cstring>

#include "../threads/grid.h"
#include "memory.h"
#include "stream.h"

using namespace look_alike;

namespace {

/* What a launch was asked for; lives as long as some stream or graph may run it. */
struct Request {
  CUcontext context;
  const Kernel *kernel;
  dim3 grid, block;
  std::size_t shared_bytes;
  /* Copies of the arguments, each at a multiple of 16 bytes: structs may ask for that. */
  std::vector<char> storage;
  std::vector<void *> arguments;
};

constexpr std::size_t ALIGNMENT = 16;

std::shared_ptr<Request> copy_request(CUcontext context, const Kernel *kernel, void **params) {
  auto request = std::make_shared<Request>();
  request->context = context;
  request->kernel = kernel;
  std::size_t bytes = ALIGNMENT;
  for (unsigned i = 0; i < kernel->parameter_count; i++)
    bytes += (kernel->parameters[i].bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
  request->storage.resize(bytes);
  const auto start = reinterpret_cast<std::uintptr_t>(request->storage.data());
  char *at = request->storage.data() + (ALIGNMENT - start % ALIGNMENT) % ALIGNMENT;
  for (unsigned i = 0; i < kernel->parameter_count; i++) {
    const std::size_t size = kernel->parameters[i].bytes;
    std::memcpy(at, params[i], size);
    request->arguments.push_back(at);
    at += (size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
  }
  return request;
}

/* A pointer to no memory that the device knows is a bug of the host's; told before it does harm. */
Outcome check_pointers(const Request &request) {
  for (unsigned i = 0; i < request.kernel->parameter_count; i++) {
    if (!request.kernel->parameters[i].pointer) continue;
    CUdeviceptr address;
    std::memcpy(&address, request.arguments[i], sizeof address);
    if (address == 0 || known_to_device(request.context, address)) continue;
    char text[32];
    std::snprintf(text, sizeof text, "0x%llx", address);
    return {CUDA_ERROR_ILLEGAL_ADDRESS, std::string(request.kernel->name) + " was given " + text + " as argument " +
                                            std::to_string(i) + ": in no memory that the device knows"};
  }
  return {};
}

Outcome run(Request &request) {
  if (Outcome outcome = check_pointers(request); outcome.status != 0) return outcome;
  static unsigned launches = 0;
  Outcome outcome =
      run_grid({request.kernel, request.arguments.data(), request.grid, request.block, request.shared_bytes, launches++});
  if (outcome.status != 0) {
    outcome.message = std::string(request.kernel->name) + " (" + request.kernel->source + ") " + outcome.message;
    return outcome;
  }
  return check_guards(request.context, request.kernel->name);
}

}  // namespace

LOOK_ALIKE_API CUresult CUDAAPI cuLaunchKernel(CUfunction function, unsigned int grid_x, unsigned int grid_y, unsigned int grid_z,
                                               unsigned int block_x, unsigned int block_y, unsigned int block_z,
                                               unsigned int shared_bytes, CUstream stream, void **params, void **extra) {
  LOOK_ALIKE_ENTER(Needs::context);
  if (call.state().functions.count(function) == 0) return CUDA_ERROR_INVALID_HANDLE;
  // Arguments in one buffer are not here.
  if (extra != nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (params == nullptr && function->kernel->parameter_count > 0) return CUDA_ERROR_INVALID_VALUE;
  if (grid_x == 0 || grid_y == 0 || grid_z == 0 || grid_x > 2147483647u || grid_y > 65535 || grid_z > 65535)
    return CUDA_ERROR_INVALID_VALUE;
  if (block_x == 0 || block_y == 0 || block_z == 0 || block_x > 1024 || block_y > 1024 || block_z > 64)
    return CUDA_ERROR_INVALID_VALUE;
  if (block_x * block_y * block_z > function->max_threads) return CUDA_ERROR_INVALID_VALUE;
  // 48 KiB are there without asking; more by cuFuncSetAttribute.
  const std::size_t unasked = 49152 - std::min<std::size_t>(49152, function->static_shared);
  if (shared_bytes > std::max(unasked, function->max_dynamic_shared)) return CUDA_ERROR_INVALID_VALUE;
  const auto request = copy_request(call.context(), function->kernel, params);
  request->grid = {grid_x, grid_y, grid_z};
  request->block = {block_x, block_y, block_z};
  request->shared_bytes = shared_bytes;
  return submit(call.context(), stream_of(call.context(), stream), {function->kernel->name, [request] { return run(*request); }, {}});
}
