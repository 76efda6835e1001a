import type { ServerWritableStream } from "@grpc/grpc-js";
import { Metadata } from "@grpc/grpc-js";
import {
  CancelledError,
  FailedPreconditionError,
  ResourceExhaustedError,
  UnavailableError,
} from "../../shared/errors.ts";
import type { PullFramesRequest__Output } from "../../shared/rpc/gen/rankmesh/v1/PullFramesRequest.ts";
import { toServiceError } from "../../shared/rpc/status.ts";
import type { OutgoingFrame } from "./frame-codec.ts";

/** A peer's stream, on which this worker writes. */
export type PullCall = ServerWritableStream<PullFramesRequest__Output, OutgoingFrame>;

export interface CollectiveHubOptions {
  /** How long a peer that was assigned earlier than this worker is kept waiting. @default 10 s */
  readonly assignmentWaitMs?: number;
  /** Peers kept waiting at a time. @default 256 */
  readonly maxWaiting?: number;
}

/** One generation of a job that this worker serves. */
export interface Registration {
  readonly jobId: string;
  readonly generation: number;
  /** This worker's rank. */
  readonly rank: number;
  readonly worldSize: number;
  /** Takes the stream of a peer. It may replace an earlier one of the same peer. */
  readonly accept: (peer: number, call: PullCall) => void;
}

interface WaitingPull {
  readonly call: PullCall;
  readonly timer: NodeJS.Timeout;
}

/** Jobs whose last generation is remembered, so that late peers are refused at once. */
const REMEMBERED_JOBS = 1024;

/** The server side of CollectiveService.PullFrames: brings each peer's call to the job it is meant for. */
export class CollectiveHub {
  readonly #registrations = new Map<string, Registration>();
  /** Newest generation that has ended, by job. */
  readonly #ended = new Map<string, number>();
  readonly #waiting = new Set<WaitingPull>();
  readonly #assignmentWaitMs: number;
  readonly #maxWaiting: number;
  #closed = false;

  constructor(options: CollectiveHubOptions = {}) {
    this.#assignmentWaitMs = options.assignmentWaitMs ?? 10_000;
    this.#maxWaiting = options.maxWaiting ?? 256;
  }

  /** Handler of PullFrames, for the worker's server. */
  readonly pullFrames = (call: PullCall): void => {
    call.on("error", () => undefined);
    this.#route(call);
  };

  /**
   * Serves `registration` from now on; peers that wait for it are let in. An older generation of the job is refused
   * from then on.
   * @returns ends it
   */
  register(registration: Registration): () => void {
    const { jobId, generation } = registration;
    const before = this.#registrations.get(jobId);
    if (before !== undefined) this.#remember(jobId, before.generation);
    this.#registrations.set(jobId, registration);
    for (const waiting of [...this.#waiting]) {
      if (waiting.call.request.jobId !== jobId) continue;
      this.#forget(waiting);
      this.#route(waiting.call);
    }
    return () => {
      if (this.#registrations.get(jobId) === registration) this.#registrations.delete(jobId);
      this.#remember(jobId, generation);
    };
  }

  /** Refuses all calls that wait and all to come. */
  close(): void {
    this.#closed = true;
    for (const waiting of [...this.#waiting]) {
      this.#forget(waiting);
      refuse(waiting.call, new UnavailableError("this worker is shutting down"));
    }
  }

  #route(call: PullCall): void {
    const { jobId, generation, rank, fromRank } = call.request;
    const asked = `job ${jobId}, generation ${generation}: rank ${rank} asks rank ${fromRank}`;
    if (this.#closed) {
      refuse(call, new UnavailableError("this worker is shutting down"));
      return;
    }
    const registration = this.#registrations.get(jobId);
    const newest = registration?.generation ?? this.#ended.get(jobId) ?? -1;
    if (newest > generation || (registration === undefined && newest === generation)) {
      const why =
        newest > generation ? `the job is at generation ${newest}` : "this generation has ended";
      refuse(call, new FailedPreconditionError(`${asked} for frames, but ${why}`));
      return;
    }
    if (registration === undefined || registration.generation < generation) {
      this.#wait(call, asked);
      return;
    }
    if (registration.rank !== fromRank) {
      refuse(
        call,
        new FailedPreconditionError(
          `${asked} for frames, but this worker is rank ${registration.rank}`,
        ),
      );
      return;
    }
    if (rank >= registration.worldSize || rank === registration.rank) {
      const why = `the job has ranks 0 to ${registration.worldSize - 1}`;
      refuse(call, new FailedPreconditionError(`${asked} for frames, but ${why}`));
      return;
    }
    // Headers now: they tell the peer that it is connected.
    call.sendMetadata(new Metadata());
    registration.accept(rank, call);
  }

  #wait(call: PullCall, asked: string): void {
    if (this.#waiting.size >= this.#maxWaiting) {
      refuse(call, new ResourceExhaustedError(`${asked}; ${this.#maxWaiting} others wait already`));
      return;
    }
    const timer = setTimeout(() => {
      this.#forget(waiting);
      refuse(
        call,
        new UnavailableError(
          `${asked} for frames, but this worker was not assigned to it within ${this.#assignmentWaitMs} ms`,
        ),
      );
    }, this.#assignmentWaitMs);
    const waiting: WaitingPull = { call, timer };
    this.#waiting.add(waiting);
    call.once("cancelled", () => this.#forget(waiting));
  }

  #forget(waiting: WaitingPull): void {
    clearTimeout(waiting.timer);
    this.#waiting.delete(waiting);
  }

  #remember(jobId: string, generation: number): void {
    this.#ended.set(jobId, Math.max(generation, this.#ended.get(jobId) ?? -1));
    if (this.#ended.size > REMEMBERED_JOBS) {
      const [oldest] = this.#ended.keys();
      if (oldest !== undefined) this.#ended.delete(oldest);
    }
  }
}

function refuse(call: PullCall, error: Error): void {
  if (call.cancelled) return;
  call.emit("error", toServiceError(error));
}

/** The cause given to a peer whose place in a job has been taken by a newer call of the same rank. */
export function replacedError(peer: number): Error {
  return new CancelledError(`rank ${peer} opened another stream`);
}
