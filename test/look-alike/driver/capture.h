/* Recording a stream's work as a graph. */
#pragma once
#include "call.h"

namespace look_alike {

/* The status that a call gets which may not be made while some stream is being captured: then the capture is lost, too. */
CUresult refuse_while_capturing();
/* The same for use of the legacy stream: IMPLICIT where a blocking stream is being captured. */
CUresult refuse_legacy(CUcontext context);
/* The same for waiting on, or asking, a stream that is being captured. */
CUresult refuse_captured(CUstream stream);

/* The capture that an event was last recorded in, if that still goes on. */
Capture *live_capture(CUevent event);

/* Ends all captures of a context that goes away. */
void abandon_captures_of(CUcontext context);

/* Makes a node of a stream in capture. */
CUresult record(CUstream stream, Work work);

/* cuEventRecord and cuStreamWaitEvent where a capture is involved; `handled` tells whether it was. */
CUresult record_event_in_capture(CUstream stream, CUevent event, bool &handled);
CUresult wait_in_capture(CUstream stream, CUevent event, bool &handled);

}  // namespace look_alike
