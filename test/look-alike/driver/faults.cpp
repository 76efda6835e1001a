#include "faults.h"

#include <algorithm>
#include <cstdlib>
#include <sstream>

#include "call.h"
#include "objects.h"

namespace look_alike {

bool is_sticky(int status) {
  switch (status) {
    case CUDA_ERROR_ECC_UNCORRECTABLE:
    case CUDA_ERROR_NVLINK_UNCORRECTABLE:
    case CUDA_ERROR_CONTAINED:
    case CUDA_ERROR_ILLEGAL_ADDRESS:
    case CUDA_ERROR_LAUNCH_TIMEOUT:
    case CUDA_ERROR_ASSERT:
    case CUDA_ERROR_HARDWARE_STACK_ERROR:
    case CUDA_ERROR_ILLEGAL_INSTRUCTION:
    case CUDA_ERROR_MISALIGNED_ADDRESS:
    case CUDA_ERROR_INVALID_ADDRESS_SPACE:
    case CUDA_ERROR_INVALID_PC:
    case CUDA_ERROR_LAUNCH_FAILED:
      return true;
    default:
      return false;
  }
}

Faults &Faults::get() {
  static Faults *faults = new Faults;
  return *faults;
}

Faults::Faults() {
  if (const char *text = std::getenv("RANKMESH_LOOKALIKE_FAULTS")) parse(text);
}

void Faults::parse(const std::string &text) {
  std::istringstream items(text);
  for (std::string item; std::getline(items, item, ',');) {
    item.erase(0, std::min(item.find_first_not_of(' '), item.size()));
    const std::size_t colon = item.find(':'), equals = item.find('=');
    if (colon == std::string::npos || equals == std::string::npos || equals < colon) {
      complain("RANKMESH_LOOKALIKE_FAULTS: '" + item + "' is not CALL:N=STATUS");
      std::abort();
    }
    const std::string status = item.substr(equals + 1);
    add(item.substr(0, colon), std::strtoull(item.c_str() + colon + 1, nullptr, 10),
        status == "lost" ? LOST : std::atoi(status.c_str()));
  }
}

void Faults::add(const std::string &name, std::uint64_t nth, int status) {
  faults_.push_back({name, calls_[name] + nth, status});
}

void Faults::clear() {
  faults_.clear();
  if (lost_) replace_devices();
  lost_ = false;
}

std::uint64_t Faults::calls(const std::string &name) const {
  const auto found = calls_.find(name);
  return found == calls_.end() ? 0 : found->second;
}

int Faults::next(const char *name) {
  const std::uint64_t nth = ++calls_[name], nth_of_all = ++calls_["*"];
  if (lost_) return LOST;
  const auto hit = std::find_if(faults_.begin(), faults_.end(), [&](const Fault &fault) {
    return fault.name == "*" ? fault.at == nth_of_all : fault.name == name && fault.at == nth;
  });
  if (hit == faults_.end()) return 0;
  const int status = hit->status;
  faults_.erase(hit);
  lost_ = status == LOST;
  return status;
}

}  // namespace look_alike

using look_alike::Faults;
using look_alike::State;

LOOK_ALIKE_API void rm_lookalike_fault(const char *name, std::uint64_t nth, int status) {
  const std::lock_guard<std::recursive_mutex> lock(State::get().mutex);
  Faults::get().add(name, nth, status);
}

/*
 * Forgets faults that are still to come. A device that was lost is replaced, with nothing on it. What a context answers since a
 * failure stays.
 */
LOOK_ALIKE_API void rm_lookalike_clear() {
  const std::lock_guard<std::recursive_mutex> lock(State::get().mutex);
  Faults::get().clear();
}

/* How often a function was called so far. */
LOOK_ALIKE_API std::uint64_t rm_lookalike_calls(const char *name) {
  const std::lock_guard<std::recursive_mutex> lock(State::get().mutex);
  return Faults::get().calls(name);
}
