/* cuGetErrorName and cuGetErrorString. */
#include "call.h"

namespace {

struct Entry {
  CUresult status;
  const char *name;
};

#define LOOK_ALIKE_ENTRY(name, value) {name, #name},
constexpr Entry ENTRIES[] = {LOOK_ALIKE_RESULTS(LOOK_ALIKE_ENTRY)};
#undef LOOK_ALIKE_ENTRY

const char *name_of(CUresult status) {
  for (const Entry &entry : ENTRIES)
    if (entry.status == status) return entry.name;
  return nullptr;
}

}  // namespace

LOOK_ALIKE_API CUresult CUDAAPI cuGetErrorName(CUresult error, const char **pStr) {
  *pStr = name_of(error);
  return *pStr == nullptr ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}

/* The real driver has a sentence for each; here it is the name again. */
LOOK_ALIKE_API CUresult CUDAAPI cuGetErrorString(CUresult error, const char **pStr) { return cuGetErrorName(error, pStr); }
