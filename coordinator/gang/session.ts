import type { SessionResponse } from "../../shared/rpc/gen/rankmesh/v1/SessionResponse.ts";

/** The way to one worker. */
export interface Session {
  readonly id: number;
  /** Queues a message; messages arrive in order or the session ends. Nothing happens once it has ended. */
  send(message: SessionResponse): void;
  /** Cuts the session off; the worker is told why. */
  end(error: Error): void;
}
