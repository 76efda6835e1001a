/* Memory that the ranks of one communicator share: a file in /dev/shm, named by the unique id, that nobody finds any more once all are there. */
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>

namespace look_alike_nccl {

constexpr int MAX_RANKS = 64;
/* What one rank may put into one operation; pages that are not used cost nothing. */
constexpr std::size_t AREA_BYTES = std::size_t{256} << 20;

/* Counts of operations, the first is 1: a rank has put its part there, and has read the others'. */
struct Progress {
  std::atomic<std::uint64_t> posted, taken;
};

struct Head {
  std::atomic<std::uint32_t> ranks, arrived;
  std::atomic<std::uint32_t> here[MAX_RANKS];
  Progress progress[MAX_RANKS];
};

class Meeting {
 public:
  /* @throws std::runtime_error */
  Meeting(const std::string &name, int ranks, int rank);
  ~Meeting();
  Meeting(const Meeting &) = delete;
  Meeting &operator=(const Meeting &) = delete;

  bool complete() const { return head().arrived.load() == static_cast<std::uint32_t>(ranks_); }
  Progress &progress(int rank) const { return head().progress[rank]; }
  char *area(int rank) const;

 private:
  Head &head() const { return *static_cast<Head *>(memory_); }

  std::string name_;
  int ranks_;
  std::size_t bytes_;
  void *memory_;
};

}  // namespace look_alike_nccl
