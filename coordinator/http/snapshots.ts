import { randomBytes } from "node:crypto";
import type { Clock } from "../clock.ts";
import type { Engine } from "../engine.ts";
import type { WorkerView } from "../gang/worker-registry.ts";
import type { Job } from "../job/job.ts";
import type {
  ClockView,
  JobDetails,
  JobLine,
  JobView,
  OverviewView,
  PlanView,
  RankView,
  StatusView,
  WorkerLine,
} from "../page/api.ts";
import { JobHistory } from "./job-history.ts";
import {
  countByState,
  jobLine,
  jobView,
  listedJobs,
  planView,
  rankViews,
  workerLine,
} from "./views.ts";

/** Workers of an overview; the API's list has all. */
const MAX_LISTED_WORKERS = 500;
/** Jobs of `/api/v1/status`. */
const MAX_STATUS_JOBS = 50;

/** The coordinator as the API and the page show it, at the moment of each call. */
export class Snapshots {
  /** Differs from start to start, so that a page sees that what it knew of is gone. */
  readonly instance = randomBytes(6).toString("hex");
  readonly #engine: Pick<Engine, "jobs" | "workers">;
  readonly #clock: Clock;
  readonly #version: string;
  readonly #startedAt: string;
  /** A history is as old as its first viewer, and goes with its job. */
  readonly #histories = new WeakMap<Job, JobHistory>();
  /** Bound address of the API, once it is bound. */
  grpcAddress = "";

  constructor(options: {
    readonly engine: Pick<Engine, "jobs" | "workers">;
    readonly clock: Clock;
    readonly version: string;
  }) {
    this.#engine = options.engine;
    this.#clock = options.clock;
    this.#version = options.version;
    this.#startedAt = new Date(options.clock().wallMs).toISOString();
  }

  now(): ClockView {
    return { now: new Date(this.#clock().wallMs).toISOString() };
  }

  job(jobId: string): Job | undefined {
    return this.#engine.jobs.get(jobId);
  }

  history(job: Job): JobHistory {
    let history = this.#histories.get(job);
    if (history === undefined) {
      history = new JobHistory(job.jobId, job.machine.log);
      this.#histories.set(job, history);
    }
    return history;
  }

  status(): StatusView {
    const all = this.#engine.jobs.all();
    return {
      service: "rankmesh coordinator",
      version: this.#version,
      instance: this.instance,
      startedAt: this.#startedAt,
      workers: this.#engine.workers.registered().length,
      idleWorkers: this.#engine.workers.idle().length,
      jobsByState: countByState(all),
      jobs: listedJobs(all).slice(0, MAX_STATUS_JOBS).map(jobLine),
    };
  }

  workers(): WorkerLine[] {
    return this.#workerViews().map(workerLine);
  }

  jobs(): JobLine[] {
    return listedJobs(this.#engine.jobs.all()).map(jobLine);
  }

  overview(): OverviewView {
    const all = this.#engine.jobs.all();
    const workers = this.#workerViews();
    const jobs = listedJobs(all);
    return {
      version: this.#version,
      instance: this.instance,
      grpcAddress: this.grpcAddress,
      workers: workers.slice(0, MAX_LISTED_WORKERS).map(workerLine),
      workersLeftOut: Math.max(0, workers.length - MAX_LISTED_WORKERS),
      jobs: jobs.map(jobLine),
      jobsLeftOut: all.length - jobs.length,
      jobsByState: countByState(all),
    };
  }

  jobView(job: Job): JobView {
    return jobView(job, this.history(job), this.#clock().wallMs);
  }

  rankViews(job: Job, { waitingFor }: JobView): RankView[] {
    return rankViews(job, this.#workerViews(), waitingFor);
  }

  /** As far as the job's history has been followed. */
  details(job: Job): JobDetails {
    const view = this.jobView(job);
    return { job: view, ranks: this.rankViews(job, view), history: this.history(job).view() };
  }

  plan(job: Job): PlanView {
    return planView(job);
  }

  #workerViews(): WorkerView[] {
    return this.#engine.workers.list(this.#clock().monotonicMs);
  }
}
