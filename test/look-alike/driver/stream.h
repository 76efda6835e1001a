/*
 * Streams. Work is queued and runs when somebody waits for it, and no earlier: whoever forgets to wait, or to order two
 * streams, reads old bytes. Waiting for one stream leaves the others' work where it is, but for what events bind it to.
 */
#pragma once
#include "call.h"

namespace look_alike {

/* The queue that a handle stands for; null for a handle of no stream. 0 and CU_STREAM_LEGACY are the legacy default stream. */
struct StreamRef {
  std::shared_ptr<Queue> queue;
  /* Null for the legacy default stream. */
  CUstream stream = nullptr;
};
StreamRef stream_of(CUcontext context, CUstream handle);

/* Queues work, or records it where the stream is being captured. */
CUresult submit(CUcontext context, const StreamRef &to, Work work);

/* Runs the first `position.count` pieces of a stream, and what they depend on. Work that is not ready is waited for, or is NOT_READY. */
CUresult force(const Position &position, bool wait = true);
/* Runs all that a stream, or a context, has. */
CUresult finish_stream(const StreamRef &stream);
CUresult finish_context(CUcontext context);
/* Runs what synchronous copies wait for: the legacy stream, and with it all that are bound to it. */
CUresult finish_legacy(CUcontext context);

/* Whether an event's record, or a stream's work, is done. */
bool is_done(const Position &position);

/* Pieces of work that wait, in all streams of a context. */
std::size_t waiting_in(CUcontext context);

}  // namespace look_alike
