/** Client calls as promises and async iterables, with a deadline on each and our error classes. */
import type {
  CallOptions,
  ClientReadableStream,
  ClientUnaryCall,
  requestCallback,
} from "@grpc/grpc-js";
import { CancelledError } from "../errors.ts";
import { fromServiceError } from "./status.ts";

export const DEFAULT_UNARY_TIMEOUT_MS = 10_000;

export interface CallSettings {
  /** Whom the call goes to, for errors: "coordinator at 127.0.0.1:50051". */
  readonly target: string;
  /** Milliseconds to the deadline. @default DEFAULT_UNARY_TIMEOUT_MS */
  readonly timeoutMs?: number;
  readonly signal?: AbortSignal | undefined;
}

/**
 * The reply of a unary call: `callUnary((options, done) => client.getJob(request, options, done), { target })`.
 * Waits for a connection until the deadline only when `options.waitForReady` is set by `start`.
 * @throws the class that `fromServiceError` finds
 */
export function callUnary<Response>(
  start: (options: CallOptions, done: requestCallback<Response>) => ClientUnaryCall,
  settings: CallSettings,
): Promise<Response> {
  const { target, timeoutMs = DEFAULT_UNARY_TIMEOUT_MS, signal } = settings;
  return new Promise((resolve, reject) => {
    if (signal?.aborted === true) {
      reject(new CancelledError(`call to ${target} was cancelled before it began`));
      return;
    }
    const cancel = (): void => call.cancel();
    const call = start({ deadline: Date.now() + timeoutMs }, (error, response) => {
      signal?.removeEventListener("abort", cancel);
      if (error !== null) reject(fromServiceError(error, target));
      else if (response !== undefined) resolve(response);
      else reject(new CancelledError(`${target} ended the call without a reply`));
    });
    signal?.addEventListener("abort", cancel, { once: true });
  });
}

/**
 * The messages of a server stream. Leaving the loop, or `signal`, cancels the call.
 * @throws the class that `fromServiceError` finds
 */
export async function* readStream<Response>(
  call: ClientReadableStream<Response>,
  target: string,
  signal?: AbortSignal,
): AsyncGenerator<Response, void, void> {
  const cancel = (): void => call.cancel();
  // The stream may fail once more after the loop has been left; nobody else listens then.
  call.on("error", () => undefined);
  if (signal?.aborted === true) cancel();
  signal?.addEventListener("abort", cancel, { once: true });
  try {
    for await (const message of call) yield message as Response;
  } catch (error) {
    throw fromServiceError(error, target);
  } finally {
    signal?.removeEventListener("abort", cancel);
    call.cancel();
  }
}
