import {
  CancelledError,
  FailedPreconditionError,
  NotFoundError,
  ResourceExhaustedError,
} from "../../shared/errors.ts";
import type { JobSpec } from "../../shared/job/job-spec.ts";
import { worldSize } from "../../shared/mesh/mesh.ts";
import { CONTROL_MESSAGE_LIMIT_BYTES } from "../../shared/rpc/channel.ts";
import type { Assign } from "../../shared/rpc/gen/rankmesh/v1/Assign.ts";
import type { RoundReader } from "../data/round-reader.ts";
import type { PlannedJob } from "../planner.ts";
import type { InitialWeights } from "../weights/initial-weights.ts";
import { BatchFeed } from "./batch-feed.ts";
import { peakOn } from "./scheduler.ts";
import type { WorkerInfo } from "./worker-registry.ts";

/** Leaves room for the peers' addresses in the same message. */
export const MAX_PROGRAM_BYTES = CONTROL_MESSAGE_LIMIT_BYTES - (512 << 10);

export interface GangOptions {
  readonly jobId: string;
  readonly generation: number;
  readonly spec: JobSpec;
  readonly plan: PlannedJob;
  /** Worker of every rank, in rank order. */
  readonly workers: readonly WorkerInfo[];
  readonly collectiveMs: number;
  /** Collectives run over NCCL of this version; undefined: over gRPC. */
  readonly ncclVersion: string | undefined;
  readonly openBatches: (signal: AbortSignal) => Promise<RoundReader>;
  /** undefined: the ranks initialise by the seed. */
  readonly openWeights: (() => Promise<InitialWeights>) | undefined;
  readonly onBatchSent: (rank: number, round: number, hash: number) => void;
  /** The data source failed in mid-run. */
  readonly onDataFault: (error: unknown) => void;
}

/** One generation of a job on its workers: what they pull from here, and what is written from them. */
export class Gang {
  readonly jobId: string;
  readonly generation: number;
  readonly plan: PlannedJob;
  readonly workers: readonly WorkerInfo[];
  /** Fires when the gang is over, whichever way. */
  readonly signal: AbortSignal;
  /** Whether the workers have been told of the job. */
  assigned = false;
  /** What the ranks meet by over NCCL, once rank 0 has made it. */
  ncclUniqueIds = Buffer.alloc(0);
  readonly #options: GangOptions;
  readonly #stop = new AbortController();
  #feed: BatchFeed | undefined;
  #evaluationBatches = 0;
  #weights: InitialWeights | undefined;

  constructor(options: GangOptions) {
    this.jobId = options.jobId;
    this.generation = options.generation;
    this.plan = options.plan;
    this.workers = options.workers;
    this.#options = options;
    this.signal = this.#stop.signal;
  }

  /**
   * Opens what the ranks will pull.
   * @throws what the job's files have against it; CancelledError when the gang was closed meanwhile
   */
  async open(): Promise<void> {
    const { plan, spec, openBatches, openWeights, onBatchSent, onDataFault } = this.#options;
    const reader = await openBatches(this.signal);
    const numRanks = worldSize(plan.program.mesh);
    this.#evaluationBatches = reader.evaluationBatches;
    this.#feed = new BatchFeed({
      reader,
      numRanks,
      schedule: {
        steps: spec.steps,
        evaluateEvery: spec.eval.every,
        evaluationBatches: reader.evaluationBatches,
      },
      onSent: onBatchSent,
      onFault: onDataFault,
    });
    if (this.signal.aborted) await this.#feed.close();
    this.signal.throwIfAborted();
    const weights = await openWeights?.();
    this.#weights = weights;
    if (this.signal.aborted) await weights?.close();
    this.signal.throwIfAborted();
  }

  /** Batches of one evaluation; 0 until the gang is open, and for a job without evaluations. */
  get evaluationBatches(): number {
    return this.#evaluationBatches;
  }

  /** The assignment of every rank, in rank order. */
  assignments(): Assign[] {
    const { plan, spec, collectiveMs, ncclVersion } = this.#options;
    const peers = this.workers.map(({ address, name }, rank) => ({ rank, address, worker: name }));
    const programJson = plan.encodedProgram;
    if (programJson.length > MAX_PROGRAM_BYTES) {
      throw new ResourceExhaustedError(
        `the program has ${programJson.length} bytes, more than the ${MAX_PROGRAM_BYTES} that a worker takes; use a model of fewer layers`,
      );
    }
    return this.workers.map((worker, rank) => ({
      jobId: this.jobId,
      generation: this.generation,
      rank,
      peers,
      programJson,
      steps: spec.steps,
      seed: spec.init.seed,
      loadWeights: this.#weights !== undefined,
      predictedPeakMemoryBytes: peakOn(plan.program.arenaBytes, worker),
      collectiveTimeoutSeconds: collectiveMs / 1000,
      evaluateEvery: spec.eval.every,
      evaluationBatches: this.#evaluationBatches,
      ncclVersion: ncclVersion ?? "",
    }));
  }

  /** What streams this rank's batches. @throws NotFoundError when there is no such rank */
  feed(rank: number): BatchFeed {
    this.#requireRank(rank);
    if (this.#feed === undefined)
      throw new FailedPreconditionError(`job ${this.jobId} has not started`);
    return this.#feed;
  }

  /** @throws FailedPreconditionError when the job's ranks make their own weights */
  weights(rank: number): InitialWeights {
    this.#requireRank(rank);
    if (this.#weights === undefined) {
      throw new FailedPreconditionError(
        `job ${this.jobId} loads no weights; initialise them by its seed`,
      );
    }
    return this.#weights;
  }

  /** `rank` has reported `rounds` rounds. */
  progress(rank: number, rounds: number): void {
    this.#feed?.progress(rank, rounds);
  }

  /** Ends everything that is under way for these ranks and closes files. */
  async close(): Promise<void> {
    this.#stop.abort(new CancelledError(`job ${this.jobId} is over`));
    await Promise.all([this.#feed?.close(), this.#weights?.close()]);
  }

  #requireRank(rank: number): void {
    if (rank < this.workers.length) return;
    throw new NotFoundError(
      `job ${this.jobId} has ranks 0 to ${this.workers.length - 1}, not ${rank}`,
    );
  }
}
