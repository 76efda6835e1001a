#include "objects.h"

#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "../blas/blas.h"
#include "call.h"
#include "capture.h"
#include "memory.h"
#include "stream.h"

namespace look_alike {

namespace {

/* Applies to those of a set that belong to a context; the set may shrink meanwhile. */
template <class Set, class F>
void for_each_of(const Set &set, CUcontext context, F f) {
  std::vector<typename Set::value_type> found;
  for (auto object : set)
    if (object->context == context) found.push_back(object);
  for (auto object : found) f(object);
}

}  // namespace

void open_context(CUcontext context) {
  context->error = CUDA_SUCCESS;
  context->legacy = std::make_shared<Queue>();
  context->legacy->context = context;
}

void close_context(CUcontext context) {
  State &state = State::get();
  // Work that waits is dropped: what it would touch goes away now.
  for (CUstream stream : context->streams) stream->queue->done += stream->queue->waiting.size(), stream->queue->waiting.clear();
  abandon_captures_of(context);
  for_each_of(state.streams, context, destroy_stream);
  for_each_of(state.events, context, destroy_event);
  for_each_of(state.modules, context, destroy_module);
  for_each_of(state.graphs, context, destroy_graph);
  for_each_of(state.execs, context, destroy_exec);
  free_memory_of(context);
  context->legacy.reset();
}

void replace_devices() {
  State &state = State::get();
  for (const auto &context : state.contexts) {
    if (context->retained == 0) continue;
    close_context(context.get());
    context->retained = 0;
  }
  for (Blas *handle : state.blas) delete handle;
  state.blas.clear();
}

void destroy_stream(CUstream stream) {
  State &state = State::get();
  if (stream->capture != nullptr) {
    stream->capture->invalidated = true;
    stream->capture->streams.erase(stream);
  }
  stream->context->streams.erase(stream);
  state.streams.erase(stream);
  delete stream;
}

void destroy_event(CUevent event) {
  State::get().events.erase(event);
  delete event;
}

void destroy_module(CUmodule module) {
  State::get().modules.erase(module);
  for (const auto &[name, function] : module->functions) State::get().functions.erase(function.get());
  delete module;
}

void destroy_graph(CUgraph graph) {
  State::get().graphs.erase(graph);
  delete graph;
}

void destroy_exec(CUgraphExec exec) {
  State::get().execs.erase(exec);
  delete exec;
}

std::size_t list_leaks(std::string &text) {
  State &state = State::get();
  std::size_t count = 0;
  const auto line = [&](const std::string &what) {
    text += what + "\n";
    count++;
  };
  for (const auto &context : state.contexts) {
    if (context->retained == 0) continue;
    const std::string device = " on device " + std::to_string(context->ordinal);
    line("context" + device + ", retained " + std::to_string(context->retained) + " times");
    for (const auto &[address, allocation] : context->device_memory)
      line("device memory of " + std::to_string(allocation.bytes) + " bytes" + device + ", allocation " +
           std::to_string(allocation.serial));
  }
  for (const auto &[address, allocation] : state.pinned)
    line("pinned memory of " + std::to_string(allocation.bytes) + " bytes, allocation " + std::to_string(allocation.serial));
  for (std::size_t i = 0; i < state.registered.size(); i++) line("registered host memory");
  for (std::size_t i = 0; i < state.streams.size(); i++) line("stream");
  for (std::size_t i = 0; i < state.events.size(); i++) line("event");
  for (std::size_t i = 0; i < state.modules.size(); i++) line("module");
  for (std::size_t i = 0; i < state.graphs.size(); i++) line("graph");
  for (std::size_t i = 0; i < state.execs.size(); i++) line("executable graph");
  for (std::size_t i = 0; i < state.blas.size(); i++) line("cuBLAS handle");
  return count;
}

namespace {

/* At the end of the process, where RANKMESH_LOOKALIKE_LEAKS names a file. */
__attribute__((destructor)) void report_leaks() {
  const char *path = std::getenv("RANKMESH_LOOKALIKE_LEAKS");
  if (path == nullptr || *path == '\0') return;
  std::string text;
  if (list_leaks(text) == 0) return;
  std::FILE *file = std::fopen(path, "a");
  if (file == nullptr) return complain(std::string("cannot append to ") + path);
  const std::string head = "process " + std::to_string(getpid()) + ": ";
  std::string lines;
  for (std::size_t at = 0, end; (end = text.find('\n', at)) != std::string::npos; at = end + 1)
    lines += head + text.substr(at, end + 1 - at);
  std::fwrite(lines.data(), 1, lines.size(), file);
  std::fclose(file);
}

}  // namespace

}  // namespace look_alike

/* Writes a line for each object that is alive, cut off at `size`; returns how many there are. */
LOOK_ALIKE_API std::size_t rm_lookalike_leaks(char *text, std::size_t size) {
  using namespace look_alike;
  const std::lock_guard<std::recursive_mutex> lock(State::get().mutex);
  std::string lines;
  const std::size_t count = list_leaks(lines);
  if (size > 0) std::snprintf(text, size, "%s", lines.c_str());
  return count;
}
