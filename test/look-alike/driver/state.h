/*
 * What the look-alike knows: devices with their primary contexts, and all objects behind handles. One mutex guards it all, and is
 * held while kernels run: a kernel calls nothing here.
 */
#pragma once
#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "../threads/block_runner.h"
#include "cuda_types.h"

namespace look_alike {

/* The first `count` pieces of work that a stream was given. */
struct Queue;
struct Position {
  std::shared_ptr<Queue> queue;
  std::uint64_t count = 0;
};

/* One thing that a stream does. `run` gives the context's error, which then is all that the context ever answers. */
struct Work {
  std::string what;
  std::function<Outcome()> run;
  /* Work of other streams that must be done before. */
  std::vector<Position> after;
  /* What else it waits for, outside this process; asked again and again. Empty: nothing. */
  std::function<bool()> ready = {};
};

/* Work of a stream, in order. Nothing runs until somebody waits for it. */
struct Queue {
  CUcontext context = nullptr;
  std::deque<Work> waiting;
  std::uint64_t submitted = 0, done = 0;
};

/* Bytes that were given out, with guards on both sides. */
struct Allocation {
  CUcontext context;
  char *base;
  std::size_t bytes;
  /* From `base` to what aligned_alloc gave. */
  char *raw;
  std::size_t raw_bytes;
  std::uint64_t serial;
};

struct Capture;

}  // namespace look_alike

struct CUctx_st {
  int ordinal;
  int retained = 0;
  /* After a failure of a kernel, or an injected one, all that every call answers. */
  CUresult error = CUDA_SUCCESS;
  std::map<CUdeviceptr, look_alike::Allocation> device_memory;
  std::size_t device_bytes = 0;
  std::shared_ptr<look_alike::Queue> legacy;
  std::set<CUstream> streams;
};

struct CUstream_st {
  CUcontext context;
  unsigned flags;
  std::shared_ptr<look_alike::Queue> queue;
  look_alike::Capture *capture = nullptr;
  /* In a capture: what the next node of this stream comes after. */
  std::vector<CUgraphNode> tail;
};

struct CUevent_st {
  CUcontext context;
  unsigned flags;
  /* Of one cuEventRecord; replaced by the next. */
  struct Record {
    look_alike::Position position;
    bool done = false;
    std::chrono::steady_clock::time_point time;
  };
  std::shared_ptr<Record> record;
  /* Where it was recorded in a capture, and what it then stands for. */
  look_alike::Capture *capture = nullptr;
  std::uint64_t capture_serial = 0;
  std::vector<CUgraphNode> captured;
};

struct CUgraphNode_st {
  look_alike::Work work;
  std::vector<CUgraphNode> after;
};

struct CUgraph_st {
  CUcontext context;
  std::vector<std::unique_ptr<CUgraphNode_st>> nodes;
};

struct CUgraphExec_st {
  CUcontext context;
  /* In an order that respects what each node comes after. Shared with launches that wait. */
  std::shared_ptr<const std::vector<look_alike::Work>> works;
};

struct CUfunc_st {
  const look_alike::Kernel *kernel;
  CUmodule module;
  unsigned max_threads;
  std::size_t static_shared;
  std::size_t max_dynamic_shared;
};

struct CUmod_st {
  CUcontext context;
  int target;
  std::map<std::string, std::unique_ptr<CUfunc_st>> functions;
};

namespace look_alike {

/* A capture in progress. */
struct Capture {
  std::uint64_t serial;
  CUstream origin;
  CUstreamCaptureMode mode;
  std::thread::id thread;
  CUgraph graph;
  std::set<CUstream> streams;
  bool invalidated = false;
};

/* A cuBLAS handle: blas/blas.h. */
struct Blas;

/* All there is. */
class State {
 public:
  static State &get();

  std::recursive_mutex mutex;
  bool initialised = false;
  std::vector<std::unique_ptr<CUctx_st>> contexts;  // by device
  std::map<CUdeviceptr, Allocation> pinned;
  /* Host memory that was pinned afterwards. */
  struct Registered {
    CUcontext context;
    std::size_t bytes;
  };
  std::map<CUdeviceptr, Registered> registered;
  std::unordered_set<CUstream> streams;
  std::unordered_set<CUevent> events;
  std::unordered_set<CUmodule> modules;
  std::unordered_set<CUfunction> functions;
  std::unordered_set<CUgraph> graphs;
  std::unordered_set<CUgraphExec> execs;
  std::unordered_set<Blas *> blas;
  std::vector<std::unique_ptr<Capture>> captures;
  std::uint64_t serial = 0;

  int device_count() const { return static_cast<int>(contexts.size()); }

 private:
  State();
};

/* As the environment sets them, read once: RANKMESH_LOOKALIKE_CC, _MEMORY, _DEVICES. */
struct Settings {
  /* 75, 80, 90 */
  int compute_capability;
  std::size_t memory_bytes;
  int devices;
  static const Settings &get();
};

/* Shared memory that a block may opt in to: static and dynamic together. */
std::size_t shared_memory_limit();

/* The calling thread's current context; null where it has none. */
CUcontext &current_context();

}  // namespace look_alike
