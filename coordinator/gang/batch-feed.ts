import { CancelledError, FailedPreconditionError } from "../../shared/errors.ts";
import { countRounds, type Round, type RoundSchedule, roundAt } from "../../shared/job/rounds.ts";
import { BULK_PIECE_BYTES } from "../../shared/rpc/channel.ts";
import type { BatchPart } from "../data/batch-reader.ts";
import type { RoundReader } from "../data/round-reader.ts";

/** One message of a rank's stream. */
export interface BatchPiece {
  readonly step: number;
  /** Number of the batch in its evaluation; undefined: it is the step's own. */
  readonly evaluation: number | undefined;
  readonly input: number;
  readonly offsetBytes: number;
  readonly data: Buffer;
  readonly endOfStep: boolean;
  readonly batchHash: number;
}

/** Rounds sent ahead of a rank's last report: the next batch is there when a round ends, and memory stays bounded. */
export const ROUNDS_AHEAD = 3;

export interface BatchFeedOptions {
  readonly reader: Pick<RoundReader, "read" | "close">;
  readonly numRanks: number;
  readonly schedule: RoundSchedule;
  /** Called just before a round's last message to a rank is handed on. */
  readonly onSent: (rank: number, round: number, hash: number) => void;
  /** Called with what the data source throws while the job runs; the rank's stream ends with the same error. */
  readonly onFault: (error: unknown) => void;
}

/**
 * Streams batches to the ranks of one gang, each rank at most `ROUNDS_AHEAD` rounds ahead of what it has reported. Ranks that
 * hold the same part of the batch (those of a tensor-parallel group) get the same bytes.
 */
export class BatchFeed {
  readonly #options: BatchFeedOptions;
  readonly #stop = new AbortController();
  readonly #served = new Set<number>();
  /** Rounds that each rank has reported. */
  readonly #reported: number[];
  readonly #waiting = new Set<() => void>();

  constructor(options: BatchFeedOptions) {
    this.#options = options;
    this.#reported = new Array<number>(options.numRanks).fill(0);
  }

  /** Notes that `rank` has done `rounds` rounds, which lets it have more. */
  progress(rank: number, rounds: number): void {
    this.#reported[rank] = rounds;
    for (const wake of [...this.#waiting]) wake();
  }

  /**
   * All batches of one rank, in order; errors of the data source end it.
   * @throws FailedPreconditionError when the rank had a stream before: its batches are gone
   */
  async *stream(rank: number, signal: AbortSignal): AsyncGenerator<BatchPiece, void, void> {
    const { reader, schedule, onSent, onFault } = this.#options;
    if (this.#served.has(rank)) {
      throw new FailedPreconditionError(
        `rank ${rank} has opened its stream of batches already; there is one per rank`,
      );
    }
    this.#served.add(rank);
    const stopped = AbortSignal.any([signal, this.#stop.signal]);
    const rounds = countRounds(schedule);
    for (let index = 0; index < rounds; index++) {
      await this.#untilWanted(rank, index, stopped);
      const round = roundAt(schedule, index);
      const part = await reader.read(index, round, rank).catch((error: unknown) => {
        throwIfStopped(stopped);
        onFault(error);
        throw error;
      });
      throwIfStopped(stopped);
      for (const piece of pieces(round, part)) {
        if (piece.endOfStep) onSent(rank, index, part.hash);
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

  async #untilWanted(rank: number, round: number, stopped: AbortSignal): Promise<void> {
    throwIfStopped(stopped);
    while (round >= (this.#reported[rank] ?? 0) + ROUNDS_AHEAD) {
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

function* pieces({ step, evaluation }: Round, part: BatchPart): Generator<BatchPiece, void, void> {
  const last = part.inputs.length - 1;
  for (const [input, bytes] of part.inputs.entries()) {
    const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    // An empty input still has its message.
    for (let offset = 0; offset === 0 || offset < buffer.length; offset += BULK_PIECE_BYTES) {
      const endOfStep = input === last && offset + BULK_PIECE_BYTES >= buffer.length;
      yield {
        step,
        evaluation,
        input,
        offsetBytes: offset,
        data: buffer.subarray(offset, offset + BULK_PIECE_BYTES),
        endOfStep,
        batchHash: endOfStep ? part.hash : 0,
      };
    }
  }
}
