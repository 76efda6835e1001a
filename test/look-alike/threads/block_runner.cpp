#include "block_runner.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "signals.h"

namespace look_alike {

__thread Thread *current = nullptr;

namespace {

constexpr std::size_t STACK = 64 << 10;
/* Bytes behind the dynamic shared memory of a block that must stay as they were. */
constexpr std::size_t GUARD = 256;
constexpr int LAUNCH_FAILED = 719, ILLEGAL_ADDRESS = 700;

std::size_t page_size() {
  static const std::size_t size = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  return size;
}

unsigned bit(unsigned lane) { return 1u << lane; }

}  // namespace

BlockRunner &BlockRunner::mine() {
  static thread_local BlockRunner runner;
  return runner;
}

BlockRunner::BlockRunner() : fiber_of_(MAX_THREADS), thread_(MAX_THREADS), warp_(MAX_THREADS / WARP), copies_(MAX_THREADS) {
  dynamic_shared_ = static_cast<float *>(aligned_alloc(1024, (DYNAMIC_SHARED_LIMIT + GUARD + 1023) / 1024 * 1024));
  catch_signals_of_this_thread();
}

BlockRunner::~BlockRunner() {
  for (Fiber *fiber : all_fibers_) {
    munmap(fiber->mapping, STACK + page_size());
    delete fiber;
  }
  free(dynamic_shared_);
  release_signals_of_this_thread();
}

BlockRunner::Fiber *BlockRunner::make_fiber() {
  const std::size_t page = page_size();
  void *mapping = mmap(nullptr, STACK + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapping == MAP_FAILED) {
    std::fprintf(stderr, "look-alike: no memory for the stack of thread %zu\n", all_fibers_.size());
    std::abort();
  }
  Fiber *fiber = new Fiber;
  fiber->mapping = static_cast<char *>(mapping);
  mprotect(fiber->mapping, page, PROT_NONE);
  fiber->bottom = fiber->mapping + page;
  // Stacks start at different offsets in their pages: else the hot end of all would share the same few lines of the cache.
  fiber->bytes = STACK - all_fibers_.size() % 32 * 128;
  prepare_context(fiber->context, fiber->bottom, fiber->bytes, fiber_entry);
  all_fibers_.push_back(fiber);
  return fiber;
}

BlockRunner::Fiber *BlockRunner::idle_fiber() {
  if (idle_.empty()) return make_fiber();
  Fiber *fiber = idle_.back();
  idle_.pop_back();
  return fiber;
}

bool BlockRunner::in_guard_page(const void *address) const {
  const char *at = static_cast<const char *>(address);
  for (const Fiber *fiber : all_fibers_)
    if (at >= fiber->mapping && at < fiber->bottom) return true;
  return false;
}

Outcome BlockRunner::run(const Launch &launch, dim3 block_idx, unsigned long long index) {
  launch_ = &launch;
  backwards_ = (index + launch.serial) % 2 != 0;
  block_ = {block_idx, launch.block, launch.grid, dynamic_shared_, this};
  threads_ = launch.block.x * launch.block.y * launch.block.z;
  warps_ = (threads_ + WARP - 1) / WARP;
  started_ = at_barrier_ = ready_warps_ = 0;
  votes_ = counted_ = 0;
  alive_ = threads_;
  for (unsigned w = 0; w < warps_; w++) {
    Warp &warp = warp_[w];
    const unsigned lanes = threads_ - w * WARP;
    warp.alive = lanes >= WARP ? ALL_LANES : bit(lanes) - 1;
    warp.ready = warp.at_barrier = warp.waiting_all = warp.waiting_some = 0;
    warp.mailbox.epoch = 0;
  }
  char *shared = reinterpret_cast<char *>(dynamic_shared_);
  std::memset(shared, 0xff, launch.shared_bytes + GUARD);

  outcome_ = {};
  running_ = true;
  starting_ = idle_fiber();
  switch_context(caller_, starting_->context);
  running_ = false;
  current = nullptr;

  if (outcome_.status != 0) {
    // Some fibers stand in the middle of a kernel.
    idle_ = all_fibers_;
    for (Copies &copies : copies_) copies.pending.clear();
    for (Fiber *fiber : all_fibers_) prepare_context(fiber->context, fiber->bottom, fiber->bytes, fiber_entry);
    return outcome_;
  }
  const char *behind = shared + launch.shared_bytes;
  // Equal to itself, one byte on: all bytes are the first.
  if (behind[0] == static_cast<char>(0xff) && std::memcmp(behind, behind + 1, GUARD - 1) == 0) return {};
  return {ILLEGAL_ADDRESS, "wrote past the end of its " + std::to_string(launch.shared_bytes) + " bytes of dynamic shared memory"};
}

void BlockRunner::fiber_entry() {
  BlockRunner &runner = mine();
  Fiber *self = runner.starting_;
  for (;;) runner.run_threads(self);
}

void BlockRunner::run_threads(Fiber *self) {
  const dim3 shape = launch_->block;
  while (started_ < threads_) {
    const unsigned index = backwards_ ? threads_ - 1 - started_ : started_;
    started_++;
    Thread &thread = thread_[index];
    thread.thread_idx = shape.y * shape.z == 1
                            ? uint3{index, 0, 0}
                            : uint3{index % shape.x, index / shape.x % shape.y, index / (shape.x * shape.y)};
    thread.lane = index % WARP;
    thread.block = &block_;
    thread.mailbox = &warp_[index / WARP].mailbox;
    fiber_of_[index] = self;
    copies_[index].groups = 0;
    current = &thread;
    launch_->kernel->call(launch_->arguments);
    if (!copies_[index].pending.empty()) {
      commit_copies();
      finish_copies(0);
    }
    exit_thread();
  }
  const auto last = static_cast<unsigned>(current - thread_.data());
  idle_.push_back(self);
  if (alive_ == 0) {
    switch_context(self->context, caller_);
  } else {
    switch_away(self->context, last / WARP, last % WARP);
  }
}

void BlockRunner::exit_thread() {
  const auto index = static_cast<unsigned>(current - thread_.data());
  Warp &warp = warp_[index / WARP];
  warp.alive &= ~bit(index % WARP);
  alive_--;
  if (warp.waiting_all | warp.waiting_some) release_lanes(warp, 0);
  if (alive_ != 0 && at_barrier_ == alive_) release_barrier();
}

void BlockRunner::make_ready(unsigned warp, unsigned lanes) {
  if (lanes == 0) return;
  warp_[warp].ready |= lanes;
  ready_warps_ |= bit(warp);
}

void BlockRunner::release_barrier() {
  for (unsigned w = 0; w < warps_; w++) {
    make_ready(w, warp_[w].at_barrier);
    warp_[w].at_barrier = 0;
  }
  at_barrier_ = 0;
  counted_ = votes_;
  votes_ = 0;
}

int BlockRunner::wait_for_block(bool vote) {
  const auto index = static_cast<unsigned>(current - thread_.data());
  const unsigned w = index / WARP, lane = index % WARP;
  warp_[w].at_barrier |= bit(lane);
  votes_ += vote;
  if (++at_barrier_ == alive_) {
    release_barrier();
    // This thread came last and simply goes on.
    warp_[w].ready &= ~bit(lane);
    if (warp_[w].ready == 0) ready_warps_ &= ~bit(w);
  } else {
    switch_away(fiber_of_[index]->context, w, lane);
  }
  return counted_;
}

bool BlockRunner::release_lanes(Warp &warp, unsigned self) {
  const auto w = static_cast<unsigned>(&warp - warp_.data());
  bool mine = false;
  if (warp.waiting_all != 0 && (warp.waiting_all & warp.alive) == warp.alive) {
    make_ready(w, warp.waiting_all & ~self);
    mine = (warp.waiting_all & self) != 0;
    warp.waiting_all = 0;
    warp.mailbox.epoch++;
  }
  for (unsigned left = warp.waiting_some; left != 0; left &= left - 1) {
    const unsigned mask = warp.masks[__builtin_ctz(left)], needed = mask & warp.alive;
    if ((warp.waiting_some & needed) != needed) continue;
    bool agreed = true;
    for (unsigned other = needed; other != 0; other &= other - 1) agreed = agreed && warp.masks[__builtin_ctz(other)] == mask;
    if (!agreed) continue;
    make_ready(w, needed & ~self);
    mine = mine || (needed & self) != 0;
    warp.waiting_some &= ~needed;
    left &= ~needed | (left & -left);
  }
  return mine;
}

void BlockRunner::wait_for_lanes(unsigned mask) {
  const auto index = static_cast<unsigned>(current - thread_.data());
  Warp &warp = warp_[index / WARP];
  const unsigned lane = index % WARP, self = bit(lane);
  if (mask == ALL_LANES) {
    warp.waiting_all |= self;
  } else {
    warp.waiting_some |= self;
    warp.masks[lane] = mask | self;
  }
  if (!release_lanes(warp, self)) switch_away(fiber_of_[index]->context, index / WARP, lane);
}

unsigned BlockRunner::next_bit(unsigned mask, unsigned from) const {
  if (backwards_) {
    const unsigned before = mask & (bit(from) - 1);
    return 31 - static_cast<unsigned>(__builtin_clz(before != 0 ? before : mask));
  }
  const unsigned behind = mask & ~(bit(from) | (bit(from) - 1));
  return static_cast<unsigned>(__builtin_ctz(behind != 0 ? behind : mask));
}

void BlockRunner::switch_away(Context &context, unsigned warp, unsigned lane) {
  unsigned next_warp = warp, ready = warp_[warp].ready;
  if (ready == 0) {
    if (started_ < threads_) {
      starting_ = idle_fiber();
      switch_context(context, starting_->context);
      return;
    }
    if (ready_warps_ == 0) fail(LAUNCH_FAILED, describe_deadlock());
    next_warp = next_bit(ready_warps_, warp);
    ready = warp_[next_warp].ready;
    lane = backwards_ ? 0 : WARP - 1;
  }
  const unsigned next = next_bit(ready, lane);
  ready &= ~bit(next);
  warp_[next_warp].ready = ready;
  if (ready == 0) ready_warps_ &= ~bit(next_warp);
  const unsigned index = next_warp * WARP + next;
  current = &thread_[index];
  switch_context(context, fiber_of_[index]->context);
}

void BlockRunner::start_copy(void *to, const void *from, unsigned bytes) {
  Copies &mine = copies_[static_cast<std::size_t>(current - thread_.data())];
  mine.pending.push_back({to, from, bytes, mine.groups});
}

void BlockRunner::commit_copies() { copies_[static_cast<std::size_t>(current - thread_.data())].groups++; }

void BlockRunner::finish_copies(unsigned younger) {
  Copies &mine = copies_[static_cast<std::size_t>(current - thread_.data())];
  // Copies that were not committed are of a group to come.
  std::size_t finished = 0;
  for (; finished < mine.pending.size(); finished++) {
    const Copy &copy = mine.pending[finished];
    if (copy.group + younger >= mine.groups) break;
    if (copy.from == nullptr) {
      std::memset(copy.to, 0, copy.bytes);
    } else {
      std::memcpy(copy.to, copy.from, copy.bytes);
    }
  }
  mine.pending.erase(mine.pending.begin(), mine.pending.begin() + static_cast<std::ptrdiff_t>(finished));
}

void BlockRunner::fail(int status, std::string message) {
  outcome_ = {status, std::move(message)};
  Context lost;
  switch_context(lost, caller_);
  __builtin_unreachable();
}

std::string BlockRunner::describe_deadlock() const {
  unsigned lanes = 0;
  for (unsigned w = 0; w < warps_; w++)
    lanes += static_cast<unsigned>(__builtin_popcount(warp_[w].waiting_all) + __builtin_popcount(warp_[w].waiting_some));
  return "waits for itself: of " + std::to_string(alive_) + " threads, " + std::to_string(at_barrier_) +
         " wait at __syncthreads and " + std::to_string(lanes) + " in functions of their warp (a device would hang)";
}

// What the header declares for kernels.

void wait_for_block() { current->block->runner->wait_for_block(false); }
void wait_for_lanes(unsigned mask) { current->block->runner->wait_for_lanes(mask); }
int count_in_block(bool vote) { return current->block->runner->wait_for_block(vote); }
void start_copy(void *to, const void *from, unsigned bytes) { current->block->runner->start_copy(to, from, bytes); }
void commit_copies() { current->block->runner->commit_copies(); }
void finish_copies(unsigned younger) { current->block->runner->finish_copies(younger); }

void fail_thread(int status, const char *what, const void *detail) {
  char text[256];
  if (detail == nullptr) {
    std::snprintf(text, sizeof text, "%s", what);
  } else {
    std::snprintf(text, sizeof text, "%s %p", what, detail);
  }
  current->block->runner->fail(status, text);
}

}  // namespace look_alike
