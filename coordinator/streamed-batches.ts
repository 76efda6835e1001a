import type { DataInput } from "./data/data-source.ts";
import { StreamSource, type StreamSourceOptions } from "./data/stream-source.ts";

/**
 * The queues of jobs whose data is pushed by clients. A queue is there from the job's submission on, so that a client can
 * begin to push while the job waits for workers.
 */
export class StreamedBatches {
  readonly #sources = new Map<string, StreamSource>();

  /** The job's queue, made on first use. */
  source(jobId: string, inputs: readonly DataInput[], options: StreamSourceOptions): StreamSource {
    let source = this.#sources.get(jobId);
    if (source === undefined) {
      source = new StreamSource(inputs, options);
      this.#sources.set(jobId, source);
    }
    return source;
  }

  find(jobId: string): StreamSource | undefined {
    return this.#sources.get(jobId);
  }

  /** Ends all pushes of a job that is over. */
  async drop(jobId: string): Promise<void> {
    const source = this.#sources.get(jobId);
    this.#sources.delete(jobId);
    await source?.close();
  }
}
