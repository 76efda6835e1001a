#include "capture.h"

#include <algorithm>

#include "objects.h"
#include "stream.h"

using namespace look_alike;

namespace look_alike {

namespace {

/* The capture is over; its graph is the caller's. */
CUgraph end(Capture *capture) {
  for (CUstream stream : capture->streams) {
    stream->capture = nullptr;
    stream->tail.clear();
  }
  CUgraph graph = capture->graph;
  auto &captures = State::get().captures;
  captures.erase(std::find_if(captures.begin(), captures.end(), [&](const auto &c) { return c.get() == capture; }));
  return graph;
}

/* Whether every node but the origin's last ones leads to one of these. */
bool joined(const Capture &capture) {
  const std::set<CUgraphNode> last(capture.origin->tail.begin(), capture.origin->tail.end());
  std::set<CUgraphNode> reached = last;
  std::vector<CUgraphNode> open(last.begin(), last.end());
  while (!open.empty()) {
    const CUgraphNode node = open.back();
    open.pop_back();
    for (CUgraphNode before : node->after)
      if (reached.insert(before).second) open.push_back(before);
  }
  return reached.size() == capture.graph->nodes.size();
}

void add_missing(std::vector<CUgraphNode> &to, const std::vector<CUgraphNode> &nodes) {
  for (CUgraphNode node : nodes)
    if (std::find(to.begin(), to.end(), node) == to.end()) to.push_back(node);
}

}  // namespace

CUresult refuse_while_capturing() {
  for (const auto &capture : State::get().captures) {
    if (capture->mode == CU_STREAM_CAPTURE_MODE_RELAXED) continue;
    if (capture->mode == CU_STREAM_CAPTURE_MODE_THREAD_LOCAL && capture->thread != std::this_thread::get_id()) continue;
    capture->invalidated = true;
    return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  }
  return CUDA_SUCCESS;
}

CUresult refuse_legacy(CUcontext context) {
  for (const auto &capture : State::get().captures) {
    for (CUstream stream : capture->streams) {
      if (stream->context != context || (stream->flags & CU_STREAM_NON_BLOCKING) != 0) continue;
      capture->invalidated = true;
      return CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
    }
  }
  return CUDA_SUCCESS;
}

CUresult refuse_captured(CUstream stream) {
  if (stream->capture == nullptr) return CUDA_SUCCESS;
  stream->capture->invalidated = true;
  return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
}

Capture *live_capture(CUevent event) {
  if (event->capture == nullptr) return nullptr;
  for (const auto &capture : State::get().captures)
    if (capture.get() == event->capture && capture->serial == event->capture_serial) return capture.get();
  return nullptr;
}

void abandon_captures_of(CUcontext context) {
  std::vector<Capture *> found;
  for (const auto &capture : State::get().captures)
    if (capture->graph->context == context) found.push_back(capture.get());
  for (Capture *capture : found) delete end(capture);
}

CUresult record(CUstream stream, Work work) {
  if (stream->capture->invalidated) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
  auto node = std::make_unique<CUgraphNode_st>();
  node->work = std::move(work);
  node->after = stream->tail;
  stream->tail = {node.get()};
  stream->capture->graph->nodes.push_back(std::move(node));
  return CUDA_SUCCESS;
}

CUresult record_event_in_capture(CUstream stream, CUevent event, bool &handled) {
  handled = stream->capture != nullptr;
  if (!handled) return CUDA_SUCCESS;
  if (stream->capture->invalidated) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
  event->capture = stream->capture;
  event->capture_serial = stream->capture->serial;
  event->captured = stream->tail;
  return CUDA_SUCCESS;
}

CUresult wait_in_capture(CUstream stream, CUevent event, bool &handled) {
  Capture *of_event = live_capture(event);
  handled = stream->capture != nullptr || of_event != nullptr;
  if (!handled) return CUDA_SUCCESS;
  Capture *capture = stream->capture != nullptr ? stream->capture : of_event;
  if (capture->invalidated) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
  if (of_event == nullptr) {
    // A wait for work outside would be no part of the graph.
    capture->invalidated = true;
    return CUDA_ERROR_STREAM_CAPTURE_ISOLATION;
  }
  if (of_event != capture) {
    capture->invalidated = of_event->invalidated = true;
    return CUDA_ERROR_STREAM_CAPTURE_MERGE;
  }
  if (stream->capture == nullptr) {
    stream->capture = capture;
    stream->tail.clear();
    capture->streams.insert(stream);
  }
  add_missing(stream->tail, event->captured);
  return CUDA_SUCCESS;
}

}  // namespace look_alike

LOOK_ALIKE_API CUresult CUDAAPI cuStreamBeginCapture_v2(CUstream handle, CUstreamCaptureMode mode) {
  LOOK_ALIKE_ENTER(Needs::context);
  const StreamRef ref = stream_of(call.context(), handle);
  if (ref.queue == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  // The legacy stream cannot be captured.
  if (ref.stream == nullptr) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  if (ref.stream->capture != nullptr) return CUDA_ERROR_ILLEGAL_STATE;
  auto capture = std::make_unique<Capture>();
  capture->serial = ++call.state().serial;
  capture->origin = ref.stream;
  capture->mode = mode;
  capture->thread = std::this_thread::get_id();
  capture->graph = new CUgraph_st{};
  capture->graph->context = call.context();
  capture->streams.insert(ref.stream);
  ref.stream->capture = capture.get();
  ref.stream->tail.clear();
  call.state().captures.push_back(std::move(capture));
  return CUDA_SUCCESS;
}

LOOK_ALIKE_API CUresult CUDAAPI cuStreamEndCapture(CUstream handle, CUgraph *graph) {
  LOOK_ALIKE_ENTER(Needs::context);
  const StreamRef ref = stream_of(call.context(), handle);
  *graph = nullptr;
  if (ref.queue == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (ref.stream == nullptr || ref.stream->capture == nullptr) return CUDA_ERROR_ILLEGAL_STATE;
  Capture *capture = ref.stream->capture;
  CUresult status = CUDA_SUCCESS;
  if (capture->origin != ref.stream) {
    capture->invalidated = true;
    return CUDA_ERROR_STREAM_CAPTURE_UNMATCHED;
  }
  if (capture->mode != CU_STREAM_CAPTURE_MODE_RELAXED && capture->thread != std::this_thread::get_id())
    return CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD;
  if (capture->invalidated) {
    status = CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
  } else if (!joined(*capture)) {
    status = CUDA_ERROR_STREAM_CAPTURE_UNJOINED;
  }
  CUgraph made = end(capture);
  if (status != CUDA_SUCCESS) {
    delete made;
    return status;
  }
  call.state().graphs.insert(made);
  *graph = made;
  return CUDA_SUCCESS;
}

LOOK_ALIKE_API CUresult CUDAAPI cuStreamIsCapturing(CUstream handle, CUstreamCaptureStatus *status) {
  LOOK_ALIKE_ENTER(Needs::context);
  const StreamRef ref = stream_of(call.context(), handle);
  if (ref.queue == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  const Capture *capture = ref.stream == nullptr ? nullptr : ref.stream->capture;
  *status = capture == nullptr       ? CU_STREAM_CAPTURE_STATUS_NONE
            : capture->invalidated ? CU_STREAM_CAPTURE_STATUS_INVALIDATED
                                   : CU_STREAM_CAPTURE_STATUS_ACTIVE;
  return CUDA_SUCCESS;
}
