/** Handlers as async functions: their errors become statuses, their streams respect backpressure and cancel. */
import type { handleServerStreamingCall, handleUnaryCall } from "@grpc/grpc-js";
import { RepeatedRace } from "../repeated-race.ts";
import { toServiceError } from "./status.ts";

export interface CallContext {
  /** Fires when the client cancels, its deadline passes or its connection ends. */
  readonly signal: AbortSignal;
  /** Address the client calls from, for logs. */
  readonly peer: string;
}

/** A unary handler from a function; what it throws is sent as `toServiceError` says. */
export function unary<Request, Response>(
  handler: (request: Request, context: CallContext) => Response | Promise<Response>,
): handleUnaryCall<Request, Response> {
  return (call, callback) => {
    const abort = new AbortController();
    call.on("cancelled", () => abort.abort());
    const context = { signal: abort.signal, peer: call.getPeer() };
    Promise.resolve()
      .then(() => handler(call.request, context))
      .then(
        (response) => callback(null, response),
        (error: unknown) => callback(toServiceError(error)),
      );
  };
}

/**
 * A server-streaming handler from an async generator. The next message is asked for only when the client's
 * window has room, so that a slow reader holds a few messages and not the whole stream.
 */
export function serverStreaming<Request, Response>(
  handler: (request: Request, context: CallContext) => AsyncIterable<Response>,
): handleServerStreamingCall<Request, Response> {
  return (call) => {
    const abort = new AbortController();
    call.on("cancelled", () => abort.abort());
    const aborted = new RepeatedRace(
      new Promise<"aborted">((resolve) => {
        abort.signal.addEventListener("abort", () => resolve("aborted"), { once: true });
      }),
    );

    const pump = async (): Promise<void> => {
      const context = { signal: abort.signal, peer: call.getPeer() };
      const iterator = handler(call.request, context)[Symbol.asyncIterator]();
      for (;;) {
        const next = await aborted.against(iterator.next());
        if (next === "aborted" || abort.signal.aborted) {
          // Not awaited: a generator in mid-wait returns only when that wait ends.
          iterator.return?.().catch(() => undefined);
          return;
        }
        if (next.done === true) {
          call.end();
          return;
        }
        if (!call.write(next.value)) {
          await aborted.against(new Promise((resolve) => call.once("drain", resolve)));
        }
      }
    };
    pump().catch((error: unknown) => {
      if (!abort.signal.aborted) call.emit("error", toServiceError(error));
    });
  };
}
