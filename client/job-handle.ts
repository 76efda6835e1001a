import { CancelledError, RankmeshError } from "../shared/errors.ts";
import type { CallOptions } from "./calls.ts";
import type { RankmeshClient } from "./client.ts";
import type { Job, JobEvent } from "./job-types.ts";
import type { BatchSource } from "./push-batches.ts";
import type { WatchOptions } from "./watch.ts";

/** A job that ended as FAILED; `job.error` names the guilty rank and step where there is one. */
export class JobFailedError extends RankmeshError {
  readonly code: string;
  readonly job: Job;

  constructor(job: Job) {
    super(`job ${job.jobId} failed: ${job.error?.message ?? job.reason}`);
    this.code = job.error?.code ?? "UNKNOWN";
    this.job = job;
  }
}

/** One job of a coordinator. Holds no connection of its own: it is as good as the client it came from. */
export class JobHandle {
  readonly jobId: string;
  readonly #client: RankmeshClient;

  constructor(client: RankmeshClient, jobId: string) {
    this.#client = client;
    this.jobId = jobId;
  }

  get(options?: CallOptions): Promise<Job> {
    return this.#client.get(this.jobId, options);
  }

  /** All events from the first on, over lost connections too; ends after the terminal state. */
  events(options?: WatchOptions): AsyncGenerator<JobEvent, void, undefined> {
    return this.#client.watch(this.jobId, options);
  }

  /**
   * Waits for the job's success.
   *
   * @throws JobFailedError when it fails
   * @throws CancelledError when it is cancelled
   */
  async result(options: WatchOptions = {}): Promise<Job> {
    for await (const _ of this.events(options)) {
      // Only the end matters here.
    }
    const job = await this.get({ signal: options.signal });
    if (job.state === "FAILED") throw new JobFailedError(job);
    if (job.state === "CANCELLED") throw new CancelledError(`job ${job.jobId} was cancelled`);
    return job;
  }

  cancel(options?: CallOptions): Promise<Job> {
    return this.#client.cancel(this.jobId, options);
  }

  /** Feeds a job whose data is `stream`. @returns number of batches taken */
  pushBatches(batches: BatchSource, options?: { readonly signal?: AbortSignal }): Promise<number> {
    return this.#client.pushBatches(this.jobId, batches, options);
  }

  /** The safetensors file that the job wrote, piece by piece. */
  downloadWeights(options?: {
    readonly signal?: AbortSignal;
  }): AsyncGenerator<Uint8Array, void, undefined> {
    return this.#client.downloadWeights(this.jobId, options);
  }
}
