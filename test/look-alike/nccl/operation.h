/*
 * One operation of a communicator: what was enqueued between ncclGroupStart and ncclGroupEnd, or one call. Every rank puts what
 * it gives into its area of the meeting's memory, and takes what is for it when all have.
 */
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "meeting.h"
#include "nccl_types.h"

namespace look_alike_nccl {

enum Kind : std::int32_t { all_reduce, reduce_scatter, all_gather, send, receive };

/* One call. As it stands in a rank's area, followed by the bytes given. */
struct Item {
  Kind kind;
  /* Of send and receive. */
  std::int32_t peer;
  std::int32_t type;
  std::int32_t padding;
  /* Elements, as the call counts them. */
  std::uint64_t count;
  /* Where its bytes begin in the area. */
  std::uint64_t at;
  const void *from;
  void *to;
};

/* What a communicator's operations have in common; outlives it while operations wait in streams. */
struct Members {
  std::unique_ptr<Meeting> meeting;
  int ranks, rank;
  std::uint64_t enqueued = 0;
  bool aborted = false;
  /* ncclResult_t, as ncclCommGetAsyncError tells it. */
  int error = 0;
};

std::size_t type_bytes(int type);
/* Bytes that a call reads and writes. */
std::size_t given_bytes(const Item &item, int ranks);
std::size_t taken_bytes(const Item &item, int ranks);

class Operation {
 public:
  Operation(std::shared_ptr<Members> members, std::vector<Item> items);
  /* 0 when it is done or was aborted; 600 while ranks are missing. */
  int step();

 private:
  bool everybody(std::atomic<std::uint64_t> Progress::*count, std::uint64_t least) const;
  bool post();
  std::string take() const;
  std::string take(const Item &item, std::size_t nth) const;

  std::shared_ptr<Members> members_;
  std::vector<Item> items_;
  std::uint64_t number_;
  bool posted_ = false;
};

}  // namespace look_alike_nccl
