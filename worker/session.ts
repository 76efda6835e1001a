import { type ClientDuplexStream, credentials, status } from "@grpc/grpc-js";
import type { Logger } from "pino";
import { UnavailableError } from "../shared/errors.ts";
import { bulkChannelOptions, controlChannelOptions } from "../shared/rpc/channel.ts";
import type { RankServiceClient } from "../shared/rpc/gen/rankmesh/v1/RankService.ts";
import type { Register } from "../shared/rpc/gen/rankmesh/v1/Register.ts";
import type { SessionRequest } from "../shared/rpc/gen/rankmesh/v1/SessionRequest.ts";
import type { SessionResponse__Output } from "../shared/rpc/gen/rankmesh/v1/SessionResponse.ts";
import { services } from "../shared/rpc/proto.ts";
import { fromServiceError, isServiceError } from "../shared/rpc/status.ts";
import { Backoff } from "./backoff.ts";
import { Deferred } from "./deferred.ts";
import type { RankHost, SessionPort } from "./rank-host.ts";

export interface SessionOptions {
  /** host:port of the coordinator. */
  readonly coordinator: string;
  readonly register: Register;
  readonly host: RankHost;
  readonly logger: Logger;
}

/** A coordinator that does not answer Register within this is asked again. */
const REGISTER_MS = 10_000;
/** Delays between attempts. */
const FIRST_RETRY_MS = 200;
const MAX_RETRY_MS = 3_000;
/** A coordinator that does not end its side after ours is cut off after this. */
const LAST_WORDS_MS = 500;
/** Heartbeats without an answer after which the session counts as lost, and the least time for them. */
const MISSED_HEARTBEATS = 5;
const MIN_SILENCE_MS = 10_000;
/** What the coordinator may set. */
const HEARTBEAT_MS = { least: 50, most: 30_000, otherwise: 1_000 };
/** A batch or a slice of a weight is read at once; more would only be held. */
const BULK_WINDOW_BYTES = 4 << 20;

type SessionStream = ClientDuplexStream<SessionRequest, SessionResponse__Output>;

/** Refusals that no later attempt will change. */
const FINAL_STATUSES: ReadonlySet<status> = new Set([
  status.INVALID_ARGUMENT,
  status.FAILED_PRECONDITION,
  status.PERMISSION_DENIED,
  status.UNAUTHENTICATED,
  status.UNIMPLEMENTED,
  status.OUT_OF_RANGE,
]);

/** How a session ended: whether it had begun, why, and whether another attempt makes sense. */
interface SessionEnd {
  readonly registered: boolean;
  readonly error: Error;
  readonly final: boolean;
}

/**
 * Keeps a session with the coordinator: waits for one that is not there yet, comes back to one that was lost. What
 * ran under a lost session is aborted and freed before the next begins.
 */
export class SessionKeeper {
  readonly #options: SessionOptions;
  readonly #stopped = new Deferred<void>();
  #stopping = false;
  #stream: SessionStream | undefined;
  #registered = false;

  constructor(options: SessionOptions) {
    this.#options = options;
  }

  /** Runs until `stop`. @throws RankmeshError when the coordinator refuses this worker for good */
  async run(): Promise<void> {
    const { coordinator, host, logger } = this.#options;
    const backoff = new Backoff(FIRST_RETRY_MS, MAX_RETRY_MS);
    let told = "";
    while (!this.#stopping) {
      const end = await this.#runOne(() => {
        backoff.reset();
        told = "";
      });
      if (this.#stopping) return;
      if (end.registered) {
        logger.warn(
          { coordinator, reason: end.error.message },
          "session lost; the worker aborts what it ran and rejoins",
        );
        await host.abandon(`the session with the coordinator was lost: ${end.error.message}`);
      } else if (end.final) {
        throw end.error;
      } else if (end.error.message !== told) {
        // Once per reason: a worker may wait for hours.
        told = end.error.message;
        logger.warn(
          { coordinator, reason: told },
          "no session with the coordinator yet; the worker keeps trying",
        );
      }
      await this.#pause(backoff.next());
    }
  }

  /** Tells the coordinator that this worker shuts down, so that it gets nothing more to do. */
  announceLeave(): void {
    const stream = this.#stream;
    if (this.#registered && stream?.writable) stream.write({ leaving: {} });
  }

  /** Tells the coordinator why this worker can serve no more, and ends the session for good. */
  leave(reason: string): void {
    const stream = this.#stream;
    if (this.#registered && stream?.writable) stream.write({ leaving: { reason } });
    this.stop();
  }

  /** Ends the session: what was sent before still goes out. */
  stop(): void {
    this.#stopping = true;
    this.#stopped.resolve();
    const stream = this.#stream;
    if (stream === undefined) return;
    stream.end();
    setTimeout(() => stream.cancel(), LAST_WORDS_MS).unref();
  }

  async #runOne(onRegistered: () => void): Promise<SessionEnd> {
    const { coordinator } = this.#options;
    const Client = services().rank.Client;
    // Own connections: a new attempt must not inherit one that hangs in its handshake.
    const control = { ...controlChannelOptions(), "grpc.use_local_subchannel_pool": 1 };
    const client = new Client(coordinator, credentials.createInsecure(), control);
    const bulkClient = new Client(
      coordinator,
      credentials.createInsecure(),
      bulkChannelOptions(BULK_WINDOW_BYTES),
    );
    try {
      return await this.#converse(client, bulkClient, onRegistered);
    } finally {
      this.#stream = undefined;
      this.#registered = false;
      client.close();
      bulkClient.close();
    }
  }

  #converse(
    client: RankServiceClient,
    bulkClient: RankServiceClient,
    onRegistered: () => void,
  ): Promise<SessionEnd> {
    const { coordinator, host, logger, register } = this.#options;
    return new Promise((resolve) => {
      const stream: SessionStream = client.session();
      this.#stream = stream;
      let registered = false;
      let ended = false;
      let heartbeat: NodeJS.Timeout | undefined;
      let lost: Error | undefined;

      const finish = (error: Error, final = false): void => {
        if (ended) return;
        ended = true;
        clearInterval(heartbeat);
        clearTimeout(silence);
        stream.cancel();
        resolve({ registered, error, final });
      };
      const port: SessionPort = {
        get live() {
          return !ended;
        },
        bulkClient,
        send: (message) => {
          if (!ended && stream.writable) stream.write(message);
        },
      };
      // Restarted by every message that comes.
      let silence = setTimeout(() => {
        finish(
          new UnavailableError(
            `coordinator at ${coordinator} did not answer within ${REGISTER_MS} ms`,
          ),
        );
      }, REGISTER_MS);

      stream.on("data", (message: SessionResponse__Output) => {
        silence.refresh();
        if (ended) return;
        if (message.message === "registered" && message.registered) {
          if (registered) return;
          registered = true;
          this.#registered = true;
          onRegistered();
          const everyMs = heartbeatMs(message.registered.heartbeatIntervalSeconds);
          const silenceMs = Math.max(MIN_SILENCE_MS, MISSED_HEARTBEATS * everyMs);
          clearTimeout(silence);
          silence = setTimeout(() => {
            finish(
              new UnavailableError(
                `coordinator at ${coordinator}: no sign of life for ${silenceMs / 1000} s`,
              ),
            );
          }, silenceMs);
          heartbeat = setInterval(() => port.send({ heartbeat: host.heartbeat() }), everyMs);
          logger.info(
            { coordinator, workerId: message.registered.workerId },
            "registered with the coordinator",
          );
        } else if (message.message !== "heartbeat") {
          if (registered) host.handle(message, port);
          else
            logger.warn(
              { kind: message.message },
              "the coordinator sent a message before it registered this worker",
            );
        }
      });
      stream.on("error", (error) => {
        lost = fromServiceError(error, `coordinator at ${coordinator}`);
        const final = !registered && isServiceError(error) && FINAL_STATUSES.has(error.code);
        finish(lost, final);
      });
      stream.on("end", () =>
        finish(new UnavailableError(`coordinator at ${coordinator} ended the session`)),
      );
      stream.write({ register });
    });
  }

  /** Waits, or returns at once when stopped. */
  async #pause(delayMs: number): Promise<void> {
    let timer: NodeJS.Timeout | undefined;
    const slept = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, delayMs);
    });
    await Promise.race([slept, this.#stopped.promise]);
    clearTimeout(timer);
  }
}

function heartbeatMs(seconds: number): number {
  const asked = seconds * 1000;
  if (!(asked > 0)) return HEARTBEAT_MS.otherwise;
  return Math.min(HEARTBEAT_MS.most, Math.max(HEARTBEAT_MS.least, asked));
}
