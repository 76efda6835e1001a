import { Counter, collectDefaultMetrics, Gauge, Registry } from "prom-client";
import type { EngineObserver } from "./engine.ts";
import type { WorkerRegistry, WorkerState } from "./gang/worker-registry.ts";
import type { Job } from "./job/job.ts";
import type { EvaluationDone, JobPhase, StepDone } from "./job/job-state.ts";
import type { JobStore } from "./job/job-store.ts";

const PHASES: readonly JobPhase[] = [
  "QUEUED",
  "STARTING",
  "RUNNING",
  "SUCCEEDED",
  "FAILED",
  "CANCELLED",
];
const WORKER_STATES: readonly WorkerState[] = ["idle", "busy", "lost"];

/** What the coordinator exports; names and labels as docs/metrics.md lists them. */
export class CoordinatorMetrics implements EngineObserver {
  readonly registry = new Registry();
  readonly #steps = this.#gauge("rankmesh_train_steps", "Optimizer steps that the job is to do.");
  readonly #progressed = this.#gauge(
    "rankmesh_train_last_progress_timestamp_seconds",
    "Unix time of the last step or evaluation done, or of the start.",
  );
  readonly #loss = this.#gauge("rankmesh_train_loss", "Loss of the last step done.");
  readonly #evalLoss = this.#gauge("rankmesh_eval_loss", "Mean loss of the last evaluation done.");
  readonly #gradNorm = this.#gauge(
    "rankmesh_train_grad_norm",
    "Global gradient norm of the last step done, before clipping, where the job has one.",
  );
  readonly #nonfinite = this.#counter(
    "rankmesh_train_nonfinite_steps_total",
    "Steps whose loss or gradient norm was NaN or infinite.",
  );
  readonly #samples = this.#counter("rankmesh_train_samples_total", "Rows trained on.");
  readonly #tokens = this.#counter(
    "rankmesh_train_tokens_total",
    "Positions trained on: rows times sequence length, where inputs have one.",
  );
  readonly #ofJobs = [
    this.#steps,
    this.#progressed,
    this.#loss,
    this.#evalLoss,
    this.#gradNorm,
    this.#nonfinite,
    this.#samples,
    this.#tokens,
  ];
  readonly #keepMs: number;
  readonly #removals = new Map<string, NodeJS.Timeout>();

  /** @param options.keepMs series of a job stay for this long after its end */
  constructor(options: { readonly version: string; readonly keepMs: number }) {
    this.#keepMs = options.keepMs;
    collectDefaultMetrics({ register: this.registry });
    new Gauge({
      name: "rankmesh_build_info",
      help: "1, with the build in its labels.",
      labelNames: ["version", "node", "role"],
      registers: [this.registry],
    }).set({ version: options.version, node: process.version, role: "coordinator" }, 1);
  }

  /** Begins to report on jobs and workers, counted when they are asked for. */
  observe(jobs: JobStore, workers: WorkerRegistry, nowMs: () => number): void {
    const registers = [this.registry];
    new Gauge({
      name: "rankmesh_jobs",
      help: "Jobs that the coordinator remembers, by state.",
      labelNames: ["state"],
      registers,
      collect() {
        const all = jobs.all();
        for (const phase of PHASES) {
          this.set({ state: phase }, all.filter((job) => job.machine.phase === phase).length);
        }
      },
    });
    new Gauge({
      name: "rankmesh_workers",
      help: "Workers by state.",
      labelNames: ["state"],
      registers,
      collect() {
        const all = workers.list(nowMs());
        for (const state of WORKER_STATES) {
          this.set({ state }, all.filter((worker) => worker.state === state).length);
        }
      },
    });
    new Gauge({
      name: "rankmesh_worker_heartbeat_age_seconds",
      help: "Time since a worker was last heard.",
      labelNames: ["worker"],
      registers,
      collect() {
        this.reset();
        for (const worker of workers.list(nowMs())) {
          this.set({ worker: worker.name }, worker.heartbeatAgeMs / 1000);
        }
      },
    });
    new Gauge({
      name: "rankmesh_worker_info",
      help: "1, with what a worker is and the rank that it serves in its labels.",
      labelNames: ["worker", "state", "job_id", "rank", "backend", "device", "version"],
      registers,
      collect() {
        this.reset();
        for (const { name, state, assignment, backend, device, version } of workers.list(nowMs())) {
          const { jobId: job_id = "", rank = "" } = assignment ?? {};
          this.set({ worker: name, state, job_id, rank, backend, device, version }, 1);
        }
      },
    });
  }

  jobStarted(job: Job): void {
    const labels = { job_id: job.jobId };
    this.#steps.set(labels, job.machine.steps);
    this.#progressed.setToCurrentTime(labels);
    // From 0 on, so that the first of them counts in a rate.
    for (const counter of [this.#nonfinite, this.#samples, this.#tokens]) counter.inc(labels, 0);
  }

  stepDone(job: Job, { loss, gradNorm }: StepDone): void {
    const labels = { job_id: job.jobId };
    this.#loss.set(labels, loss);
    if (gradNorm !== undefined) this.#gradNorm.set(labels, gradNorm);
    if (!Number.isFinite(loss) || !Number.isFinite(gradNorm ?? 0)) this.#nonfinite.inc(labels);
    this.#samples.inc(labels, job.batchSize);
    this.#tokens.inc(labels, job.tokensPerStep);
    this.#progressed.setToCurrentTime(labels);
  }

  evaluationDone(job: Job, { loss }: EvaluationDone): void {
    const labels = { job_id: job.jobId };
    this.#evalLoss.set(labels, loss);
    this.#progressed.setToCurrentTime(labels);
  }

  jobEnded(job: Job): void {
    const { jobId } = job;
    const timer = setTimeout(() => {
      this.#removals.delete(jobId);
      for (const metric of this.#ofJobs) metric.remove({ job_id: jobId });
    }, this.#keepMs);
    timer.unref();
    this.#removals.set(jobId, timer);
  }

  /** Ends all timers. */
  close(): void {
    for (const timer of this.#removals.values()) clearTimeout(timer);
    this.#removals.clear();
    this.registry.clear();
  }

  #gauge(name: string, help: string): Gauge<"job_id"> {
    return new Gauge({ name, help, labelNames: ["job_id"], registers: [this.registry] });
  }

  #counter(name: string, help: string): Counter<"job_id"> {
    return new Counter({ name, help, labelNames: ["job_id"], registers: [this.registry] });
  }
}
