/** grpc-js calls as promises and iterators that heed an AbortSignal. */
import type {
  CallOptions as GrpcCallOptions,
  ClientReadableStream,
  ClientUnaryCall,
  ServiceError,
} from "@grpc/grpc-js";
import { InternalError } from "../shared/errors.ts";
import { fromServiceError } from "../shared/rpc/status.ts";

export interface CallOptions {
  /** Ends the call at once; the call then throws the signal's reason. */
  readonly signal?: AbortSignal | undefined;
  /** Time the server has to answer. Defaults to the client's `deadlineMs`. */
  readonly deadlineMs?: number | undefined;
}

/** Opens a call with its callback last, as grpc-js does. */
export type StartUnary<Response> = (
  options: GrpcCallOptions,
  callback: (error: ServiceError | null, response?: Response) => void,
) => ClientUnaryCall;

/**
 * One request, one answer.
 * @param target whom the call goes to, for errors: `coordinator at 127.0.0.1:50051`
 */
export async function callUnary<Response>(
  start: StartUnary<Response>,
  options: { target: string; deadlineMs: number; signal: AbortSignal | undefined },
): Promise<Response> {
  const { target, deadlineMs, signal } = options;
  signal?.throwIfAborted();
  let cancel = () => {};
  try {
    return await new Promise<Response>((resolve, reject) => {
      const pending = start({ deadline: Date.now() + deadlineMs }, (error, response) => {
        if (error !== null) reject(fromServiceError(error, target));
        else if (response === undefined) reject(new InternalError(`${target}: empty answer`));
        else resolve(response);
      });
      cancel = () => pending.cancel();
      signal?.addEventListener("abort", cancel);
    });
  } catch (error) {
    throw signal?.aborted ? signal.reason : error;
  } finally {
    signal?.removeEventListener("abort", cancel);
  }
}

/** The messages of a server stream. Leaving the loop early cancels the call. */
export async function* readStream<Response>(
  open: () => ClientReadableStream<Response>,
  target: string,
  signal: AbortSignal | undefined,
): AsyncGenerator<Response, void, undefined> {
  signal?.throwIfAborted();
  const stream = open();
  const cancel = () => stream.cancel();
  signal?.addEventListener("abort", cancel);
  // A cancelled stream reports its end once more after the loop has stopped listening.
  stream.on("error", () => {});
  try {
    for await (const message of stream as AsyncIterable<Response>) yield message;
  } catch (error) {
    throw signal?.aborted ? signal.reason : fromServiceError(error, target);
  } finally {
    signal?.removeEventListener("abort", cancel);
    stream.cancel();
  }
}
