import type { ClientReadableStream } from "@grpc/grpc-js";
import { UnavailableError } from "../shared/errors.ts";
import { countRounds } from "../shared/job/rounds.ts";
import { dtypeBytes, type Program } from "../shared/program/program.ts";
import type { RankServiceClient } from "../shared/rpc/gen/rankmesh/v1/RankService.ts";
import type { StreamBatchesResponse__Output } from "../shared/rpc/gen/rankmesh/v1/StreamBatchesResponse.ts";
import { fromServiceError } from "../shared/rpc/status.ts";
import type { Assignment } from "./assignment.ts";
import type { BatchRing } from "./compute/batch-ring.ts";

/** Steps that the ring holds ahead of the one that runs, as far as its greatest size allows. */
const STEPS_AHEAD = 4;
const MIN_RING_BYTES = 64 << 10;
/** A larger batch goes through the ring in pieces. */
const MAX_RING_BYTES = 8 << 20;
/** Room for a step's headers. */
const HEADROOM_BYTES = 4 << 10;

/** Size of the ring that carries a program's batches. */
export function batchRingBytes(program: Program): number {
  let stepBytes = HEADROOM_BYTES;
  for (const { slot } of program.inputs) {
    const found = program.slots[slot];
    if (found === undefined) continue;
    stepBytes += found.shape.reduce((product, dim) => product * dim, dtypeBytes(found.dtype));
  }
  return Math.min(MAX_RING_BYTES, Math.max(MIN_RING_BYTES, STEPS_AHEAD * stepBytes));
}

export interface BatchFeedOptions {
  readonly client: RankServiceClient;
  readonly assignment: Assignment;
  readonly ring: BatchRing;
  /** Something was put into the ring. */
  readonly onArrived: () => void;
  /** A message with so many bytes of data was received. */
  readonly onReceived: (bytes: number) => void;
  /** The stream failed, or ended before the last round's batch. Not called after `close`. */
  readonly onError: (error: Error) => void;
}

/**
 * Pulls a rank's batches from the coordinator into the ring, as far ahead as the ring has room. A full ring pauses
 * the stream, and HTTP/2 flow control then stops the coordinator.
 *
 * There is no deadline here: a batch may be pushed by a person's own loop, hours apart. A coordinator that
 * vanished ends the stream by keepalive, and the session with it.
 */
export class BatchFeed {
  readonly #options: BatchFeedOptions;
  readonly #call: ClientReadableStream<StreamBatchesResponse__Output>;
  readonly #waiting: StreamBatchesResponse__Output[] = [];
  /** Bytes of the first waiting message that are in the ring already. */
  #taken = 0;
  #roundsReceived = 0;
  #closed = false;

  constructor(options: BatchFeedOptions) {
    this.#options = options;
    const { jobId, generation, rank } = options.assignment;
    this.#call = options.client.streamBatches({ jobId, generation, rank });
    this.#call.on("data", (message: StreamBatchesResponse__Output) => {
      this.#waiting.push(message);
      options.onReceived(message.data.length);
      if (!this.#drain()) this.#call.pause();
    });
    this.#call.on("end", () => this.#ended(undefined));
    this.#call.on("error", (error) => this.#ended(error));
  }

  /** The reader has made room. */
  room(): void {
    if (!this.#closed && this.#drain()) this.#call.resume();
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#waiting.length = 0;
    this.#call.cancel();
  }

  /** Moves waiting messages into the ring; false when it is full. */
  #drain(): boolean {
    const { ring, onArrived } = this.#options;
    let moved = false;
    let full = false;
    while (!full) {
      const message = this.#waiting[0];
      if (message === undefined) break;
      const { input, offsetBytes, data } = message;
      const round = { step: message.step, evaluation: message.evaluation };
      while (this.#taken < data.length) {
        const taken = ring.writePiece(
          round,
          input,
          offsetBytes + this.#taken,
          data.subarray(this.#taken),
        );
        if (taken === 0) {
          full = true;
          break;
        }
        this.#taken += taken;
        moved = true;
      }
      if (full) break;
      if (message.endOfStep) {
        if (!ring.writeEnd(round, message.batchHash)) {
          full = true;
          break;
        }
        this.#roundsReceived++;
        moved = true;
      }
      this.#waiting.shift();
      this.#taken = 0;
    }
    if (moved) onArrived();
    return !full;
  }

  #ended(error: Error | undefined): void {
    const rounds = countRounds(this.#options.assignment.schedule);
    // An end with messages still waiting is fine: the ring takes them as it drains.
    const coming = this.#waiting.filter((message) => message.endOfStep).length;
    if (this.#closed || this.#roundsReceived + coming >= rounds) return;
    this.#options.onError(
      error === undefined
        ? new UnavailableError(
            `coordinator: its stream of batches ended after ${this.#roundsReceived + coming} of ${rounds} rounds`,
          )
        : fromServiceError(error, "coordinator's stream of batches"),
    );
  }
}
