import { randomBytes } from "node:crypto";
import {
  credentials,
  type CallOptions as GrpcCallOptions,
  type requestCallback,
} from "@grpc/grpc-js";
import type { MethodDefinition } from "@grpc/proto-loader";
import { type Fault, InternalError, InvalidArgumentError } from "../shared/errors.ts";
import type { JobSpecInput } from "../shared/job/job-spec.ts";
import { jobSpecToProto } from "../shared/job/proto.ts";
import { resolveJobSpec } from "../shared/job/resolve.ts";
import { parseHostPort } from "../shared/rpc/address.ts";
import { callUnary } from "../shared/rpc/call.ts";
import { bulkChannelOptions, userChannelOptions } from "../shared/rpc/channel.ts";
import type {
  TrainingServiceClient,
  TrainingServiceDefinition,
} from "../shared/rpc/gen/rankmesh/v1/TrainingService.ts";
import { services } from "../shared/rpc/proto.ts";
import { type CallOptions, heedingSignal, streamHeedingSignal } from "./calls.ts";
import { eventFromWire, jobFromWire, workerFromWire } from "./convert.ts";
import { JobHandle } from "./job-handle.ts";
import { isTerminal, type Job, type JobEvent, type Worker } from "./job-types.ts";
import { type BatchSource, pushBatches } from "./push-batches.ts";
import { type WatchOptions, watchEvents } from "./watch.ts";

export interface RankmeshClientOptions {
  /** The coordinator's host:port. Defaults to 127.0.0.1:50051. */
  readonly address?: string;
  /** Time the coordinator has to answer a call that is no stream, in milliseconds. Defaults to 30 000. */
  readonly deadlineMs?: number;
}

export interface SubmitOptions extends CallOptions {
  /** The job's id; a repeated submit with an equal spec gives the same job. Default: a new random id. */
  readonly jobId?: string | undefined;
  /** False: refuse a job that cannot start now, instead of queueing it. Defaults to true. */
  readonly queue?: boolean | undefined;
}

/** What a job would need and send, without anything being started. */
export interface JobPlan {
  /** The plan as data, the same that `rankmesh plan --json` writes. */
  readonly report: unknown;
  /** The plan for people. */
  readonly text: string;
}

export const DEFAULT_ADDRESS = "127.0.0.1:50051";
const DEFAULT_DEADLINE_MS = 30_000;
const JOBS_PER_PAGE = 100;

/**
 * Talks to a coordinator: submits jobs, watches them, reads their results. Connects on first use; `close()` it.
 *
 * Calls throw the classes of `errors`: `InvalidArgumentError` with every fault of a spec, `UnavailableError` when
 * nobody answers, `FailedPreconditionError` for what the present workers cannot give, `NotFoundError` and so on.
 */
export class RankmeshClient {
  readonly address: string;
  readonly #deadlineMs: number;
  readonly #rpc: TrainingServiceClient;
  readonly #target: string;
  #bulk: TrainingServiceClient | undefined;

  /** @throws InvalidArgumentError when the address is not host:port */
  constructor(options: RankmeshClientOptions = {}) {
    const { address = DEFAULT_ADDRESS, deadlineMs = DEFAULT_DEADLINE_MS } = options;
    parseHostPort(address, "address");
    this.address = address;
    this.#deadlineMs = deadlineMs;
    this.#target = `coordinator at ${address}`;
    const { Client } = services().training;
    this.#rpc = new Client(address, credentials.createInsecure(), userChannelOptions());
  }

  /**
   * Checks and queues a job.
   *
   * @throws InvalidArgumentError with every fault of the spec, each with its field path
   */
  async submit(spec: JobSpecInput, options: SubmitOptions = {}): Promise<JobHandle> {
    await this.#check(spec, options);
    const jobId = options.jobId ?? newJobId();
    const request = { spec: jobSpecToProto(spec), jobId, noQueue: options.queue === false };
    const response = await this.#unary("SubmitJob", request, options);
    return new JobHandle(this, jobFromWire(response.job).jobId);
  }

  /** A handle on a job submitted earlier or elsewhere. Asks nothing of the coordinator yet. */
  job(jobId: string): JobHandle {
    return new JobHandle(this, jobId);
  }

  /** Compiles a job without starting anything. */
  async plan(spec: JobSpecInput, options: CallOptions = {}): Promise<JobPlan> {
    await this.#check(spec, options);
    return this.#planUnchecked(spec, options);
  }

  /** @throws NotFoundError when the coordinator knows no such job */
  async get(jobId: string, options: CallOptions = {}): Promise<Job> {
    const response = await this.#unary("GetJob", { jobId }, options);
    return jobFromWire(response.job);
  }

  /** All jobs, newest first, without their per-step lists. */
  async *list(options: CallOptions = {}): AsyncGenerator<Job, void, undefined> {
    let pageToken = "";
    do {
      const request = { pageSize: JOBS_PER_PAGE, pageToken };
      const page = await this.#unary("ListJobs", request, options);
      for (const job of page.jobs) yield jobFromWire(job);
      pageToken = page.nextPageToken;
    } while (pageToken !== "");
  }

  /**
   * A job's events from the first (or after `afterEventId`) on, each once and in order; ends after the terminal state.
   * A lost connection is made again where it broke off.
   */
  watch(jobId: string, options: WatchOptions = {}): AsyncGenerator<JobEvent, void, undefined> {
    const { signal } = options;
    return watchEvents(
      {
        open: (afterEventId) => this.#eventsAfter(jobId, afterEventId, signal),
        hasEnded: async () => isTerminal((await this.get(jobId, { signal })).state),
      },
      options,
    );
  }

  /** Ends a job within two steps; changes nothing of one that has ended. */
  async cancel(jobId: string, options: CallOptions = {}): Promise<Job> {
    const response = await this.#unary("CancelJob", { jobId }, options);
    return jobFromWire(response.job);
  }

  async workers(options: CallOptions = {}): Promise<Worker[]> {
    const response = await this.#unary("ListWorkers", {}, options);
    return response.workers.map(workerFromWire);
  }

  /**
   * Feeds a job whose data is `stream`, one message a global batch. Takes the next batch from `batches` only when the
   * coordinator has room, so that a fast source does not fill memory.
   *
   * @returns number of batches that the coordinator took
   */
  async pushBatches(
    jobId: string,
    batches: BatchSource,
    options: { readonly signal?: AbortSignal } = {},
  ): Promise<number> {
    const rpc = this.#bulkRpc();
    const open = rpc.pushBatches.bind(rpc);
    return pushBatches(open, jobId, batches, this.#target, options.signal);
  }

  /** The safetensors file that a succeeded job wrote, piece by piece. */
  async *downloadWeights(
    jobId: string,
    options: { readonly signal?: AbortSignal } = {},
  ): AsyncGenerator<Uint8Array, void, undefined> {
    const pieces = streamHeedingSignal(options.signal, this.#target, () =>
      this.#bulkRpc().downloadWeights({ jobId }),
    );
    for await (const { data } of pieces) yield data;
  }

  /** Closes the connections; calls still under way fail. */
  close(): void {
    this.#rpc.close();
    this.#bulk?.close();
  }

  async #planUnchecked(spec: JobSpecInput, options: CallOptions): Promise<JobPlan> {
    const request = { spec: jobSpecToProto(spec) };
    const response = await this.#unary("PlanJob", request, options);
    return { report: parseReport(response.reportJson), text: response.reportText };
  }

  /**
   * Finds what the wire would hide: a message carries no unknown keys and no values of another type. Faults found here
   * come together with those that the coordinator finds in the rest, so that all are told at once.
   */
  async #check(spec: JobSpecInput, options: CallOptions): Promise<void> {
    const checked = resolveJobSpec(spec);
    if (checked.ok) return;
    const faults: Fault[] = [...checked.faults];
    if (checked.partial !== undefined) {
      const further = await this.#planUnchecked(checked.partial, options).then(
        () => [],
        (error: unknown) => (error instanceof InvalidArgumentError ? error.faults : []),
      );
      faults.push(...further.filter(({ path }) => !checked.broken.has(path)));
    }
    throw new InvalidArgumentError(faults);
  }

  async *#eventsAfter(
    jobId: string,
    afterEventId: number | undefined,
    signal: AbortSignal | undefined,
  ): AsyncGenerator<JobEvent, void, undefined> {
    const request = afterEventId === undefined ? { jobId } : { jobId, afterEventId };
    const messages = streamHeedingSignal(signal, this.#target, () => this.#rpc.watchJob(request));
    for await (const message of messages) {
      const event = eventFromWire(message);
      if (event !== undefined) yield event;
    }
  }

  /** A connection of its own for tensors, behind which no control message has to queue. */
  #bulkRpc(): TrainingServiceClient {
    const { Client } = services().training;
    this.#bulk ??= new Client(this.address, credentials.createInsecure(), bulkChannelOptions());
    return this.#bulk;
  }

  #unary<M extends UnaryMethod>(
    name: M,
    request: RequestOf<M>,
    options: CallOptions,
  ): Promise<ResponseOf<M>> {
    const method = services().training.definition[name] as unknown as MethodDefinition<
      RequestOf<M>,
      unknown,
      unknown,
      ResponseOf<M>
    >;
    const { signal, deadlineMs: timeoutMs = this.#deadlineMs } = options;
    const start = (callOptions: GrpcCallOptions, done: requestCallback<ResponseOf<M>>) =>
      this.#rpc.makeUnaryRequest(
        method.path,
        method.requestSerialize,
        method.responseDeserialize,
        request,
        callOptions,
        done,
      );
    const settings = { target: this.#target, timeoutMs, signal };
    return heedingSignal(signal, () => callUnary<ResponseOf<M>>(start, settings));
  }
}

type UnaryMethod = Exclude<
  keyof TrainingServiceDefinition,
  "WatchJob" | "PushBatches" | "DownloadWeights"
>;

type RequestOf<M extends UnaryMethod> =
  TrainingServiceDefinition[M] extends MethodDefinition<infer Q, infer _R, infer _QO, infer _RO>
    ? Q
    : never;

type ResponseOf<M extends UnaryMethod> =
  TrainingServiceDefinition[M] extends MethodDefinition<infer _Q, infer _R, infer _QO, infer R>
    ? R
    : never;

/** A new id for a job: sorts by time, and two clients never make the same. */
export function newJobId(): string {
  return `job-${Date.now().toString(36)}-${randomBytes(5).toString("hex")}`;
}

function parseReport(json: string): unknown {
  try {
    return JSON.parse(json);
  } catch (cause) {
    throw new InternalError("the coordinator's plan report is no JSON", { cause });
  }
}
