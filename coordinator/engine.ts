import type { Logger } from "pino";
import {
  AlreadyExistsError,
  FailedPreconditionError,
  InternalError,
  InvalidArgumentError,
  NotFoundError,
  RankmeshError,
  ResourceExhaustedError,
  UnavailableError,
} from "../shared/errors.ts";
import type { SessionRequest__Output } from "../shared/rpc/gen/rankmesh/v1/SessionRequest.ts";
import { statusName } from "../shared/rpc/status.ts";
import type { Clock } from "./clock.ts";
import { tokenizes } from "./data/tokenizes.ts";
import { chooseExchange } from "./gang/exchange.ts";
import { Gang } from "./gang/gang.ts";
import { memoryBill } from "./gang/memory-bill.ts";
import { cannotCompute } from "./gang/precision.ts";
import {
  fits,
  leastSizes,
  memoryOf,
  type Placement,
  peakOn,
  type Scheduled,
  schedule,
  sizesFor,
} from "./gang/scheduler.ts";
import type { Session } from "./gang/session.ts";
import { type Assignment, type WorkerInfo, WorkerRegistry } from "./gang/worker-registry.ts";
import type { CheckedJob } from "./job/check-submission.ts";
import { Job } from "./job/job.ts";
import type { JobFiles } from "./job/job-files.ts";
import { newJobId } from "./job/job-id.ts";
import type { JobEffect } from "./job/job-machine.ts";
import type { EvaluationDone, JobFailure, StepDone } from "./job/job-state.ts";
import { JobStore } from "./job/job-store.ts";
import type { CoordinatorLimits } from "./limits.ts";
import { READY_BYTES_PER_SECOND, TOKENIZE_MS } from "./limits.ts";
import type { PlannedJob, Planning } from "./planner.ts";

/** A complaint is kept with its job and sent to every watcher. */
const MAX_COMPLAINT_CHARS = 4_000;

/** Told of what metrics count. */
export interface EngineObserver {
  /** All ranks are ready and its first step begins. */
  jobStarted(job: Job): void;
  stepDone(job: Job, step: StepDone): void;
  evaluationDone(job: Job, evaluation: EvaluationDone): void;
  jobEnded(job: Job): void;
}

export interface EngineOptions {
  readonly planning: Planning;
  readonly files: JobFiles;
  readonly clock: Clock;
  readonly limits: CoordinatorLimits;
  readonly logger: Logger;
  readonly observer: EngineObserver;
}

/**
 * Brings jobs and workers together: takes what clients, workers and the clock say, asks the pure parts (job machine, scheduler,
 * registry) what follows, and does it. Nothing here waits for a worker: answers come as messages, silence as deadlines.
 */
export class Engine {
  readonly jobs: JobStore;
  readonly workers: WorkerRegistry;
  readonly #options: EngineOptions;
  readonly #sessions = new Map<string, Session>();
  readonly #gangs = new Map<string, Gang>();
  /** When each job with a worker that did not let go ended, on the monotonic clock. */
  readonly #drainingSince = new Map<string, number>();
  readonly #leaseTimer: NodeJS.Timeout;
  #lastLeaseCheckMs: number;
  #scheduling = false;
  #stopped = false;

  constructor(options: EngineOptions) {
    this.#options = options;
    const { limits, clock } = options;
    this.jobs = new JobStore(limits.maxEndedJobs);
    this.workers = new WorkerRegistry(limits);
    this.#lastLeaseCheckMs = clock().monotonicMs;
    this.#leaseTimer = setInterval(() => this.#checkLeases(), limits.heartbeatMs / 2);
  }

  // ---- jobs

  /**
   * Queues a job whose spec was checked, and starts it if it can.
   * @throws FailedPreconditionError when no registered worker has the memory or computes in the job's precision, or the job
   * cannot start now and `noQueue` is set
   * @throws ResourceExhaustedError when too many jobs wait
   * @throws whatever a plan failed with that decides over it
   * @throws the reason of `signal` when its caller has left before the job was accepted
   */
  async submit(options: {
    readonly jobId: string;
    readonly checked: CheckedJob;
    readonly specKey: string;
    readonly noQueue: boolean;
    readonly signal: AbortSignal;
  }): Promise<Job> {
    const { limits, planning, clock } = this.#options;
    const { signal } = options;
    // A job that nobody was told of would hold workers, and nobody would know what to cancel.
    signal.throwIfAborted();
    const jobId = options.jobId === "" ? this.#freeJobId() : options.jobId;
    const job = new Job({
      jobId,
      spec: options.checked.spec,
      specKey: options.specKey,
      checked: options.checked,
      planning,
      onPlanned: () => this.schedule(),
      deadlines: limits,
      clock,
      perform: (of, effect) => this.#perform(of, effect),
    });
    const takeBack = (): void => job.dispose();
    signal.addEventListener("abort", takeBack);
    try {
      // Workers and queue may change while a plan is made: all is looked at again after it.
      for (;;) {
        const undecided = this.#refuse(job, options.noQueue);
        if (undecided === undefined) break;
        await undecided;
        signal.throwIfAborted();
      }
    } catch (error) {
      job.dispose();
      throw error;
    } finally {
      signal.removeEventListener("abort", takeBack);
    }
    this.jobs.add(job);
    this.#options.files.accepted(jobId, job.spec, options.checked.plan);
    this.#options.logger.info({ jobId, name: job.name }, "job accepted");
    this.schedule();
    return job;
  }

  /** @throws NotFoundError */
  job(jobId: string): Job {
    const job = this.jobs.get(jobId);
    if (job === undefined)
      throw new NotFoundError(
        `no job ${JSON.stringify(jobId)}; \`rankmesh job list\` shows those there are`,
      );
    return job;
  }

  /**
   * Refuses a job that is not to be queued. Where a plan decides over that which is not there yet, gives its end.
   * @throws as `submit`
   */
  #refuse(job: Job, noQueue: boolean): Promise<void> | undefined {
    if (this.#stopped)
      throw new UnavailableError("the coordinator is shutting down; submit again when it is back");
    const queued = this.jobs.queued();
    if (queued.length >= this.#options.limits.maxQueuedJobs) {
      throw new ResourceExhaustedError(
        `${queued.length} jobs wait already; submit again when some have started`,
      );
    }
    const undecided = this.#refuseUnservable(job);
    if (undecided !== undefined) return undecided;
    const placement = this.#preview([...queued, job]).at(-1)?.placement;
    if (placement?.kind === "invalid") throw placement.error;
    if (placement?.kind === "planning") {
      // Jobs before it in the queue are waited for only where it must be known that it starts.
      const plan = job.underWay ?? (noQueue ? underWayIn(queued) : undefined);
      if (plan !== undefined || !noQueue) return plan;
    }
    if (noQueue && placement?.kind !== "start") {
      throw new FailedPreconditionError(`the job cannot start now: ${placement?.reason}`);
    }
    return undefined;
  }

  /** The existing job of this id if its spec is equal. @throws AlreadyExistsError if it is another one */
  sameJob(jobId: string, specKey: string): Job | undefined {
    const job = jobId === "" ? undefined : this.jobs.get(jobId);
    if (job !== undefined && job.specKey !== specKey) {
      throw new AlreadyExistsError(
        `job ${JSON.stringify(jobId)} exists with another spec; choose another id`,
      );
    }
    return job;
  }

  /** The gang that a rank's pull belongs to. @throws NotFoundError or FailedPreconditionError (a stale generation) */
  gang(jobId: string, generation: number): Gang {
    const gang = this.#gangs.get(jobId);
    if (gang === undefined) throw new NotFoundError(`job ${JSON.stringify(jobId)} is not running`);
    if (gang.generation !== generation) {
      throw new FailedPreconditionError(
        `generation ${generation} of job ${jobId} is over; generation ${gang.generation} runs`,
      );
    }
    return gang;
  }

  // ---- workers

  /** Takes a worker in; `schedule` gives it work. @throws AlreadyExistsError when a live worker has the name */
  join(info: WorkerInfo, session: Session): void {
    if (this.#stopped) throw new UnavailableError("the coordinator is shutting down");
    this.workers.register(info, session.id, this.#nowMs());
    this.#sessions.set(info.name, session);
    const { name, address, backend, backendReason, device, memoryLimitBytes } = info;
    this.#options.logger.info(
      { worker: name, address, backend, reason: backendReason, device, memoryLimitBytes },
      "worker joined",
    );
  }

  /** Takes one message of a registered worker. What does not concern its present rank is stale and changes nothing. */
  hear(name: string, sessionId: number, message: SessionRequest__Output): void {
    const worker = this.workers.find(name);
    if (worker?.sessionId !== sessionId) return;
    this.workers.heartbeat(name, sessionId, this.#nowMs());
    const { heartbeat, ready, step, evaluation, finished, failed, released } = message;
    if (heartbeat) {
      this.#sessions.get(name)?.send({ heartbeat: {} });
      this.#noteWaits(worker.assignment, heartbeat);
      // A worker that serves nothing has let go of an ended job, even if it never said so.
      const held = worker.assignment;
      if (held !== undefined && heartbeat.jobId === "" && this.#drainingSince.has(held.jobId)) {
        this.#freed(name, held);
      }
      return;
    }
    if (message.leaving) {
      const { reason } = message.leaving;
      if (reason === "") this.#retire(name, sessionId);
      else this.left(name, sessionId, reason.slice(0, MAX_COMPLAINT_CHARS), false);
      return;
    }
    const key = ready ?? step ?? evaluation ?? finished ?? failed ?? released;
    const assignment = worker.assignment;
    if (!key || assignment?.jobId !== key.jobId || assignment.generation !== key.generation) return;
    const { jobId, generation, rank } = assignment;
    const job = this.jobs.get(jobId);
    if (released) {
      this.#freed(name, assignment);
      return;
    }
    if (job === undefined) return;
    if (ready) {
      const gang = this.#gangs.get(jobId);
      if (gang !== undefined && rank === 0) gang.ncclUniqueIds = Buffer.from(ready.ncclUniqueIds);
      job.apply({ kind: "ready", generation, rank });
    } else if (step) {
      job.apply({
        kind: "step",
        generation,
        report: {
          rank,
          step: step.step,
          loss: step.loss,
          ...(step.gradNorm === undefined ? {} : { gradNorm: step.gradNorm }),
          seconds: step.seconds,
          batchHash: step.batchHash,
          peakBytes: step.peakMemoryBytes,
        },
      });
      this.#gangs.get(jobId)?.progress(rank, job.machine.roundsReported(rank));
    } else if (evaluation) {
      job.apply({
        kind: "evaluation",
        generation,
        report: {
          rank,
          step: evaluation.step,
          evaluation: evaluation.batch,
          loss: evaluation.loss,
          batchHash: evaluation.batchHash,
        },
      });
      this.#gangs.get(jobId)?.progress(rank, job.machine.roundsReported(rank));
    } else if (finished) {
      job.apply({
        kind: "finished",
        generation,
        rank,
        peakBytes: finished.peakMemoryBytes,
        rssBytes: finished.rssBytes,
        collectiveBytes: finished.collectiveBytes,
      });
    } else if (failed) {
      this.#options.logger.warn(
        { jobId, rank, worker: name, peer: failed.peer, step: failed.step },
        failed.message,
      );
      job.apply({
        kind: "complaint",
        generation,
        complaint: {
          rank,
          code: failed.code || "INTERNAL",
          message: failed.message.slice(0, MAX_COMPLAINT_CHARS),
          ...(failed.peer === undefined ? {} : { peer: failed.peer }),
          ...(failed.step === undefined ? {} : { step: failed.step }),
        },
      });
    }
  }

  #noteWaits(
    assignment: Assignment | undefined,
    { jobId, waitingFor }: { readonly jobId: string; readonly waitingFor: string },
  ): void {
    if (assignment === undefined || assignment.jobId !== jobId) return;
    const job = this.jobs.get(jobId);
    const numRanks = job?.gang.length ?? 0;
    const peers = waitingFor.slice(0, MAX_COMPLAINT_CHARS).split(",").filter(Boolean).map(Number);
    job?.peerWaits.set(
      assignment.rank,
      peers.filter((peer) => Number.isInteger(peer) && peer >= 0 && peer < numRanks),
    );
  }

  /** A worker's session is over. `why` completes "was lost: ...". */
  left(name: string, sessionId: number, why: string, inGoodOrder: boolean): void {
    const registry = this.workers;
    if (registry.find(name)?.sessionId !== sessionId) return;
    const assignment = inGoodOrder
      ? registry.leave(name, sessionId)
      : registry.lose(name, sessionId, this.#nowMs(), why);
    this.#sessions.delete(name);
    const log = this.#options.logger;
    if (inGoodOrder) log.info({ worker: name }, "worker left");
    else
      log.warn(
        { worker: name, jobId: assignment?.jobId, rank: assignment?.rank },
        `worker lost: ${why}`,
      );
    if (assignment !== undefined) {
      const { jobId, generation, rank } = assignment;
      this.jobs.get(jobId)?.apply({ kind: "lost", generation, rank, why });
    }
    this.schedule();
  }

  /** A worker shuts down: its job ends by that, and no other is given to it while it lets go. */
  #retire(name: string, sessionId: number): void {
    const assignment = this.workers.retire(name, sessionId);
    this.#options.logger.info({ worker: name, jobId: assignment?.jobId }, "worker shuts down");
    if (assignment === undefined) return;
    const { jobId, generation, rank } = assignment;
    this.jobs.get(jobId)?.apply({ kind: "lost", generation, rank, why: "it was shut down" });
    this.schedule();
  }

  // ---- scheduling

  /** Starts every queued job that can start, and tells the others why they wait. */
  schedule(): void {
    // Starting or failing a job can free workers and ask for another pass: that one runs after this one.
    if (this.#scheduling || this.#stopped) return;
    this.#scheduling = true;
    try {
      for (let again = true; again; ) {
        again = false;
        const results = this.#preview(this.jobs.queued());
        for (const { jobId, placement, overtaken } of results) {
          const job = this.jobs.get(jobId);
          if (job === undefined) continue;
          job.overtaken = overtaken;
          if (placement.kind === "wait" || placement.kind === "planning")
            job.apply({ kind: "waits", reason: placement.reason });
          else if (placement.kind === "invalid") {
            this.#options.logger.warn({ jobId }, placement.error.message);
            job.apply({ kind: "fail", failure: failureOf(placement.error) });
            again = true;
          } else this.#start(job, placement);
        }
      }
    } finally {
      this.#scheduling = false;
    }
  }

  /** Cancels all jobs, waits up to `graceMs` for their ends, and ends all sessions. */
  async stop(graceMs: number): Promise<void> {
    if (this.#stopped) return;
    this.#stopped = true;
    const reason = "the coordinator was stopped";
    for (const job of this.jobs.all()) job.apply({ kind: "cancel", reason });
    const late = AbortSignal.timeout(graceMs);
    for (const job of this.jobs.all()) {
      while (!job.ended && !late.aborted) await job.changed(late);
    }
    clearInterval(this.#leaseTimer);
    const closing = [...this.#gangs.values()].map((gang) => gang.close());
    for (const job of this.jobs.all()) job.dispose();
    for (const session of this.#sessions.values()) {
      session.end(new UnavailableError(reason));
    }
    await Promise.allSettled(closing);
  }

  #preview(queue: readonly Job[]): Scheduled[] {
    return schedule(queue, this.workers.idle(), this.workers.registered());
  }

  #start(job: Job, placement: Extract<Placement, { kind: "start" }>): void {
    const { limits, files } = this.#options;
    // What it was placed with, so that it is the plan it was placed by.
    const { sizes, arenaBytes } = placement;
    const plan = job.plan(sizes, arenaBytes);
    if (plan === undefined) throw new InternalError(`job ${job.jobId} was placed without a plan`);
    const generation = job.machine.generation + 1;
    const workers = placement.workers.flatMap((name) => this.workers.find(name)?.info ?? []);
    workers.forEach((worker, rank) => {
      this.workers.assign(worker.name, { jobId: job.jobId, generation, rank });
    });
    const exchange = chooseExchange(workers);
    const { note } = exchange;
    job.notes = note === undefined ? plan.notes : [...plan.notes, note];
    job.planSummary = plan.summary;
    job.gang = workers;
    job.peerWaits.clear();
    const gang = new Gang({
      jobId: job.jobId,
      generation,
      spec: job.spec,
      plan,
      workers,
      collectiveMs: limits.collectiveMs,
      ncclVersion: exchange.ncclVersion,
      openBatches: (signal) => files.openBatches(job.jobId, job.spec, plan, signal),
      openWeights: files.weightsOpener(job.spec, plan.program),
      onBatchSent: (rank, round, hash) =>
        job.apply({ kind: "batchSent", generation, rank, round, hash }),
      onDataFault: (error) => job.apply({ kind: "fail", failure: failureOf(error) }),
    });
    this.#gangs.set(job.jobId, gang);
    const { data, eval: evaluation } = job.spec;
    const isTokenized = tokenizes(data) || (evaluation.data && tokenizes(evaluation.data));
    this.#options.logger.info(
      { jobId: job.jobId, generation, ...sizes, workers: placement.workers, exchange: note },
      "job starts",
    );
    job.apply({
      kind: "start",
      sizes,
      gang: workers.map((worker) => ({
        worker: worker.name,
        backend: worker.backend,
        device: worker.device,
        predictedPeakBytes: peakOn(arenaBytes, worker),
        workspaceBytes: worker.workspaceBytes,
      })),
      alike: new Set(workers.map(({ fingerprint }) => fingerprint)).size === 1,
      readyMs: limits.readyMs + Math.ceil((arenaBytes / READY_BYTES_PER_SECOND) * 1000),
      openMs: isTokenized ? TOKENIZE_MS : 0,
    });
  }

  #perform(job: Job, effect: JobEffect): void {
    const gang = this.#gangs.get(job.jobId);
    switch (effect.kind) {
      case "assign":
        if (gang !== undefined) this.#runAside(job, gang, () => this.#assign(job, gang));
        return;
      case "startSteps":
        this.#options.observer.jobStarted(job);
        this.#toRanks(gang, (jobId, generation) => ({
          start: { jobId, generation, ncclUniqueIds: gang?.ncclUniqueIds ?? Buffer.alloc(0) },
        }));
        return;
      case "writeOutput":
        if (gang !== undefined) this.#runAside(job, gang, () => this.#writeOutput(job, gang));
        return;
      case "abort":
        if (gang === undefined) return;
        this.#closeGang(gang);
        if (gang.assigned) {
          this.#toRanks(
            gang,
            (jobId, generation) => ({ abort: { jobId, generation, reason: effect.reason } }),
            effect.ranks,
          );
        } else {
          // They never heard of the job: nobody would answer.
          for (const rank of effect.ranks) this.#releaseUnheard(gang, rank);
        }
        return;
      case "release":
        this.#toRanks(
          gang,
          (jobId, generation) => ({ release: { jobId, generation } }),
          effect.ranks,
        );
        return;
      case "stepDone":
        this.#options.observer.stepDone(job, effect.step);
        return;
      case "evaluationDone":
        this.#options.observer.evaluationDone(job, effect.evaluation);
        return;
      case "ended":
        this.#ended(job, gang);
        return;
    }
  }

  async #assign(job: Job, gang: Gang): Promise<void> {
    await gang.open();
    const assignments = gang.assignments();
    const { generation, evaluationBatches } = gang;
    job.apply({ kind: "opened", generation, evaluationBatches });
    gang.assigned = true;
    for (const [rank, assign] of assignments.entries())
      this.#sessionOf(gang, rank)?.send({ assign });
  }

  async #writeOutput(job: Job, gang: Gang): Promise<void> {
    const { files, limits } = this.#options;
    const written = await files.writeOutput(job.spec, job.facts, gang, limits.readShardMs);
    job.output = written[0];
    for (const { path, bytes } of written) {
      const message = `weights written to ${path} (${bytes} bytes)`;
      job.apply({ kind: "log", level: "info", message });
    }
    job.apply({ kind: "outputWritten", generation: gang.generation });
  }

  /** Runs work of a gang beside the messages; what it throws ends the job, unless that is over anyway. */
  #runAside(job: Job, gang: Gang, work: () => Promise<void>): void {
    const { generation, signal } = gang;
    work()
      .catch((error: unknown) => {
        if (signal.aborted) return;
        this.#options.logger.warn({ jobId: job.jobId, err: error }, "job failed");
        job.apply({ kind: "fail", failure: failureOf(error) });
      })
      .finally(() => job.apply({ kind: "settled", generation }))
      .catch((error: unknown) => {
        this.#options.logger.error(
          { jobId: job.jobId, err: error },
          "internal: ending a job failed",
        );
      });
  }

  #releaseUnheard(gang: Gang, rank: number): void {
    const { jobId, generation } = gang;
    const name = gang.workers[rank]?.name;
    queueMicrotask(() => {
      if (name !== undefined) this.#freed(name, { jobId, generation, rank });
    });
  }

  #freed(name: string, { jobId, generation, rank }: Assignment): void {
    if (!this.workers.free(name, jobId, generation)) return;
    this.jobs.get(jobId)?.apply({ kind: "released", generation, rank });
    this.schedule();
  }

  #ended(job: Job, gang: Gang | undefined): void {
    const { logger, observer } = this.#options;
    const { phase, failure, stepsDone } = job.machine;
    logger.info(
      { jobId: job.jobId, phase, steps: stepsDone, code: failure?.code },
      failure?.message ?? "job ended",
    );
    if (gang !== undefined) {
      this.#closeGang(gang);
      this.#gangs.delete(job.jobId);
      const held = this.workers.list(this.#nowMs()).some((w) => w.assignment?.jobId === job.jobId);
      if (held) this.#drainingSince.set(job.jobId, this.#nowMs());
    }
    this.jobs.retire(job);
    this.#aside(this.#options.files.ended(job.jobId), job.jobId);
    observer.jobEnded(job);
    queueMicrotask(() => this.schedule());
  }

  #closeGang(gang: Gang): void {
    this.#aside(gang.close(), gang.jobId);
  }

  #aside(closing: Promise<void>, jobId: string): void {
    closing.catch((error: unknown) => {
      this.#options.logger.warn({ jobId, err: error }, "closing the files of a job failed");
    });
  }

  #toRanks(
    gang: Gang | undefined,
    message: (jobId: string, generation: number) => Parameters<Session["send"]>[0],
    ranks?: readonly number[],
  ): void {
    if (gang === undefined) return;
    for (const rank of ranks ?? gang.workers.keys()) {
      this.#sessionOf(gang, rank)?.send(message(gang.jobId, gang.generation));
    }
  }

  /** The session of a rank's worker, as long as that still serves it. */
  #sessionOf(gang: Gang, rank: number): Session | undefined {
    const name = gang.workers[rank]?.name ?? "";
    const assignment = this.workers.find(name)?.assignment;
    if (assignment?.jobId !== gang.jobId || assignment.generation !== gang.generation)
      return undefined;
    return this.#sessions.get(name);
  }

  #checkLeases(): void {
    const nowMs = this.#nowMs();
    const { heartbeatMs, leaseMs, drainMs } = this.#options.limits;
    const lateMs = nowMs - this.#lastLeaseCheckMs - heartbeatMs / 2;
    this.#lastLeaseCheckMs = nowMs;
    // This process was held up itself (a suspended host, a machine with too much to do): heartbeats wait unread. Read them first.
    if (lateMs > heartbeatMs) return;
    for (const { name, sessionId, silentMs } of this.workers.expired(nowMs)) {
      const why = `no heartbeat for ${(silentMs / 1000).toFixed(1)} s (the limit is ${leaseMs / 1000} s)`;
      this.#cutOff(name, sessionId, why);
    }
    for (const [jobId, sinceMs] of this.#drainingSince) {
      const held = this.workers.list(nowMs).filter((w) => w.assignment?.jobId === jobId);
      if (held.length === 0) this.#drainingSince.delete(jobId);
      else if (nowMs - sinceMs > drainMs) {
        const why = `it did not let go of job ${jobId} within ${drainMs / 1000} s of its end`;
        for (const { name } of held)
          this.#cutOff(name, this.workers.find(name)?.sessionId ?? 0, why);
      }
    }
    this.workers.forgetLost(nowMs);
  }

  #cutOff(name: string, sessionId: number, why: string): void {
    const session = this.#sessions.get(name);
    this.left(name, sessionId, why, false);
    session?.end(new UnavailableError(`worker ${JSON.stringify(name)} was given up: ${why}`));
  }

  /**
   * Gives the end of the plan that it takes to tell, while that is being made.
   * @throws FailedPreconditionError, with the reason or the bill, when no registered worker could ever serve a rank
   */
  #refuseUnservable(job: Job): Promise<void> | undefined {
    const all = this.workers.registered();
    if (all.length === 0) return undefined;
    const registered = all.filter(({ precisions }) => precisions.includes(job.precision));
    if (registered.length === 0) {
      const { precision } = job.spec;
      throw new FailedPreconditionError(
        `precision ${precision}: no registered worker computes in it; ${cannotCompute(all)}; ` +
          `start workers with --backend cuda, or set precision to fp32`,
      );
    }
    // More ranks need less each: an auto mesh is judged at the most that there could be.
    const sizes = sizesFor(job.mesh, registered.length) ?? leastSizes(job.mesh);
    let plan: PlannedJob | undefined;
    try {
      plan = job.plan(sizes, memoryOf(registered, 1));
    } catch (error) {
      // At the sizes that it will start with it may well compile; if not, that is its error then.
      if (error instanceof InvalidArgumentError) return undefined;
      throw error;
    }
    if (plan === undefined) return job.underWay;
    const { program } = plan;
    if (registered.some((worker) => fits(program.arenaBytes, worker))) return undefined;
    throw new FailedPreconditionError(memoryBill(program, registered));
  }

  #freeJobId(): string {
    for (;;) {
      const jobId = newJobId(this.#options.clock().wallMs);
      if (this.jobs.get(jobId) === undefined) return jobId;
    }
  }

  #nowMs(): number {
    return this.#options.clock().monotonicMs;
  }
}

/** The end of a plan that is being made for one of these jobs. */
function underWayIn(jobs: readonly Job[]): Promise<void> | undefined {
  for (const { underWay } of jobs) if (underWay !== undefined) return underWay;
  return undefined;
}

function failureOf(error: unknown): JobFailure {
  const message = error instanceof Error ? error.message : String(error);
  return {
    code: statusName(error),
    message: error instanceof RankmeshError ? message : `internal: ${message}`,
  };
}
