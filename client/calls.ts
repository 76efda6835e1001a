/** The service's calls as the SDK makes them: an aborted one throws its signal's reason, as `fetch` does. */
import type { ClientReadableStream } from "@grpc/grpc-js";
import { readStream } from "../shared/rpc/call.ts";

export interface CallOptions {
  /** Ends the call at once; the call then throws the signal's reason. */
  readonly signal?: AbortSignal | undefined;
  /** Time the server has to answer, in milliseconds. Defaults to the client's `deadlineMs`. */
  readonly deadlineMs?: number | undefined;
}

/** Makes one call, unless it is aborted already. */
export async function heedingSignal<T>(
  signal: AbortSignal | undefined,
  call: () => Promise<T>,
): Promise<T> {
  signal?.throwIfAborted();
  try {
    return await call();
  } catch (error) {
    throw signal?.aborted ? signal.reason : error;
  }
}

/** The messages of a server stream. Leaving the loop early cancels the call. */
export async function* streamHeedingSignal<Response>(
  signal: AbortSignal | undefined,
  target: string,
  open: () => ClientReadableStream<Response>,
): AsyncGenerator<Response, void, undefined> {
  signal?.throwIfAborted();
  try {
    yield* readStream(open(), target, signal);
  } catch (error) {
    throw signal?.aborted ? signal.reason : error;
  }
}
