import type { Logger } from "pino";
import {
  CancelledError,
  type DeviceError,
  InternalError,
  PeerError,
  RankmeshError,
  ResourceExhaustedError,
} from "../shared/errors.ts";
import type { RankServiceClient } from "../shared/rpc/gen/rankmesh/v1/RankService.ts";
import { statusName } from "../shared/rpc/status.ts";
import type { Assignment } from "./assignment.ts";
import type { EndedCollective } from "./backend/backend.ts";
import { BatchFeed, batchRingBytes } from "./batch-feed.ts";
import type { BackendChoice } from "./compute/backend-loader.ts";
import { ComputeProxy } from "./compute/compute-proxy.ts";
import type { EvaluationResult, MemoryReport, StepResult } from "./compute/messages.ts";
import { Deferred } from "./deferred.ts";
import type { BufferGarbage } from "./garbage.ts";
import { loadInitialWeights } from "./initial-weights.ts";
import type { RankMetrics, WorkerMetrics } from "./metrics.ts";
import type { OpenRing, Ring } from "./ring.ts";

/** What a rank tells the coordinator. */
export interface RankReports {
  /** @param ncclUniqueIds what this rank made for all to meet by; else empty */
  ready(ncclUniqueIds: Uint8Array): void;
  step(result: StepResult): void;
  evaluation(result: EvaluationResult): void;
  finished(memory: MemoryReport, rssBytes: number, collectiveBytes: number): void;
  failed(failure: RankFailure): void;
  /** Everything that the assignment held is free. */
  released(): void;
}

export interface RankFailure {
  /** gRPC status name. */
  readonly code: string;
  readonly message: string;
  /** The rank at fault, when it is another one. */
  readonly peer: number | undefined;
  readonly step: number | undefined;
}

export interface RankRunnerOptions {
  readonly assignment: Assignment;
  readonly backendModule: string;
  readonly backend: BackendChoice;
  readonly backendName: string;
  readonly device: string;
  readonly memoryLimitBytes: number;
  /** What the backend takes beside an arena. */
  readonly workspaceBytes: number;
  /** For bulk streams from the coordinator. */
  readonly client: RankServiceClient;
  readonly openRing: OpenRing;
  readonly metrics: WorkerMetrics;
  readonly garbage: BufferGarbage;
  readonly logger: Logger;
  readonly reports: RankReports;
  /** Memory cannot be given back any more: the process must end. */
  readonly onFatal: (error: Error) => void;
  /** No later assignment can compute either. Called once this one's failure has been reported. */
  readonly onDeviceLost: (error: DeviceError) => void;
}

/** Peers load their weights at their own pace, but they open their ring first. */
const CONNECT_MS = 60_000;
/** A kernel under way ends within this, or the thread is wedged. */
const TEARDOWN_MS = 60_000;

/**
 * One assignment from Assign to RankReleased: loads the program into a compute thread, fills its weights, meets
 * its peers, runs all steps, and keeps the weights readable until it is released. Whatever ends it, and whenever:
 * all waits return, then everything it held is freed, then it reports so.
 */
export class RankRunner {
  readonly assignment: Assignment;
  /** Resolves when everything is freed; never rejects. */
  readonly done: Promise<void>;
  readonly #options: RankRunnerOptions;
  readonly #logger: Logger;
  readonly #metrics: RankMetrics;
  readonly #aborted = new AbortController();
  readonly #start = new Deferred<Uint8Array>();
  readonly #release = new Deferred<void>();
  #compute: ComputeProxy | undefined;
  #ring: Ring | undefined;
  #feed: BatchFeed | undefined;
  /** What this rank made for all to meet by over NCCL. */
  #ncclUniqueIds: Uint8Array = new Uint8Array();
  /** Payload that collectives on the device have sent. */
  #deviceBytes = 0;
  #finished = false;
  #silent = false;
  #deviceLost: DeviceError | undefined;
  #reported = false;

  constructor(options: RankRunnerOptions) {
    this.#options = options;
    this.assignment = options.assignment;
    const { jobId, generation, rank } = options.assignment;
    this.#logger = options.logger.child({ job: jobId, generation, rank });
    this.#metrics = options.metrics.startRank({
      jobId,
      rank,
      device: options.device,
      backend: options.backendName,
    });
    this.done = this.#run();
  }

  /** All ranks are ready. `ncclUniqueIds` are what they meet by, where they exchange over NCCL. */
  start(ncclUniqueIds: Uint8Array = new Uint8Array()): void {
    this.#start.resolve(ncclUniqueIds);
  }

  /** The weights are no longer needed. */
  release(): void {
    if (this.#finished) this.#release.resolve();
    else this.abort(new CancelledError("released before its last step"));
  }

  /** Ends the assignment now, without a failure report: the coordinator wants it, or is gone. */
  abort(cause: Error): void {
    this.#silent = true;
    this.#end(cause);
  }

  /** Ends the assignment now, and reports `cause` as its failure. */
  fail(cause: Error): void {
    this.#end(cause);
  }

  /** Fires when the assignment ends, whichever way. */
  get ended(): AbortSignal {
    return this.#aborted.signal;
  }

  get stepsDone(): number {
    return this.#compute?.stepsDone ?? 0;
  }

  /** Ranks whose frames are missing now. */
  get waitingFor(): number[] {
    return this.#ring?.waitingFor() ?? [];
  }

  /** The compute thread once all steps are done and until the release: weights can be read from it. */
  get finishedCompute(): ComputeProxy | undefined {
    return this.#finished && !this.#aborted.signal.aborted ? this.#compute : undefined;
  }

  #end(cause: Error): void {
    if (this.#aborted.signal.aborted) return;
    this.#aborted.abort(cause);
    this.#start.reject(cause);
    this.#release.reject(cause);
    this.#ring?.group.abort(cause);
    this.#compute?.abort(cause);
  }

  async #run(): Promise<void> {
    try {
      // Not in the constructor's turn: whoever makes the runner must hold it before its first report.
      await Promise.resolve();
      await this.#work();
      this.#logger.info("rank released");
    } catch (error) {
      this.#reportFailure(error);
    }
    this.#reported = true;
    if (this.#deviceLost !== undefined) this.#options.onDeviceLost(this.#deviceLost);
    const freed = await this.#free();
    this.#metrics.end();
    if (freed) this.#options.reports.released();
  }

  /** Whatever the rank is doing, down to giving back its memory, it cannot go on. A lost device says so again and again. */
  #loseDevice(error: DeviceError): void {
    if (this.#deviceLost !== undefined) return;
    this.#deviceLost = error;
    this.fail(error);
    if (this.#reported) this.#options.onDeviceLost(error);
  }

  async #work(): Promise<void> {
    const { assignment, garbage, reports } = this.#options;
    this.#aborted.signal.throwIfAborted();
    this.#checkMemory();
    const { ncclVersion } = assignment;
    if (ncclVersion === undefined) {
      const ring = this.#options.openRing(assignment, {
        finished: (op, seconds, sent, received) => {
          this.#metrics.collective(op, "grpc", seconds, sent, received);
          garbage.add(sent + received);
        },
        waited: (peer, seconds) => this.#metrics.waited(peer, seconds),
      });
      this.#ring = ring;
      await Promise.all([this.#prepare(ring), this.#whileNotAborted(ring.connect(CONNECT_MS))]);
    } else await this.#prepare(undefined);
    this.#logger.info({ transport: this.#transport() }, "rank ready");
    reports.ready(this.#ncclUniqueIds);
    const memory = await this.#train(await this.#start.promise);
    const rssBytes = process.memoryUsage.rss();
    this.#metrics.setMemory(memory);
    this.#finished = true;
    this.#logger.info(
      { steps: assignment.schedule.steps, peakMemoryBytes: memory.peakBytes, rssBytes },
      "rank finished",
    );
    const sentBytes = this.#ring?.group.sentBytes ?? this.#deviceBytes;
    reports.finished(memory, rssBytes, sentBytes);
    await this.#release.promise;
  }

  /** `NCCL 2.27.3` */
  #transport(): string {
    const { ncclVersion } = this.assignment;
    return ncclVersion === undefined ? "gRPC" : `NCCL ${ncclVersion}`;
  }

  #checkMemory(): void {
    const { assignment, memoryLimitBytes, workspaceBytes } = this.#options;
    this.#metrics.setLimits(memoryLimitBytes, assignment.predictedPeakMemoryBytes);
    const { arenaBytes } = assignment.program;
    if (arenaBytes + workspaceBytes > memoryLimitBytes) {
      const own = workspaceBytes === 0 ? "" : ` and ${workspaceBytes} for its backend`;
      throw new ResourceExhaustedError(
        `rank ${assignment.rank} needs ${arenaBytes} bytes${own}, this worker may use ${memoryLimitBytes}; ` +
          "split the model over more ranks, or raise --memory-limit",
      );
    }
  }

  /** Allocates the arena and fills the weights. */
  async #prepare(ring: Ring | undefined): Promise<void> {
    const { assignment, backendModule, backend } = this.#options;
    const { program } = assignment;
    const compute = new ComputeProxy({
      backendModule,
      backend,
      program,
      rank: assignment.rank,
      batchRingBytes: batchRingBytes(program),
      runCollective: (index, at, buffers) => {
        const descriptor = program.collectives[index];
        if (descriptor === undefined || ring === undefined)
          throw new InternalError(`collective ${index} has nobody to run it`);
        const key = { step: at.step, microbatch: at.microbatch, collective: index };
        return ring.group.run(descriptor, key, buffers, at.batchHash);
      },
      exchange:
        ring === undefined
          ? { timeoutMs: assignment.collectiveTimeoutMs, makesIds: assignment.rank === 0 }
          : undefined,
      onCollectives: (ended) => this.#endedOnDevice(ended),
      onStep: (result) => {
        this.#metrics.step(result);
        this.#options.reports.step(result);
      },
      onEvaluation: (result) => this.#options.reports.evaluation(result),
      onBatchRoom: () => this.#feed?.room(),
      onDeviceLost: (error) => this.#loseDevice(error),
    });
    this.#compute = compute;
    const { device, memory, exchangeIds } = await compute.load();
    this.#ncclUniqueIds = exchangeIds;
    this.#metrics.setMemory(memory);
    this.#logger.info({ device, arenaBytes: program.arenaBytes }, "arena allocated");

    const stored = [...program.stored.keys()];
    const loaded = assignment.loadWeights
      ? stored.filter((index) => program.stored[index]?.role === "parameter")
      : [];
    await compute.initialize(
      stored.filter((index) => !loaded.includes(index)),
      assignment.seed,
    );
    for (const index of loaded) {
      await loadInitialWeights(
        this.#options.client,
        assignment,
        index,
        compute,
        this.#aborted.signal,
      );
    }
    compute.trim();
  }

  #endedOnDevice(ended: readonly EndedCollective[]): void {
    for (const { collective, seconds } of ended) {
      const descriptor = this.assignment.program.collectives[collective];
      if (descriptor === undefined) continue;
      const { op, wireBytes } = descriptor;
      this.#deviceBytes += wireBytes;
      this.#metrics.collective(op, "nccl", seconds, wireBytes, wireBytes);
    }
  }

  async #train(ncclUniqueIds: Uint8Array): Promise<MemoryReport> {
    const compute = this.#compute;
    if (compute === undefined) throw new InternalError("started before the program was loaded");
    const { assignment, client, garbage } = this.#options;
    const { schedule } = assignment;
    this.#logger.info({ ...schedule }, "steps begin");
    if (schedule.steps > 0) {
      this.#feed = new BatchFeed({
        client,
        assignment,
        ring: compute.batches,
        onArrived: () => compute.batchArrived(),
        onReceived: (bytes) => garbage.add(bytes),
        onError: (error) => compute.abort(error, compute.stepsDone),
      });
    }
    const memory = await compute.run(schedule, ncclUniqueIds);
    this.#feed?.close();
    return memory;
  }

  #reportFailure(error: unknown): void {
    const cause = error instanceof Error ? error : new InternalError(String(error));
    if (this.#silent) {
      this.#logger.info({ reason: cause.message }, "rank aborted");
      return;
    }
    const step = cause instanceof PeerError ? cause.step : this.#compute?.failure?.step;
    // Ours say what is the matter; of any other the stack is needed to find out.
    const known = cause instanceof RankmeshError && !(cause instanceof InternalError);
    this.#logger.error(
      known ? { reason: cause.message, step } : { err: cause, step },
      "rank failed",
    );
    this.#options.reports.failed({
      code: statusName(cause),
      message: cause.message,
      peer: cause instanceof PeerError ? cause.peer : undefined,
      step,
    });
  }

  /** Gives back all that is held; false, and fatal, when that does not work. */
  async #free(): Promise<boolean> {
    const cause = new CancelledError("the assignment is over");
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<never>((_, reject) => {
      const what = `the compute thread of rank ${this.assignment.rank} did not end within ${TEARDOWN_MS / 1000} s`;
      timer = setTimeout(() => reject(new InternalError(what)), TEARDOWN_MS);
    });
    try {
      await Promise.race([this.#freeInOrder(cause), late]);
      return true;
    } catch (error) {
      const fatal = error instanceof Error ? error : new InternalError(String(error));
      this.#logger.fatal({ err: fatal }, "memory cannot be given back");
      this.#options.onFatal(fatal);
      return false;
    } finally {
      clearTimeout(timer);
    }
  }

  /** Streams before memory: until a stream is closed it may hold a view of the arena. */
  async #freeInOrder(cause: Error): Promise<void> {
    this.#end(cause);
    this.#feed?.close();
    await this.#ring?.close();
    await this.#compute?.dispose();
    this.#compute = undefined;
  }

  /** `promise`, or the abort's cause as soon as there is one. */
  async #whileNotAborted<T>(promise: Promise<T>): Promise<T> {
    const { signal } = this.#aborted;
    const ended = new Deferred<never>();
    const onAbort = (): void => ended.reject(signal.reason);
    signal.addEventListener("abort", onAbort);
    try {
      return await Promise.race([promise, ended.promise]);
    } finally {
      signal.removeEventListener("abort", onAbort);
    }
  }
}
