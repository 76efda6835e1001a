/* What every entry point does first. */
#pragma once
#include "state.h"

#define LOOK_ALIKE_API extern "C" __attribute__((visibility("default")))

namespace look_alike {

enum class Needs {
  nothing,
  /* cuInit before. */
  driver,
  /* A current context that works. */
  context,
};

/* Holds the lock; asks the injected faults and the context whether the call may go on. */
class Call {
 public:
  Call(const char *name, Needs needs);
  Call(const Call &) = delete;
  Call &operator=(const Call &) = delete;

  /* What the call answers at once, or CUDA_SUCCESS: go on. */
  CUresult refused() const { return refused_; }
  State &state() const { return state_; }
  CUcontext context() const { return context_; }

 private:
  State &state_;
  std::lock_guard<std::recursive_mutex> lock_;
  CUcontext context_ = nullptr;
  CUresult refused_ = CUDA_SUCCESS;
};

/* Prints "look-alike: ...": what a status alone does not tell. Under the lock. */
void complain(const std::string &message);

}  // namespace look_alike

/* Opens an entry point: `call` is the Call. */
#define LOOK_ALIKE_ENTER(needs)                     \
  const ::look_alike::Call call(__func__, needs);   \
  if (call.refused() != CUDA_SUCCESS) return call.refused()
