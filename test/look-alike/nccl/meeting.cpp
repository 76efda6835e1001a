#include "meeting.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <stdexcept>

namespace look_alike_nccl {

namespace {
constexpr std::size_t HEAD_BYTES = (sizeof(Head) + 4095) / 4096 * 4096;
}

Meeting::Meeting(const std::string &name, int ranks, int rank)
    : name_(name), ranks_(ranks), bytes_(HEAD_BYTES + static_cast<std::size_t>(ranks) * AREA_BYTES) {
  const int file = shm_open(name.c_str(), O_RDWR | O_CREAT, 0600);
  // A new file is all zeros, which is how the counts begin; whoever comes second asks for the same size.
  if (file < 0 || ftruncate(file, static_cast<off_t>(bytes_)) != 0) {
    const int reason = errno;
    if (file >= 0) close(file);
    throw std::runtime_error(name + ": " + std::strerror(reason));
  }
  memory_ = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, file, 0);
  close(file);
  if (memory_ == MAP_FAILED) throw std::runtime_error(name + ": " + std::strerror(errno));
  std::uint32_t nobody = 0;
  const bool same = head().ranks.compare_exchange_strong(nobody, static_cast<std::uint32_t>(ranks)) ||
                    nobody == static_cast<std::uint32_t>(ranks);
  if (!same || head().here[rank].exchange(1) != 0) {
    munmap(memory_, bytes_);
    throw std::runtime_error(name + ": rank " + std::to_string(rank) + " of " + std::to_string(ranks) + " is taken");
  }
  if (head().arrived.fetch_add(1) + 1 == static_cast<std::uint32_t>(ranks)) shm_unlink(name.c_str());
}

Meeting::~Meeting() {
  if (!complete()) shm_unlink(name_.c_str());
  munmap(memory_, bytes_);
}

char *Meeting::area(int rank) const {
  return static_cast<char *>(memory_) + HEAD_BYTES + static_cast<std::size_t>(rank) * AREA_BYTES;
}

}  // namespace look_alike_nccl
