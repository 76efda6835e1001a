#include "grid.h"

#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <thread>

namespace look_alike {

namespace {

/* Below this a launch is over before a helper has woken up. */
constexpr unsigned long long THREADS_WORTH_HELP = 8192;
constexpr unsigned MOST_WORKERS = 4;

/* The blocks of one launch; whoever is free takes the next few. */
class Job {
 public:
  Job(const Launch &launch, unsigned workers) : launch_(launch) {
    blocks_ = static_cast<unsigned long long>(launch.grid.x) * launch.grid.y * launch.grid.z;
    chunk_ = std::max(1ull, std::min(64ull, blocks_ / (workers * 8ull)));
  }
  unsigned long long blocks() const { return blocks_; }

  void work() {
    BlockRunner &runner = BlockRunner::mine();
    const dim3 grid = launch_.grid;
    while (!failed_.load(std::memory_order_relaxed)) {
      const unsigned long long first = next_.fetch_add(chunk_), last = std::min(first + chunk_, blocks_);
      if (first >= blocks_) return;
      for (unsigned long long i = first; i < last; i++) {
        const dim3 index(static_cast<unsigned>(i % grid.x), static_cast<unsigned>(i / grid.x % grid.y),
                         static_cast<unsigned>(i / grid.x / grid.y));
        Outcome outcome = runner.run(launch_, index, i);
        if (outcome.status == 0) continue;
        if (!failed_.exchange(true)) outcome_ = std::move(outcome);
        return;
      }
    }
  }
  /* After all workers have returned. */
  Outcome outcome() { return std::move(outcome_); }

 private:
  const Launch &launch_;
  unsigned long long blocks_, chunk_;
  std::atomic<unsigned long long> next_{0};
  std::atomic<bool> failed_{false};
  Outcome outcome_;
};

/* Helpers sleep between launches and never spin: several test processes share the cores. */
class Helpers {
 public:
  static Helpers &all() {
    // Lives until the process ends: its threads do.
    static Helpers *helpers = new Helpers;
    return *helpers;
  }
  unsigned count() const { return count_; }

  void run(Job &job) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      job_ = &job;
      generation_++;
    }
    wake_.notify_all();
    job.work();
    // A helper that has not begun by now finds nothing to do.
    std::unique_lock<std::mutex> lock(mutex_);
    job_ = nullptr;
    idle_.wait(lock, [this] { return busy_ == 0; });
  }

 private:
  Helpers() {
    const unsigned cores = std::max(1u, std::thread::hardware_concurrency());
    count_ = std::min(cores, MOST_WORKERS) - 1;
    for (unsigned i = 0; i < count_; i++) std::thread([this] { serve(); }).detach();
  }
  [[noreturn]] void serve() {
    unsigned long long seen = 0;
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      wake_.wait(lock, [&] { return job_ != nullptr && generation_ != seen; });
      seen = generation_;
      Job &job = *job_;
      busy_++;
      lock.unlock();
      job.work();
      lock.lock();
      if (--busy_ == 0) idle_.notify_all();
    }
  }

  unsigned count_ = 0, busy_ = 0;
  unsigned long long generation_ = 0;
  Job *job_ = nullptr;
  std::mutex mutex_;
  std::condition_variable wake_, idle_;
};

}  // namespace

Outcome run_grid(const Launch &launch) {
  Helpers &helpers = Helpers::all();
  Job job(launch, helpers.count() + 1);
  const unsigned long long threads = job.blocks() * launch.block.x * launch.block.y * launch.block.z;
  if (helpers.count() == 0 || job.blocks() == 1 || threads < THREADS_WORTH_HELP) {
    job.work();
  } else {
    helpers.run(job);
  }
  return job.outcome();
}

}  // namespace look_alike
