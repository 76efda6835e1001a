import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  type CallOptions,
  type ClientUnaryCall,
  credentials,
  type requestCallback,
} from "@grpc/grpc-js";
import { pino } from "pino";
import {
  type CoordinatorHandle,
  type CoordinatorOptions,
  startCoordinator,
} from "../../coordinator/coordinator-daemon.ts";
import type { CoordinatorLimits } from "../../coordinator/limits.ts";
import type { JobSpecInput } from "../../shared/job/job-spec.ts";
import { jobSpecToProto } from "../../shared/job/proto.ts";
import { callUnary, readStream } from "../../shared/rpc/call.ts";
import { controlChannelOptions } from "../../shared/rpc/channel.ts";
import type { CancelJobResponse__Output } from "../../shared/rpc/gen/rankmesh/v1/CancelJobResponse.ts";
import type { GetJobResponse__Output } from "../../shared/rpc/gen/rankmesh/v1/GetJobResponse.ts";
import type { Job__Output } from "../../shared/rpc/gen/rankmesh/v1/Job.ts";
import type { ListJobsResponse__Output } from "../../shared/rpc/gen/rankmesh/v1/ListJobsResponse.ts";
import type { ListWorkersResponse__Output } from "../../shared/rpc/gen/rankmesh/v1/ListWorkersResponse.ts";
import type { SubmitJobResponse__Output } from "../../shared/rpc/gen/rankmesh/v1/SubmitJobResponse.ts";
import type { TrainingServiceClient } from "../../shared/rpc/gen/rankmesh/v1/TrainingService.ts";
import type { WatchJobResponse__Output } from "../../shared/rpc/gen/rankmesh/v1/WatchJobResponse.ts";
import type { Worker__Output } from "../../shared/rpc/gen/rankmesh/v1/Worker.ts";
import { services } from "../../shared/rpc/proto.ts";
import { FakeWorker, type FakeWorkerOptions } from "./fake-worker.ts";

/** Short enough for tests, long enough for a busy machine. */
const TEST_LIMITS: Partial<CoordinatorLimits> = {
  heartbeatMs: 50,
  leaseMs: 2_000,
  releaseMs: 1_000,
};

const TARGET = "coordinator";

/** A coordinator on free loopback ports, with its own data root, client and fake workers; `stop` ends them all. */
export class CoordinatorHarness {
  readonly handle: CoordinatorHandle;
  /** The data root. */
  readonly dir: string;
  readonly rpc: TrainingServiceClient;
  readonly workers: FakeWorker[] = [];

  private constructor(handle: CoordinatorHandle, dir: string) {
    this.handle = handle;
    this.dir = dir;
    const { Client } = services().training;
    this.rpc = new Client(handle.grpcAddress, credentials.createInsecure(), {
      ...controlChannelOptions(),
      "grpc.max_send_message_length": -1,
      "grpc.use_local_subchannel_pool": 1,
    });
  }

  static async start(
    options: Partial<Omit<CoordinatorOptions, "limits">> & {
      limits?: Partial<CoordinatorLimits>;
    } = {},
  ): Promise<CoordinatorHarness> {
    const dir = await mkdtemp(join(tmpdir(), "rankmesh-coordinator-"));
    const handle = await startCoordinator({
      listen: "127.0.0.1:0",
      http: "127.0.0.1:0",
      files: { kind: "root", dir },
      logger: pino({ level: "silent" }),
      ...options,
      limits: { ...TEST_LIMITS, ...options.limits },
    });
    return new CoordinatorHarness(handle, dir);
  }

  async stop(): Promise<void> {
    await Promise.all(this.workers.map((worker) => worker.kill()));
    this.rpc.close();
    await this.handle.stop(1_000);
    await rm(this.dir, { recursive: true, force: true });
  }

  async join(name: string, options: Partial<FakeWorkerOptions> = {}): Promise<FakeWorker> {
    const worker = await FakeWorker.join({
      coordinator: this.handle.grpcAddress,
      name,
      ...options,
    });
    this.workers.push(worker);
    return worker;
  }

  /** Joins w0, w1, ... */
  async joinMany(
    count: number,
    options: (rank: number) => Partial<FakeWorkerOptions> = () => ({}),
  ): Promise<FakeWorker[]> {
    const workers: FakeWorker[] = [];
    for (let rank = 0; rank < count; rank++)
      workers.push(await this.join(`w${rank}`, options(rank)));
    return workers;
  }

  async list(pageSize = 0, pageToken = ""): Promise<ListJobsResponse__Output> {
    return await this.call((o, done) => this.rpc.listJobs({ pageSize, pageToken }, o, done));
  }

  /** The reply of any unary call. */
  async call<Response>(
    start: (options: CallOptions, done: requestCallback<Response>) => ClientUnaryCall,
  ): Promise<Response> {
    return await callUnary(start, { target: TARGET });
  }

  async submit(
    spec: JobSpecInput,
    more: { jobId?: string; noQueue?: boolean } = {},
  ): Promise<Job__Output> {
    const request = { spec: jobSpecToProto(spec), ...more };
    const response = await this.call<SubmitJobResponse__Output>((o, done) =>
      this.rpc.submitJob(request, o, done),
    );
    return required(response.job);
  }

  async get(jobId: string): Promise<Job__Output> {
    const response = await this.call<GetJobResponse__Output>((o, done) =>
      this.rpc.getJob({ jobId }, o, done),
    );
    return required(response.job);
  }

  async cancel(jobId: string): Promise<Job__Output> {
    const response = await this.call<CancelJobResponse__Output>((o, done) =>
      this.rpc.cancelJob({ jobId }, o, done),
    );
    return required(response.job);
  }

  /** All events up to the terminal one. */
  async events(jobId: string, afterEventId?: number): Promise<WatchJobResponse__Output[]> {
    const events: WatchJobResponse__Output[] = [];
    for await (const event of this.watch(jobId, afterEventId)) events.push(event);
    return events;
  }

  watch(
    jobId: string,
    afterEventId?: number,
  ): AsyncGenerator<WatchJobResponse__Output, void, void> {
    const call = this.rpc.watchJob({
      jobId,
      ...(afterEventId === undefined ? {} : { afterEventId }),
    });
    return readStream<WatchJobResponse__Output>(call, TARGET);
  }

  /** Follows a job to its end and returns it. */
  async finished(jobId: string): Promise<Job__Output> {
    await this.events(jobId);
    return await this.get(jobId);
  }

  async listWorkers(): Promise<Worker__Output[]> {
    return (
      await this.call<ListWorkersResponse__Output>((o, done) => this.rpc.listWorkers({}, o, done))
    ).workers;
  }

  /** Waits until `holds`; fails with `what` after a bounded time. */
  async until(what: string, holds: () => boolean | Promise<boolean>): Promise<void> {
    const deadline = performance.now() + 5_000;
    while (!(await holds())) {
      if (performance.now() > deadline) throw new Error(`not within 5 s: ${what}`);
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  }

  async metrics(): Promise<string> {
    const response = await fetch(`http://${this.handle.httpAddress}/metrics`);
    return await response.text();
  }
}

/** A small job on `dataParallel` x `tensorParallel` ranks with random data. */
export function smallJob(
  dataParallel: number | "auto",
  tensorParallel: number | "auto",
  more: Partial<JobSpecInput> = {},
): JobSpecInput {
  return {
    name: "small",
    model: { feedForward: { dim: 6, hidden: 8 } },
    mesh: { dataParallel, tensorParallel },
    loss: "sum",
    data: { batchSize: 4, random: { length: 8, seed: 1 } },
    steps: 3,
    ...more,
  };
}

function required<T>(value: T | null): T {
  if (value === null) throw new Error("the reply has no job");
  return value;
}
