import { InternalError } from "../../shared/errors.ts";
import type { Round } from "../../shared/job/rounds.ts";
import type { BatchPart, BatchReader } from "./batch-reader.ts";

/** Reads what a job takes in its rounds: batches to train on, and the held-out ones of its evaluations. */
export class RoundReader {
  /** Batches of one evaluation; 0: the job has none. */
  readonly evaluationBatches: number;
  readonly #training: BatchReader;
  readonly #evaluation: BatchReader | undefined;

  constructor(
    training: BatchReader,
    evaluation?: { readonly reader: BatchReader; readonly batches: number },
  ) {
    this.#training = training;
    this.#evaluation = evaluation?.reader;
    this.evaluationBatches = evaluation?.batches ?? 0;
  }

  /** The part of `rank` in the batch of round `index`. Each rank reads each round once, in order. */
  read(index: number, { step, evaluation }: Round, rank: number): Promise<BatchPart> {
    if (evaluation === undefined) return this.#training.read(step, rank);
    if (this.#evaluation === undefined) throw new InternalError("the job evaluates nothing");
    // The same batches in every evaluation: the round tells one reading of them from the next.
    return this.#evaluation.read(evaluation, rank, index);
  }

  async close(): Promise<void> {
    await Promise.all([this.#training.close(), this.#evaluation?.close()]);
  }
}
