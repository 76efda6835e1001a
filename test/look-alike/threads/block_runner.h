/* Runs the threads of one block on the calling OS thread. */
#pragma once
#include <cuda_runtime.h>

#include <string>
#include <vector>

#include "switch.h"

namespace look_alike {

constexpr unsigned MAX_THREADS = 1024;
/* Dynamic shared memory of a block of Hopper: 227 KiB. */
constexpr std::size_t DYNAMIC_SHARED_LIMIT = 232448;

/* One launch, the same for all blocks. */
struct Launch {
  const Kernel *kernel;
  void **arguments;
  dim3 grid, block;
  std::size_t shared_bytes;
  /* Counts launches. */
  unsigned serial;
};

/* CUresult and what happened, in words; status 0 is success. */
struct Outcome {
  int status = 0;
  std::string message;
};

/*
 * A fiber takes one thread after the other; it keeps its stack only when its thread waits. So a kernel without barriers runs as
 * a plain loop, and one with barriers costs one change of stacks for each wait. All that the lanes of a warp can do comes before
 * the next warp. Every other block, and every other launch of a single one, runs backwards: where a barrier is missing, one of
 * the two orders is the wrong one.
 */
class BlockRunner {
 public:
  /* The calling OS thread's. */
  static BlockRunner &mine();

  /* `index`: of the block, in the order of the grid. */
  Outcome run(const Launch &launch, dim3 block_idx, unsigned long long index);

  // For threads of a kernel.
  int wait_for_block(bool vote);
  void wait_for_lanes(unsigned mask);
  void start_copy(void *to, const void *from, unsigned bytes);
  void commit_copies();
  void finish_copies(unsigned younger);
  [[noreturn]] void fail(int status, std::string message);

  /* Where to go on from a signal: the stack that called `run`. Null while no kernel runs. */
  Context *caller_while_running() { return running_ ? &caller_ : nullptr; }
  /* Notes a failure from a signal handler: `caller_` is resumed after it. */
  void note_failure(int status, std::string message) { outcome_ = {status, std::move(message)}; }
  bool in_guard_page(const void *address) const;

 private:
  struct Fiber {
    Context context;
    char *mapping;
    char *bottom;
    std::size_t bytes;
  };
  struct Warp {
    /* Bits of lanes. Alive: not exited, started or not. Ready: released from a wait, not yet running. */
    unsigned alive, ready, at_barrier, waiting_all, waiting_some;
    /* Of lanes in `waiting_some`. */
    unsigned masks[WARP];
    Mailbox mailbox;
  };

  /* Copies into shared memory that a thread started, oldest first; `group` counts its commits. */
  struct Copy {
    void *to;
    const void *from;
    unsigned bytes, group;
  };
  struct Copies {
    std::vector<Copy> pending;
    unsigned groups = 0;
  };

  BlockRunner();
  ~BlockRunner();
  static void fiber_entry();
  Fiber *make_fiber();
  Fiber *idle_fiber();
  void run_threads(Fiber *self);
  void exit_thread();
  /* Of the bits of a mask, the one that comes after `from` in this block's order, around the end. */
  unsigned next_bit(unsigned mask, unsigned from) const;
  void release_barrier();
  /* Wakes lanes that waited for ones that are there now; true if `self`, a bit, was among them. */
  bool release_lanes(Warp &warp, unsigned self);
  void make_ready(unsigned warp, unsigned lanes);
  /* Gives the OS thread to the next fiber; `context` is where the caller goes on later. */
  void switch_away(Context &context, unsigned warp, unsigned lane);
  std::string describe_deadlock() const;

  const Launch *launch_ = nullptr;
  Block block_{};
  unsigned threads_ = 0, warps_ = 0, started_ = 0, alive_ = 0, at_barrier_ = 0;
  int votes_ = 0, counted_ = 0;
  /* Bits of warps with ready lanes. */
  unsigned ready_warps_ = 0;
  bool running_ = false, backwards_ = false;
  Outcome outcome_;
  Context caller_;
  Fiber *starting_ = nullptr;
  std::vector<Fiber *> all_fibers_, idle_;
  std::vector<Fiber *> fiber_of_;
  std::vector<Thread> thread_;
  std::vector<Warp> warp_;
  std::vector<Copies> copies_;
  float *dynamic_shared_ = nullptr;
};

}  // namespace look_alike
