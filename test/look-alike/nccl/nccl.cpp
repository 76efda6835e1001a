/*
 * NCCL's entry points. Communicators never block, as where ncclConfig_t says so; operations run in the look-alike driver's
 * streams, when somebody asks for what comes after them, and never where a rank is missing: as on a GPU, whoever waits for them
 * without looking at anything else waits for ever.
 */
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <stdexcept>

#include "operation.h"

using namespace look_alike_nccl;

struct ncclComm {
  std::shared_ptr<Members> members;
};

namespace {

/* 2.99.0, or as RANKMESH_LOOKALIKE_NCCL_VERSION says. */
int version() {
  const char *text = std::getenv("RANKMESH_LOOKALIKE_NCCL_VERSION");
  return text == nullptr ? 29900 : std::atoi(text);
}

/* Calls between ncclGroupStart and ncclGroupEnd, of this thread. */
struct Group {
  int depth = 0;
  struct Call {
    ncclComm_t comm;
    CUstream stream;
    Item item;
  };
  std::vector<Call> calls;
};
thread_local Group group;

ncclResult_t refuse(const char *call, const std::string &why) {
  std::fprintf(stderr, "look-alike: %s: %s\n", call, why.c_str());
  return ncclInvalidArgument;
}

int step_of(void *operation) { return static_cast<Operation *>(operation)->step(); }
void drop(void *operation) { delete static_cast<Operation *>(operation); }

ncclResult_t launch(ncclComm_t comm, CUstream stream, std::vector<Item> items) {
  auto *operation = new Operation(comm->members, std::move(items));
  return rm_lookalike_enqueue(stream, step_of, drop, operation) == CUDA_SUCCESS ? ncclSuccess : ncclUnhandledCudaError;
}

ncclResult_t enqueue(const char *call, ncclComm_t comm, CUstream stream, Item item) {
  if (comm == nullptr) return refuse(call, "no communicator");
  const Members &members = *comm->members;
  if (members.error != 0 || members.aborted || !members.meeting->complete()) return refuse(call, "the communicator is not ready");
  if (type_bytes(item.type) == 0) return refuse(call, "data type " + std::to_string(item.type));
  if (item.peer < 0 || item.peer >= members.ranks) return refuse(call, "peer " + std::to_string(item.peer));
  const auto on_device = [](const void *at, std::size_t bytes) {
    return bytes == 0 || rm_lookalike_on_device(reinterpret_cast<CUdeviceptr>(at), bytes) != 0;
  };
  const std::size_t given = given_bytes(item, members.ranks), taken = taken_bytes(item, members.ranks);
  if (!on_device(item.from, given) || !on_device(item.to, taken)) return refuse(call, "memory that is not the device's");
  const char *from = static_cast<const char *>(item.from), *to = static_cast<const char *>(item.to);
  if (given > 0 && taken > 0 && from < to + taken && to < from + given) {
    const std::size_t own = static_cast<std::size_t>(members.rank) * item.count * type_bytes(item.type);
    const bool in_place = item.kind == all_gather       ? from == to + own
                          : item.kind == reduce_scatter ? to == from + own
                                                        : from == to;
    if (!in_place) return refuse(call, "operands overlap, and not as in place");
  }
  if (group.depth > 0) {
    group.calls.push_back({comm, stream, item});
    return ncclSuccess;
  }
  return launch(comm, stream, {item});
}

}  // namespace

NCCL_LOOK_ALIKE_API ncclResult_t ncclGetVersion(int *out) {
  *out = version();
  return ncclSuccess;
}

NCCL_LOOK_ALIKE_API const char *ncclGetErrorString(ncclResult_t result) {
  switch (result) {
    case ncclSuccess:
      return "no error";
    case ncclUnhandledCudaError:
      return "unhandled cuda error (run with NCCL_DEBUG=INFO for details)";
    case ncclSystemError:
      return "unhandled system error (run with NCCL_DEBUG=INFO for details)";
    case ncclInternalError:
      return "internal error - please report this issue to the NCCL developers";
    case ncclInvalidArgument:
      return "invalid argument (run with NCCL_DEBUG=WARN for details)";
    case ncclInvalidUsage:
      return "invalid usage (run with NCCL_DEBUG=WARN for details)";
    case ncclRemoteError:
      return "remote process exited or there was a network error";
    case ncclInProgress:
      return "NCCL operation in progress";
  }
  return "unknown result code";
}

NCCL_LOOK_ALIKE_API ncclResult_t ncclGetUniqueId(ncclUniqueId *id) {
  static std::mutex mutex;
  static int count = 0;
  const std::lock_guard<std::mutex> lock(mutex);
  const long long now = std::chrono::steady_clock::now().time_since_epoch().count();
  std::memset(id, 0, sizeof *id);
  std::snprintf(id->internal, sizeof id->internal, "/rankmesh-look-alike-nccl-%d-%d-%llx", getpid(), count++, now);
  return ncclSuccess;
}

NCCL_LOOK_ALIKE_API ncclResult_t ncclCommInitRankConfig(ncclComm_t *comm, int ranks, ncclUniqueId id, int rank,
                                                        ncclConfig_t *config) {
  *comm = nullptr;
  if (config == nullptr || config->magic != 0xcafebeef || config->size < 24) return refuse(__func__, "the configuration");
  if (config->blocking != 0) return refuse(__func__, "only communicators that do not block are here");
  if (ranks < 1 || ranks > MAX_RANKS || rank < 0 || rank >= ranks) return refuse(__func__, "ranks");
  if (std::strncmp(id.internal, "/rankmesh-look-alike-nccl-", 26) != 0) return refuse(__func__, "the unique id");
  auto members = std::make_shared<Members>();
  members->ranks = ranks;
  members->rank = rank;
  try {
    members->meeting = std::make_unique<Meeting>(id.internal, ranks, rank);
  } catch (const std::runtime_error &error) {
    std::fprintf(stderr, "look-alike: %s: %s\n", __func__, error.what());
    return ncclSystemError;
  }
  *comm = new ncclComm{std::move(members)};
  return ncclInProgress;
}

NCCL_LOOK_ALIKE_API ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t *error) {
  if (comm == nullptr) return refuse(__func__, "no communicator");
  const Members &members = *comm->members;
  *error = members.error != 0                ? static_cast<ncclResult_t>(members.error)
           : members.meeting->complete() ? ncclSuccess
                                         : ncclInProgress;
  return ncclSuccess;
}

NCCL_LOOK_ALIKE_API ncclResult_t ncclCommAbort(ncclComm_t comm) {
  if (comm == nullptr) return refuse(__func__, "no communicator");
  comm->members->aborted = true;
  delete comm;
  return ncclSuccess;
}

NCCL_LOOK_ALIKE_API ncclResult_t ncclAllReduce(const void *from, void *to, std::size_t count, int type, int op, ncclComm_t comm,
                                               CUstream stream) {
  if (op != ncclSum) return refuse(__func__, "only sums are here");
  return enqueue(__func__, comm, stream, {all_reduce, 0, type, 0, count, 0, from, to});
}

NCCL_LOOK_ALIKE_API ncclResult_t ncclReduceScatter(const void *from, void *to, std::size_t count, int type, int op,
                                                   ncclComm_t comm, CUstream stream) {
  if (op != ncclSum) return refuse(__func__, "only sums are here");
  return enqueue(__func__, comm, stream, {reduce_scatter, 0, type, 0, count, 0, from, to});
}

NCCL_LOOK_ALIKE_API ncclResult_t ncclAllGather(const void *from, void *to, std::size_t count, int type, ncclComm_t comm,
                                               CUstream stream) {
  return enqueue(__func__, comm, stream, {all_gather, 0, type, 0, count, 0, from, to});
}

NCCL_LOOK_ALIKE_API ncclResult_t ncclSend(const void *from, std::size_t count, int type, int peer, ncclComm_t comm,
                                          CUstream stream) {
  return enqueue(__func__, comm, stream, {send, peer, type, 0, count, 0, from, nullptr});
}

NCCL_LOOK_ALIKE_API ncclResult_t ncclRecv(void *to, std::size_t count, int type, int peer, ncclComm_t comm, CUstream stream) {
  return enqueue(__func__, comm, stream, {receive, peer, type, 0, count, 0, nullptr, to});
}

NCCL_LOOK_ALIKE_API ncclResult_t ncclGroupStart() {
  group.depth++;
  return ncclSuccess;
}

NCCL_LOOK_ALIKE_API ncclResult_t ncclGroupEnd() {
  if (group.depth == 0) return ncclInvalidUsage;
  if (--group.depth > 0) return ncclSuccess;
  const std::vector<Group::Call> calls = std::move(group.calls);
  group.calls.clear();
  if (calls.empty()) return ncclSuccess;
  std::vector<Item> items;
  for (const auto &call : calls) {
    if (call.comm != calls.front().comm || call.stream != calls.front().stream)
      return refuse(__func__, "groups of one communicator and stream are what is here");
    items.push_back(call.item);
  }
  return launch(calls.front().comm, calls.front().stream, std::move(items));
}
