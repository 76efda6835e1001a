#include "call.h"

#include <cstdio>

#include "faults.h"

namespace look_alike {

Call::Call(const char *name, Needs needs) : state_(State::get()), lock_(state_.mutex) {
  Faults &faults = Faults::get();
  const CUresult injected = static_cast<CUresult>(faults.next(name));
  if (injected != CUDA_SUCCESS) {
    refused_ = injected;
    if (is_sticky(injected) && current_context() != nullptr) current_context()->error = injected;
    return;
  }
  if (needs == Needs::nothing) return;
  if (!state_.initialised) {
    refused_ = CUDA_ERROR_NOT_INITIALIZED;
    return;
  }
  if (needs == Needs::driver) return;
  context_ = current_context();
  if (context_ == nullptr) {
    refused_ = CUDA_ERROR_INVALID_CONTEXT;
  } else if (context_->retained == 0) {
    refused_ = CUDA_ERROR_CONTEXT_IS_DESTROYED;
  } else {
    refused_ = context_->error;
  }
}

void complain(const std::string &message) { std::fprintf(stderr, "look-alike: %s\n", message.c_str()); }

}  // namespace look_alike
