import { CancelledError, FailedPreconditionError } from "../../shared/errors.ts";
import { BULK_PIECE_BYTES } from "../../shared/rpc/channel.ts";
import type { BatchPart, BatchReader } from "../data/batch-reader.ts";

/** One message of a rank's stream. */
export interface BatchPiece {
  readonly step: number;
  readonly input: number;
  readonly offsetBytes: number;
  readonly data: Buffer;
  readonly endOfStep: boolean;
  readonly batchHash: number;
}

/** Steps sent ahead of a rank's last report: the next batch is there when a step ends, and memory stays bounded. */
export const STEPS_AHEAD = 3;

export interface BatchFeedOptions {
  readonly reader: Pick<BatchReader, "read" | "close">;
  readonly numRanks: number;
  readonly steps: number;
  /** Called just before a step's last message to a rank is handed on. */
  readonly onSent: (rank: number, step: number, hash: number) => void;
  /** Called with what the data source throws while the job runs; the rank's stream ends with the same error. */
  readonly onFault: (error: unknown) => void;
}

/**
 * Streams batches to the ranks of one gang, each rank at most `STEPS_AHEAD` steps ahead of what it has reported. Ranks that
 * hold the same part of the batch (those of a tensor-parallel group) get the same bytes.
 */
export class BatchFeed {
  readonly #options: BatchFeedOptions;
  readonly #stop = new AbortController();
  readonly #served = new Set<number>();
  /** Steps that each rank has reported. */
  readonly #reported: number[];
  readonly #waiting = new Set<() => void>();

  constructor(options: BatchFeedOptions) {
    this.#options = options;
    this.#reported = new Array<number>(options.numRanks).fill(0);
  }

  /** Notes that `rank` has done `steps` steps, which lets it have more. */
  progress(rank: number, steps: number): void {
    this.#reported[rank] = steps;
    for (const wake of [...this.#waiting]) wake();
  }

  /**
   * All batches of one rank, in order; errors of the data source end it.
   * @throws FailedPreconditionError when the rank had a stream before: its batches are gone
   */
  async *stream(rank: number, signal: AbortSignal): AsyncGenerator<BatchPiece, void, void> {
    const { reader, steps, onSent, onFault } = this.#options;
    if (this.#served.has(rank)) {
      throw new FailedPreconditionError(
        `rank ${rank} has opened its stream of batches already; there is one per rank`,
      );
    }
    this.#served.add(rank);
    const stopped = AbortSignal.any([signal, this.#stop.signal]);
    for (let step = 0; step < steps; step++) {
      await this.#untilWanted(rank, step, stopped);
      const part = await reader.read(step, rank).catch((error: unknown) => {
        throwIfStopped(stopped);
        onFault(error);
        throw error;
      });
      throwIfStopped(stopped);
      for (const piece of pieces(part)) {
        if (piece.endOfStep) onSent(rank, step, part.hash);
        yield piece;
      }
    }
  }

  /** Ends all streams and closes the data source. */
  async close(): Promise<void> {
    if (this.#stop.signal.aborted) return;
    this.#stop.abort();
    await this.#options.reader.close();
  }

  async #untilWanted(rank: number, step: number, stopped: AbortSignal): Promise<void> {
    throwIfStopped(stopped);
    while (step >= (this.#reported[rank] ?? 0) + STEPS_AHEAD) {
      await new Promise<void>((resolve) => {
        const wake = (): void => {
          this.#waiting.delete(wake);
          stopped.removeEventListener("abort", wake);
          resolve();
        };
        this.#waiting.add(wake);
        stopped.addEventListener("abort", wake);
      });
      throwIfStopped(stopped);
    }
  }
}

function throwIfStopped(signal: AbortSignal): void {
  if (signal.aborted) throw new CancelledError("the job is over, or the rank went away");
}

function* pieces(part: BatchPart): Generator<BatchPiece, void, void> {
  const last = part.inputs.length - 1;
  for (const [input, bytes] of part.inputs.entries()) {
    const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    // An empty input still has its message.
    for (let offset = 0; offset === 0 || offset < buffer.length; offset += BULK_PIECE_BYTES) {
      const endOfStep = input === last && offset + BULK_PIECE_BYTES >= buffer.length;
      yield {
        step: part.step,
        input,
        offsetBytes: offset,
        data: buffer.subarray(offset, offset + BULK_PIECE_BYTES),
        endOfStep,
        batchHash: endOfStep ? part.hash : 0,
      };
    }
  }
}
