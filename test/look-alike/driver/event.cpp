/* Events. */
#include "capture.h"
#include "objects.h"
#include "stream.h"

using namespace look_alike;

namespace {

/* Waiting for, or asking, an event that stands for a place in a capture: never possible, and the capture is lost. */
CUresult refuse_captured_event(CUevent event) {
  if (event->capture == nullptr) return CUDA_SUCCESS;
  if (Capture *capture = live_capture(event)) capture->invalidated = true;
  return CUDA_ERROR_CAPTURED_EVENT;
}

}  // namespace

LOOK_ALIKE_API CUresult CUDAAPI cuEventCreate(CUevent *event, unsigned int flags) {
  LOOK_ALIKE_ENTER(Needs::context);
  // Blocking synchronisation, no timing; between processes is not here.
  if ((flags & ~3u) != 0) return CUDA_ERROR_INVALID_VALUE;
  auto *made = new CUevent_st{};
  made->context = call.context();
  made->flags = flags;
  call.state().events.insert(made);
  *event = made;
  return CUDA_SUCCESS;
}

LOOK_ALIKE_API CUresult CUDAAPI cuEventDestroy_v2(CUevent event) {
  LOOK_ALIKE_ENTER(Needs::context);
  if (call.state().events.count(event) == 0) return CUDA_ERROR_INVALID_HANDLE;
  destroy_event(event);
  return CUDA_SUCCESS;
}

LOOK_ALIKE_API CUresult CUDAAPI cuEventRecord(CUevent event, CUstream stream) {
  LOOK_ALIKE_ENTER(Needs::context);
  const StreamRef ref = stream_of(call.context(), stream);
  if (ref.queue == nullptr || call.state().events.count(event) == 0) return CUDA_ERROR_INVALID_HANDLE;
  if (ref.stream != nullptr) {
    bool handled = false;
    const CUresult status = record_event_in_capture(ref.stream, event, handled);
    if (handled) return status;
  }
  event->capture = nullptr;
  auto record = std::make_shared<CUevent_st::Record>();
  const CUresult status = submit(call.context(), ref,
                                 {"cuEventRecord",
                                  [record] {
                                    record->time = std::chrono::steady_clock::now();
                                    record->done = true;
                                    return Outcome{};
                                  },
                                  {}});
  if (status != CUDA_SUCCESS) return status;
  record->position = {ref.queue, ref.queue->submitted};
  event->record = record;
  return CUDA_SUCCESS;
}

LOOK_ALIKE_API CUresult CUDAAPI cuEventSynchronize(CUevent event) {
  LOOK_ALIKE_ENTER(Needs::context);
  if (call.state().events.count(event) == 0) return CUDA_ERROR_INVALID_HANDLE;
  if (const CUresult refused = refuse_captured_event(event); refused != CUDA_SUCCESS) return refused;
  return event->record == nullptr ? CUDA_SUCCESS : force(event->record->position);
}

/* As cuStreamQuery: the work runs, and the answer is once that it has not. */
LOOK_ALIKE_API CUresult CUDAAPI cuEventQuery(CUevent event) {
  LOOK_ALIKE_ENTER(Needs::context);
  if (call.state().events.count(event) == 0) return CUDA_ERROR_INVALID_HANDLE;
  if (const CUresult refused = refuse_captured_event(event); refused != CUDA_SUCCESS) return refused;
  if (event->record == nullptr || event->record->done) return CUDA_SUCCESS;
  const CUresult status = force(event->record->position, false);
  return status != CUDA_SUCCESS ? status : CUDA_ERROR_NOT_READY;
}

LOOK_ALIKE_API CUresult CUDAAPI cuEventElapsedTime_v2(float *milliseconds, CUevent start, CUevent end) {
  LOOK_ALIKE_ENTER(Needs::context);
  for (CUevent event : {start, end}) {
    if (call.state().events.count(event) == 0 || event->record == nullptr) return CUDA_ERROR_INVALID_HANDLE;
    if ((event->flags & CU_EVENT_DISABLE_TIMING) != 0) return CUDA_ERROR_INVALID_HANDLE;
    if (!event->record->done) return CUDA_ERROR_NOT_READY;
  }
  *milliseconds = std::chrono::duration<float, std::milli>(end->record->time - start->record->time).count();
  return CUDA_SUCCESS;
}

#ifndef LOOK_ALIKE_REAL_CUDA_H
/* The name that drivers before CUDA 13 have; cuda.h no longer declares it. */
LOOK_ALIKE_API CUresult CUDAAPI cuEventElapsedTime(float *milliseconds, CUevent start, CUevent end) {
  return cuEventElapsedTime_v2(milliseconds, start, end);
}
#endif
