#include "state.h"

#include <cstdlib>
#include <cstring>

namespace look_alike {

namespace {

Settings read_settings() {
  Settings settings{75, std::size_t{8} << 30, 1};
  if (const char *text = std::getenv("RANKMESH_LOOKALIKE_CC")) {
    const int major = std::atoi(text);
    const char *dot = std::strchr(text, '.');
    settings.compute_capability = major * 10 + (dot == nullptr ? 0 : std::atoi(dot + 1));
  }
  if (const char *text = std::getenv("RANKMESH_LOOKALIKE_MEMORY")) settings.memory_bytes = std::strtoull(text, nullptr, 10);
  if (const char *text = std::getenv("RANKMESH_LOOKALIKE_DEVICES")) settings.devices = std::atoi(text);
  return settings;
}

}  // namespace

const Settings &Settings::get() {
  static const Settings settings = read_settings();
  return settings;
}

State::State() {
  for (int ordinal = 0; ordinal < Settings::get().devices; ordinal++) {
    contexts.push_back(std::make_unique<CUctx_st>());
    contexts.back()->ordinal = ordinal;
  }
}

State &State::get() {
  // Never destroyed: handles may be used, and leaks are told, while the process ends.
  static State *state = new State;
  return *state;
}

std::size_t shared_memory_limit() {
  const int capability = Settings::get().compute_capability;
  if (capability >= 90) return DYNAMIC_SHARED_LIMIT;
  return capability >= 80 ? 166912 : 65536;
}

CUcontext &current_context() {
  static thread_local CUcontext context = nullptr;
  return context;
}

}  // namespace look_alike
