import type { handleClientStreamingCall, ServerReadableStream } from "@grpc/grpc-js";
import { FailedPreconditionError, InvalidArgumentError, NotFoundError } from "../shared/errors.ts";
import type { PushBatchesRequest__Output } from "../shared/rpc/gen/rankmesh/v1/PushBatchesRequest.ts";
import type { PushBatchesResponse } from "../shared/rpc/gen/rankmesh/v1/PushBatchesResponse.ts";
import { toServiceError } from "../shared/rpc/status.ts";
import type { StreamSource } from "./data/stream-source.ts";
import type { Job } from "./job/job.ts";
import type { StreamedBatches } from "./streamed-batches.ts";

/**
 * Takes batches one by one: the next message is read only when the job has room for it, so that HTTP/2 flow control slows a
 * fast client down. A job may be fed by several calls, one after another; the end of a call says nothing about the data's.
 */
export function pushBatchesHandler(
  streams: StreamedBatches,
  find: (jobId: string) => Job,
): handleClientStreamingCall<PushBatchesRequest__Output, PushBatchesResponse> {
  return (call, callback) => {
    const abort = new AbortController();
    call.on("cancelled", () => abort.abort(new FailedPreconditionError("the client went away")));
    takeAll(call, streams, find, abort.signal).then(
      (batches) => callback(null, { batches }),
      (error: unknown) => {
        callback(toServiceError(error));
        // What the client still sends is read and dropped, or its stream would never end.
        call.resume();
      },
    );
  };
}

async function takeAll(
  call: ServerReadableStream<PushBatchesRequest__Output, PushBatchesResponse>,
  streams: StreamedBatches,
  find: (jobId: string) => Job,
  signal: AbortSignal,
): Promise<number> {
  let source: StreamSource | undefined;
  let jobId = "";
  let batches = 0;
  // Not `for await`: leaving that loop destroys the call before its status is sent.
  const messages = call.iterator({ destroyOnReturn: false });
  for await (const message of messages as AsyncIterable<PushBatchesRequest__Output>) {
    if (source === undefined) {
      jobId = message.jobId;
      source = sourceOf(find(jobId), streams);
    } else if (message.jobId !== "" && message.jobId !== jobId) {
      throw new InvalidArgumentError([
        {
          path: "jobId",
          message: `this call feeds job ${jobId}, not ${JSON.stringify(message.jobId)}`,
        },
      ]);
    }
    await source.push(message.tensors, signal);
    batches += 1;
  }
  return batches;
}

function sourceOf(job: Job, streams: StreamedBatches): StreamSource {
  if (!job.takesPushedBatches) {
    throw new FailedPreconditionError(
      `job ${job.jobId} reads its own data; only jobs with data.stream are fed`,
    );
  }
  const source = streams.find(job.jobId);
  if (source !== undefined) return source;
  throw job.ended
    ? new FailedPreconditionError(
        `job ${job.jobId} is ${job.machine.phase} and takes no more batches`,
      )
    : new NotFoundError(`job ${job.jobId} has no stream`);
}
