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
  readonly #loss: Gauge<"job_id">;
  readonly #evalLoss: Gauge<"job_id">;
  readonly #samples: Counter<"job_id">;
  readonly #tokens: Counter<"job_id">;
  readonly #keepMs: number;
  readonly #removals = new Map<string, NodeJS.Timeout>();

  /** @param options.keepMs series of a job stay for this long after its end */
  constructor(options: { readonly version: string; readonly keepMs: number }) {
    this.#keepMs = options.keepMs;
    const registers = [this.registry];
    collectDefaultMetrics({ register: this.registry });
    new Gauge({
      name: "rankmesh_build_info",
      help: "1, with the build in its labels.",
      labelNames: ["version", "node", "role"],
      registers,
    }).set({ version: options.version, node: process.version, role: "coordinator" }, 1);
    this.#loss = new Gauge({
      name: "rankmesh_train_loss",
      help: "Loss of the last step done.",
      labelNames: ["job_id"],
      registers,
    });
    this.#evalLoss = new Gauge({
      name: "rankmesh_eval_loss",
      help: "Mean loss of the last evaluation done.",
      labelNames: ["job_id"],
      registers,
    });
    this.#samples = new Counter({
      name: "rankmesh_train_samples_total",
      help: "Rows trained on.",
      labelNames: ["job_id"],
      registers,
    });
    this.#tokens = new Counter({
      name: "rankmesh_train_tokens_total",
      help: "Positions trained on: rows times sequence length, where inputs have one.",
      labelNames: ["job_id"],
      registers,
    });
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
  }

  stepDone(job: Job, step: StepDone): void {
    const labels = { job_id: job.jobId };
    this.#loss.set(labels, step.loss);
    this.#samples.inc(labels, job.batchSize);
    this.#tokens.inc(labels, job.tokensPerStep);
  }

  evaluationDone(job: Job, { loss }: EvaluationDone): void {
    this.#evalLoss.set({ job_id: job.jobId }, loss);
  }

  jobEnded(job: Job): void {
    const { jobId } = job;
    const timer = setTimeout(() => {
      this.#removals.delete(jobId);
      for (const metric of [this.#loss, this.#evalLoss, this.#samples, this.#tokens]) {
        metric.remove({ job_id: jobId });
      }
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
}
