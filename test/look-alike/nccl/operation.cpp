#include "operation.h"

#include <cstdio>
#include <cstring>

namespace look_alike_nccl {

namespace {

constexpr int NOT_READY = 600;
const char *const NAMES[] = {"all-reduce", "reduce-scatter", "all-gather", "send", "receive"};

float widen(std::uint16_t half) {
  const std::uint32_t bits = static_cast<std::uint32_t>(half) << 16;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

std::uint16_t narrow(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, 4);
  if ((bits & 0x7fffffff) > 0x7f800000) return static_cast<std::uint16_t>((bits >> 16) | 0x40);
  return static_cast<std::uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

template <class T>
void add_as(char *sum, const char *term, std::size_t count) {
  for (std::size_t i = 0; i < count; i++) {
    T a, b;
    std::memcpy(&a, sum + i * sizeof(T), sizeof(T));
    std::memcpy(&b, term + i * sizeof(T), sizeof(T));
    a = static_cast<T>(a + b);
    std::memcpy(sum + i * sizeof(T), &a, sizeof(T));
  }
}

void add_half(char *sum, const char *term, std::size_t count) {
  for (std::size_t i = 0; i < count; i++) {
    std::uint16_t a, b;
    std::memcpy(&a, sum + 2 * i, 2);
    std::memcpy(&b, term + 2 * i, 2);
    a = narrow(widen(a) + widen(b));
    std::memcpy(sum + 2 * i, &a, 2);
  }
}

void add(char *sum, const char *term, std::size_t count, int type) {
  switch (type) {
    case ncclInt32:
      return add_as<std::int32_t>(sum, term, count);
    case ncclFloat32:
      return add_as<float>(sum, term, count);
    case ncclFloat64:
      return add_as<double>(sum, term, count);
    default:
      return add_half(sum, term, count);
  }
}

/* A rank's part of an operation, in its area. */
struct Part {
  std::uint64_t count;
  const Item *items;
  const char *area;
};

Part part_of(const Meeting &meeting, int rank) {
  const char *area = meeting.area(rank);
  Part part{0, reinterpret_cast<const Item *>(area + 64), area};
  std::memcpy(&part.count, area, sizeof part.count);
  return part;
}

/* The nth call of a part that is no send or receive, or that is a send to `peer`. */
const Item *find(const Part &part, bool sends, int peer, std::size_t nth) {
  for (std::uint64_t i = 0; i < part.count; i++) {
    const Item &item = part.items[i];
    const bool fits = sends ? item.kind == send && item.peer == peer : item.kind < send;
    if (fits && nth-- == 0) return &item;
  }
  return nullptr;
}

std::string shown(const Item &item) {
  return std::string(NAMES[item.kind]) + " of " + std::to_string(item.count) + " elements of type " + std::to_string(item.type);
}

}  // namespace

std::size_t type_bytes(int type) {
  switch (type) {
    case ncclInt32:
    case ncclFloat32:
      return 4;
    case ncclFloat64:
      return 8;
    case ncclBfloat16:
      return 2;
    default:
      return 0;
  }
}

std::size_t given_bytes(const Item &item, int ranks) {
  const std::size_t bytes = item.count * type_bytes(item.type);
  if (item.kind == receive) return 0;
  return item.kind == reduce_scatter ? bytes * static_cast<std::size_t>(ranks) : bytes;
}

std::size_t taken_bytes(const Item &item, int ranks) {
  const std::size_t bytes = item.count * type_bytes(item.type);
  if (item.kind == send) return 0;
  return item.kind == all_gather ? bytes * static_cast<std::size_t>(ranks) : bytes;
}

Operation::Operation(std::shared_ptr<Members> members, std::vector<Item> items)
    : members_(std::move(members)), items_(std::move(items)), number_(++members_->enqueued) {}

int Operation::step() {
  if (members_->aborted || members_->error != 0) return members_->aborted ? 0 : NOT_READY;
  Progress &own = members_->meeting->progress(members_->rank);
  if (!posted_) {
    if (!everybody(&Progress::taken, number_ - 1)) return NOT_READY;
    if (!post()) return NOT_READY;
    posted_ = true;
    own.posted.store(number_);
  }
  if (!everybody(&Progress::posted, number_)) return NOT_READY;
  if (const std::string fault = take(); !fault.empty()) {
    std::fprintf(stderr, "look-alike: NCCL operation %llu of rank %d: %s\n", static_cast<unsigned long long>(number_),
                 members_->rank, fault.c_str());
    members_->error = ncclInternalError;
    return NOT_READY;
  }
  own.taken.store(number_);
  return 0;
}

bool Operation::everybody(std::atomic<std::uint64_t> Progress::*count, std::uint64_t least) const {
  for (int rank = 0; rank < members_->ranks; rank++)
    if ((members_->meeting->progress(rank).*count).load() < least) return false;
  return true;
}

bool Operation::post() {
  char *area = members_->meeting->area(members_->rank);
  const std::uint64_t count = items_.size();
  std::uint64_t at = 64 + count * sizeof(Item);
  for (Item &item : items_) {
    item.at = at;
    at += given_bytes(item, members_->ranks);
  }
  if (at > AREA_BYTES) {
    std::fprintf(stderr, "look-alike: a NCCL operation of %llu bytes is over %zu\n", static_cast<unsigned long long>(at), AREA_BYTES);
    members_->error = ncclSystemError;
    return false;
  }
  std::memcpy(area, &count, sizeof count);
  std::memcpy(area + 64, items_.data(), count * sizeof(Item));
  for (const Item &item : items_) {
    const std::size_t bytes = given_bytes(item, members_->ranks);
    if (bytes > 0) std::memcpy(area + item.at, item.from, bytes);
  }
  return true;
}

std::string Operation::take() const {
  std::size_t collectives = 0;
  std::vector<std::size_t> received(static_cast<std::size_t>(members_->ranks), 0);
  for (const Item &item : items_) {
    if (item.kind == send) continue;
    const std::size_t nth = item.kind == receive ? received[static_cast<std::size_t>(item.peer)]++ : collectives++;
    if (std::string fault = take(item, nth); !fault.empty()) return fault;
  }
  return "";
}

std::string Operation::take(const Item &item, std::size_t nth) const {
  const std::size_t bytes = item.count * type_bytes(item.type);
  char *to = static_cast<char *>(item.to);
  if (item.kind == receive) {
    const Part part = part_of(*members_->meeting, item.peer);
    const Item *sent = find(part, true, members_->rank, nth);
    if (sent == nullptr || sent->count != item.count || sent->type != item.type)
      return shown(item) + " meets " + (sent == nullptr ? "nothing" : shown(*sent)) + " of rank " + std::to_string(item.peer);
    if (bytes > 0) std::memcpy(to, part.area + sent->at, bytes);
    return "";
  }
  for (int rank = 0; rank < members_->ranks; rank++) {
    const Part part = part_of(*members_->meeting, rank);
    const Item *other = find(part, false, 0, nth);
    if (other == nullptr || other->kind != item.kind || other->count != item.count || other->type != item.type)
      return shown(item) + " meets " + (other == nullptr ? "nothing" : shown(*other)) + " of rank " + std::to_string(rank);
    if (bytes == 0) continue;
    const char *given = part.area + other->at;
    if (item.kind == all_gather) {
      std::memcpy(to + static_cast<std::size_t>(rank) * bytes, given, bytes);
      continue;
    }
    if (item.kind == reduce_scatter) given += static_cast<std::size_t>(members_->rank) * bytes;
    if (rank == 0) {
      std::memcpy(to, given, bytes);
    } else {
      add(to, given, item.count, item.type);
    }
  }
  return "";
}

}  // namespace look_alike_nccl
