/* Modules: PTX whose kernels have twins for the CPU in this library. */
#include <algorithm>
#include <cstdio>
#include <cstring>

#include "capture.h"
#include "objects.h"
#include "ptx.h"

using namespace look_alike;

namespace {

const Kernel *kernels = nullptr;

bool is_for(const Kernel &kernel, int target) {
  for (const int *t = kernel.targets; *t != 0; t++)
    if (*t == target) return true;
  return false;
}

const Kernel *find_kernel(const std::string &name, int target) {
  for (const Kernel *kernel = kernels; kernel != nullptr; kernel = kernel->next)
    if (name == kernel->name && is_for(*kernel, target)) return kernel;
  return nullptr;
}

/* Empty, or why a kernel of the PTX and its twin are not of one source. */
std::string mismatch(const PtxEntry &entry, const Kernel *kernel, int target) {
  const std::string whose = "PTX entry " + entry.name;
  if (kernel == nullptr)
    return whose + " has no CPU twin for target sm_" + std::to_string(target) +
           ": is its .cu file new, or its `// targets:` line without this one?";
  const std::string source = std::string(kernel->source) + " has ";
  const std::string advice = ": run node scripts/build-ptx.mjs and node scripts/build-look-alike.mjs";
  if (kernel->parameter_count != entry.parameter_bytes.size())
    return whose + " takes " + std::to_string(entry.parameter_bytes.size()) + " parameters, but " + source +
           std::to_string(kernel->parameter_count) + advice;
  for (unsigned i = 0; i < kernel->parameter_count; i++)
    if (kernel->parameters[i].bytes != entry.parameter_bytes[i])
      return whose + " takes " + std::to_string(entry.parameter_bytes[i]) + " bytes as parameter " + std::to_string(i) +
             ", but " + source + std::to_string(kernel->parameters[i].bytes) + advice;
  return {};
}

CUresult load(const Call &call, CUmodule *module, const void *image, std::string &log) {
  if (const CUresult unsafe = refuse_while_capturing(); unsafe != CUDA_SUCCESS) return unsafe;
  const auto *text = static_cast<const char *>(image);
  if (text == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (std::strncmp(text, "\x7f" "ELF", 4) == 0) {
    log = "machine code (cubin, fatbin) cannot be loaded here, only PTX";
    return CUDA_ERROR_INVALID_IMAGE;
  }
  const auto ptx = parse_ptx(text);
  if (ptx->target == 0) {
    log = "no .target in this text; is it PTX?";
    return CUDA_ERROR_INVALID_PTX;
  }
  if (ptx->version > 90) {
    log = "PTX of version " + std::to_string(ptx->version / 10) + "." + std::to_string(ptx->version % 10) +
          " is newer than this driver's 9.0";
    return CUDA_ERROR_UNSUPPORTED_PTX_VERSION;
  }
  const int capability = Settings::get().compute_capability;
  if (ptx->target > capability || (ptx->this_chip_only && ptx->target != capability)) {
    log = "PTX for sm_" + std::to_string(ptx->target) + (ptx->this_chip_only ? "a" : "") + " does not run on sm_" +
          std::to_string(capability);
    return CUDA_ERROR_NO_BINARY_FOR_GPU;
  }
  auto made = std::make_unique<CUmod_st>();
  made->context = call.context();
  made->target = ptx->target;
  for (const PtxEntry &entry : ptx->entries) {
    const Kernel *kernel = find_kernel(entry.name, ptx->target);
    log = mismatch(entry, kernel, ptx->target);
    if (!log.empty()) return CUDA_ERROR_INVALID_PTX;
    auto function = std::make_unique<CUfunc_st>();
    *function = {kernel, made.get(), entry.max_threads, entry.shared_bytes, 0};
    made->functions[entry.name] = std::move(function);
  }
  *module = made.release();
  for (const auto &[name, function] : (*module)->functions) call.state().functions.insert(function.get());
  call.state().modules.insert(*module);
  return CUDA_SUCCESS;
}

}  // namespace

void look_alike::register_kernel(Kernel *kernel) {
  kernel->next = kernels;
  kernels = kernel;
}

LOOK_ALIKE_API CUresult CUDAAPI cuModuleLoadDataEx(CUmodule *module, const void *image, unsigned int count, CUjit_option *options,
                                                   void **values) {
  LOOK_ALIKE_ENTER(Needs::context);
  std::string log;
  const CUresult status = load(call, module, image, log);
  if (!log.empty()) complain(log);
  char *buffer = nullptr;
  std::size_t size = 0;
  for (unsigned i = 0; i < count; i++) {
    if (options[i] == CU_JIT_ERROR_LOG_BUFFER) buffer = static_cast<char *>(values[i]);
    if (options[i] == CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES) size = reinterpret_cast<std::size_t>(values[i]) & 0xffffffffu;
  }
  if (buffer != nullptr && size > 0) std::snprintf(buffer, size, "%s", log.c_str());
  return status;
}

LOOK_ALIKE_API CUresult CUDAAPI cuModuleLoadData(CUmodule *module, const void *image) {
  LOOK_ALIKE_ENTER(Needs::context);
  std::string log;
  const CUresult status = load(call, module, image, log);
  if (!log.empty()) complain(log);
  return status;
}

LOOK_ALIKE_API CUresult CUDAAPI cuModuleUnload(CUmodule module) {
  LOOK_ALIKE_ENTER(Needs::context);
  if (const CUresult unsafe = refuse_while_capturing(); unsafe != CUDA_SUCCESS) return unsafe;
  if (call.state().modules.count(module) == 0) return CUDA_ERROR_INVALID_HANDLE;
  destroy_module(module);
  return CUDA_SUCCESS;
}

LOOK_ALIKE_API CUresult CUDAAPI cuModuleGetFunction(CUfunction *function, CUmodule module, const char *name) {
  LOOK_ALIKE_ENTER(Needs::context);
  if (call.state().modules.count(module) == 0) return CUDA_ERROR_INVALID_HANDLE;
  const auto found = module->functions.find(name);
  if (found == module->functions.end()) return CUDA_ERROR_NOT_FOUND;
  *function = found->second.get();
  return CUDA_SUCCESS;
}

LOOK_ALIKE_API CUresult CUDAAPI cuFuncGetAttribute(int *value, CUfunction_attribute attribute, CUfunction function) {
  LOOK_ALIKE_ENTER(Needs::context);
  if (call.state().functions.count(function) == 0) return CUDA_ERROR_INVALID_HANDLE;
  switch (attribute) {
    case CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK:
      *value = static_cast<int>(function->max_threads);
      break;
    case CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES:
      *value = static_cast<int>(function->static_shared);
      break;
    case CU_FUNC_ATTRIBUTE_NUM_REGS:
      *value = 32;
      break;
    case CU_FUNC_ATTRIBUTE_PTX_VERSION:
    case CU_FUNC_ATTRIBUTE_BINARY_VERSION:
      *value = function->module->target;
      break;
    case CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES:
      *value = static_cast<int>(function->max_dynamic_shared);
      break;
    default:
      *value = 0;
  }
  return CUDA_SUCCESS;
}

LOOK_ALIKE_API CUresult CUDAAPI cuFuncSetAttribute(CUfunction function, CUfunction_attribute attribute, int value) {
  LOOK_ALIKE_ENTER(Needs::context);
  if (call.state().functions.count(function) == 0) return CUDA_ERROR_INVALID_HANDLE;
  if (attribute == CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT) return CUDA_SUCCESS;
  if (attribute != CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES) return CUDA_ERROR_INVALID_VALUE;
  if (value < 0 || static_cast<std::size_t>(value) + function->static_shared > shared_memory_limit()) return CUDA_ERROR_INVALID_VALUE;
  function->max_dynamic_shared = static_cast<std::size_t>(value);
  return CUDA_SUCCESS;
}
