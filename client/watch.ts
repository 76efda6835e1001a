import { setTimeout as delay } from "node:timers/promises";
import { UnavailableError } from "../shared/errors.ts";
import { isTerminal, type JobEvent } from "./job-types.ts";

export interface WatchOptions {
  /** Replay only what follows this event. Default: everything from the first event. */
  readonly afterEventId?: number | undefined;
  readonly signal?: AbortSignal | undefined;
  /** How long a lost coordinator is dialled again before the watch fails. Defaults to 60 000. */
  readonly reconnectMs?: number | undefined;
  /** Called when the connection is lost and dialled again. */
  readonly onReconnect?: ((error: Error) => void) | undefined;
}

export interface WatchSource {
  /** One connection's events after `afterEventId`. */
  open(afterEventId: number | undefined): AsyncIterable<JobEvent>;
  /** Whether the job has ended, asked when a stream ends in order but without a terminal state. */
  hasEnded(): Promise<boolean>;
}

const FIRST_BACKOFF_MS = 100;
const LAST_BACKOFF_MS = 2000;

/**
 * A job's events, each exactly once and in order, over as many connections as it takes. Ends after the terminal state.
 *
 * @throws UnavailableError when the first connection fails, or when a lost one cannot be made again in `reconnectMs`
 */
export async function* watchEvents(
  source: WatchSource,
  options: WatchOptions,
): AsyncGenerator<JobEvent, void, undefined> {
  const { signal, reconnectMs = 60_000 } = options;
  let after = options.afterEventId;
  let connected = false;
  let lostAtMs: number | undefined;
  let backoffMs = FIRST_BACKOFF_MS;
  for (;;) {
    try {
      for await (const event of source.open(after)) {
        connected = true;
        lostAtMs = undefined;
        backoffMs = FIRST_BACKOFF_MS;
        after = event.eventId;
        yield event;
        if (event.kind === "state" && isTerminal(event.state)) return;
      }
      if (await source.hasEnded()) return;
      connected = true;
    } catch (error) {
      if (!(error instanceof UnavailableError) || !connected) throw error;
      lostAtMs ??= performance.now();
      if (performance.now() - lostAtMs > reconnectMs) {
        throw new UnavailableError(`${error.message} (dialled again for ${reconnectMs} ms)`, {
          cause: error,
        });
      }
      options.onReconnect?.(error);
    }
    await delay(backoffMs, undefined, signal === undefined ? {} : { signal }).catch(() => {
      throw signal?.reason;
    });
    backoffMs = Math.min(2 * backoffMs, LAST_BACKOFF_MS);
  }
}
