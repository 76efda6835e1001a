#include "stream.h"

#include <algorithm>

#include "capture.h"
#include "memory.h"
#include "objects.h"

using namespace look_alike;

namespace look_alike {

namespace {

bool blocks_on_legacy(CUstream stream) { return (stream->flags & CU_STREAM_NON_BLOCKING) == 0; }

void depend_on(Work &work, const std::shared_ptr<Queue> &queue) {
  if (queue->done < queue->submitted) work.after.push_back({queue, queue->submitted});
}

/* Runs the oldest piece of a queue. After a failure the rest is dropped. */
void run_front(Queue &queue) {
  Work work = std::move(queue.waiting.front());
  queue.waiting.pop_front();
  if (queue.context->error == CUDA_SUCCESS) {
    const Outcome outcome = work.run();
    if (outcome.status != 0) {
      complain(outcome.message);
      queue.context->error = static_cast<CUresult>(outcome.status);
    }
  }
  queue.done++;
}

}  // namespace

StreamRef stream_of(CUcontext context, CUstream handle) {
  if (handle == nullptr || handle == CU_STREAM_LEGACY) return {context->legacy, nullptr};
  if (State::get().streams.count(handle) == 0) return {};
  return {handle->queue, handle};
}

CUresult submit(CUcontext context, const StreamRef &to, Work work) {
  if (to.queue == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (to.stream != nullptr && to.stream->capture != nullptr) return record(to.stream, std::move(work));
  if (to.stream == nullptr) {
    if (const CUresult refused = refuse_legacy(context); refused != CUDA_SUCCESS) return refused;
    for (CUstream other : context->streams)
      if (blocks_on_legacy(other)) depend_on(work, other->queue);
  } else if (blocks_on_legacy(to.stream)) {
    depend_on(work, context->legacy);
  }
  to.queue->waiting.push_back(std::move(work));
  to.queue->submitted++;
  return CUDA_SUCCESS;
}

CUresult force(const Position &position, bool wait) {
  // Work depends only on work that was submitted earlier, so there are no circles. No recursion: chains may be long.
  std::vector<Position> wanted{position};
  while (!wanted.empty()) {
    const Position top = wanted.back();
    if (is_done(top)) {
      wanted.pop_back();
      continue;
    }
    const Work &front = top.queue->waiting.front();
    const auto &after = front.after;
    const auto unmet = std::find_if(after.begin(), after.end(), [](const Position &p) { return !is_done(p); });
    if (unmet != after.end()) {
      wanted.push_back(*unmet);
    } else if (front.ready && top.queue->context->error == CUDA_SUCCESS && !front.ready()) {
      if (!wait) return CUDA_ERROR_NOT_READY;
      std::this_thread::sleep_for(std::chrono::microseconds(100));
    } else {
      run_front(*top.queue);
    }
  }
  return position.queue->context->error;
}

CUresult finish_stream(const StreamRef &stream) {
  if (stream.stream == nullptr) return finish_legacy(stream.queue->context);
  return force({stream.queue, stream.queue->submitted});
}

CUresult finish_legacy(CUcontext context) {
  for (CUstream stream : context->streams)
    if (blocks_on_legacy(stream)) force({stream->queue, stream->queue->submitted});
  return force({context->legacy, context->legacy->submitted});
}

CUresult finish_context(CUcontext context) {
  for (CUstream stream : context->streams) force({stream->queue, stream->queue->submitted});
  return force({context->legacy, context->legacy->submitted});
}

bool is_done(const Position &position) { return position.queue == nullptr || position.queue->done >= position.count; }

std::size_t waiting_in(CUcontext context) {
  std::size_t count = context->legacy->waiting.size();
  for (CUstream stream : context->streams) count += stream->queue->waiting.size();
  return count;
}

}  // namespace look_alike

namespace {

bool valid_flags(unsigned flags) { return (flags & ~static_cast<unsigned>(CU_STREAM_NON_BLOCKING)) == 0; }

CUstream make_stream(CUcontext context, unsigned flags) {
  auto *stream = new CUstream_st{};
  stream->context = context;
  stream->flags = flags;
  stream->queue = std::make_shared<Queue>();
  stream->queue->context = context;
  context->streams.insert(stream);
  State::get().streams.insert(stream);
  return stream;
}

}  // namespace

LOOK_ALIKE_API CUresult CUDAAPI cuStreamCreateWithPriority(CUstream *stream, unsigned int flags, int) {
  LOOK_ALIKE_ENTER(Needs::context);
  if (!valid_flags(flags)) return CUDA_ERROR_INVALID_VALUE;
  *stream = make_stream(call.context(), flags);
  return CUDA_SUCCESS;
}

LOOK_ALIKE_API CUresult CUDAAPI cuStreamCreate(CUstream *stream, unsigned int flags) {
  LOOK_ALIKE_ENTER(Needs::context);
  if (!valid_flags(flags)) return CUDA_ERROR_INVALID_VALUE;
  *stream = make_stream(call.context(), flags);
  return CUDA_SUCCESS;
}

LOOK_ALIKE_API CUresult CUDAAPI cuCtxGetStreamPriorityRange(int *least, int *greatest) {
  LOOK_ALIKE_ENTER(Needs::context);
  if (least != nullptr) *least = 0;
  if (greatest != nullptr) *greatest = -5;
  return CUDA_SUCCESS;
}

LOOK_ALIKE_API CUresult CUDAAPI cuStreamDestroy_v2(CUstream stream) {
  LOOK_ALIKE_ENTER(Needs::context);
  const StreamRef ref = stream_of(call.context(), stream);
  if (ref.stream == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  // Returns at once in reality, and lets the work finish: nobody can tell the difference.
  finish_stream(ref);
  destroy_stream(stream);
  return call.context()->error;
}

LOOK_ALIKE_API CUresult CUDAAPI cuStreamSynchronize(CUstream stream) {
  LOOK_ALIKE_ENTER(Needs::context);
  const StreamRef ref = stream_of(call.context(), stream);
  if (ref.queue == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  const CUresult refused = ref.stream == nullptr ? refuse_legacy(call.context()) : refuse_captured(ref.stream);
  return refused != CUDA_SUCCESS ? refused : finish_stream(ref);
}

/* Lets the work run, but says once that it has not: a host that asks must go on asking. */
LOOK_ALIKE_API CUresult CUDAAPI cuStreamQuery(CUstream stream) {
  LOOK_ALIKE_ENTER(Needs::context);
  const StreamRef ref = stream_of(call.context(), stream);
  if (ref.queue == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  const CUresult refused = ref.stream == nullptr ? refuse_legacy(call.context()) : refuse_captured(ref.stream);
  if (refused != CUDA_SUCCESS) return refused;
  const bool done = is_done({ref.queue, ref.queue->submitted});
  const CUresult status = ref.stream == nullptr ? finish_stream(ref) : force({ref.queue, ref.queue->submitted}, false);
  return status != CUDA_SUCCESS ? status : done ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY;
}

LOOK_ALIKE_API CUresult CUDAAPI cuStreamWaitEvent(CUstream stream, CUevent event, unsigned int) {
  LOOK_ALIKE_ENTER(Needs::context);
  const StreamRef ref = stream_of(call.context(), stream);
  if (ref.queue == nullptr || call.state().events.count(event) == 0) return CUDA_ERROR_INVALID_HANDLE;
  if (ref.stream != nullptr) {
    bool handled = false;
    const CUresult status = wait_in_capture(ref.stream, event, handled);
    if (handled) return status;
  }
  // An event that was never recorded binds nothing.
  if (event->record == nullptr) return CUDA_SUCCESS;
  return submit(call.context(), ref, {"cuStreamWaitEvent", [] { return Outcome{}; }, {event->record->position}});
}

/* Pieces of work that wait in the current context. */
LOOK_ALIKE_API std::size_t rm_lookalike_waiting() {
  const std::lock_guard<std::recursive_mutex> lock(State::get().mutex);
  const CUcontext context = current_context();
  return context == nullptr || context->legacy == nullptr ? 0 : waiting_in(context);
}

/*
 * Work of another library (test/look-alike/nccl) in a stream of the current context: once what is before it is done, `step` is
 * called until it returns something other than 600, CUDA_ERROR_NOT_READY: 0, or the error that the context then has. `drop` is
 * called once, when it will not be called any more.
 */
LOOK_ALIKE_API CUresult CUDAAPI rm_lookalike_enqueue(CUstream stream, int (*step)(void *), void (*drop)(void *), void *argument) {
  LOOK_ALIKE_ENTER(Needs::context);
  const std::shared_ptr<void> held(argument, drop);
  const auto status = std::make_shared<int>(0);
  Work work{"collective", [status, held] { return Outcome{*status, *status == 0 ? "" : "a collective failed"}; }, {}};
  work.ready = [step, status, held] { return (*status = step(held.get())) != CUDA_ERROR_NOT_READY; };
  return submit(call.context(), stream_of(call.context(), stream), std::move(work));
}

/* Whether [address, address + bytes) is memory that a device may touch. */
LOOK_ALIKE_API int rm_lookalike_on_device(CUdeviceptr address, std::size_t bytes) {
  const std::lock_guard<std::recursive_mutex> lock(State::get().mutex);
  const CUcontext context = current_context();
  return context != nullptr && in_device_memory(context, address, bytes) ? 1 : 0;
}
