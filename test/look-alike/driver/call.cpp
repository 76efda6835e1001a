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

namespace {
bool listening = false;
std::string heard;
}  // namespace

void complain(const std::string &message) {
  if (listening) {
    heard += message + "\n";
  } else {
    std::fprintf(stderr, "look-alike: %s\n", message.c_str());
  }
}

}  // namespace look_alike

/* Whether complaints are kept for rm_lookalike_heard in place of going to standard error. */
LOOK_ALIKE_API void rm_lookalike_listen(int on) {
  const std::lock_guard<std::recursive_mutex> lock(look_alike::State::get().mutex);
  look_alike::listening = on != 0;
  look_alike::heard.clear();
}

/* What was kept since the last time, a line each, cut off at `size`. */
LOOK_ALIKE_API void rm_lookalike_heard(char *text, std::size_t size) {
  const std::lock_guard<std::recursive_mutex> lock(look_alike::State::get().mutex);
  std::snprintf(text, size, "%s", look_alike::heard.c_str());
  look_alike::heard.clear();
}
