import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from "prom-client";
import type { CollectiveOp } from "../shared/program/program.ts";
import type { MemoryReport, StepResult } from "./compute/messages.ts";
import { STEP_PHASES, type StepPhase } from "./compute/step-phases.ts";

/** A job's series stay this long after its end, so that a scraper gets its last values. */
const LINGER_MS = 60_000;

const RANK_LABELS = ["job_id", "rank", "device", "backend"] as const;

/** Whose series an assignment writes. */
export interface RankLabels {
  readonly jobId: string;
  readonly rank: number;
  readonly device: string;
  readonly backend: string;
}

/** One kind of metric with some of its label sets: what removing them needs. */
interface Removable {
  remove(labels: Record<string, string>): void;
}

/** All series of a worker, under the names and labels of the metrics reference. */
export class WorkerMetrics {
  readonly registry = new Registry();
  readonly peakMemory = this.#gauge(
    "rankmesh_rank_peak_memory_bytes",
    "Highest memory that the rank's backend has asked the system for.",
    RANK_LABELS,
  );
  readonly memory = this.#gauge(
    "rankmesh_rank_memory_bytes",
    "Memory held by the rank's backend, by kind.",
    [...RANK_LABELS, "kind"],
  );
  readonly predictedPeakMemory = this.#gauge(
    "rankmesh_rank_predicted_peak_memory_bytes",
    "Peak memory that the compiler predicted.",
    RANK_LABELS,
  );
  readonly memoryLimit = this.#gauge(
    "rankmesh_rank_memory_limit_bytes",
    "Memory that the rank's worker may use.",
    RANK_LABELS,
  );
  readonly trainStep = this.#gauge("rankmesh_train_step", "Optimizer steps done.", RANK_LABELS);
  readonly stepDuration = new Histogram({
    name: "rankmesh_train_step_duration_seconds",
    help: "Wall time of an optimizer step, end to end.",
    labelNames: RANK_LABELS,
    buckets: [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60],
    registers: [this.registry],
  });
  readonly phaseSeconds = this.#counter(
    "rankmesh_train_phase_seconds_total",
    "Wall time of optimizer steps by what it went to: data, compute, device, collective.",
    [...RANK_LABELS, "phase"],
  );
  readonly collectiveDuration = new Histogram({
    name: "rankmesh_collective_duration_seconds",
    help: "Time from a collective's start on this rank to its end.",
    labelNames: ["job_id", "rank", "op", "transport"],
    buckets: [
      0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 30,
    ],
    registers: [this.registry],
  });
  readonly collectiveBytes = this.#counter(
    "rankmesh_collective_bytes_total",
    "Payload bytes that the rank's collectives moved.",
    ["job_id", "rank", "op", "direction"],
  );
  readonly collectiveWait = this.#counter(
    "rankmesh_collective_wait_seconds_total",
    "Time in which nothing could be done until a peer's frame came.",
    ["job_id", "rank", "peer"],
  );
  readonly #ranks = new Map<string, RankMetrics>();

  constructor(build: { readonly version: string }) {
    collectDefaultMetrics({ register: this.registry });
    new Gauge({
      name: "rankmesh_build_info",
      help: "1, with the build in its labels.",
      labelNames: ["version", "node", "role"],
      registers: [this.registry],
    }).set({ version: build.version, node: process.version, role: "worker" }, 1);
  }

  /** Begins an assignment's series; those of the same job and rank before it start anew. */
  startRank(labels: RankLabels): RankMetrics {
    const key = JSON.stringify([labels.jobId, labels.rank]);
    this.#ranks.get(key)?.remove();
    const rank = new RankMetrics(this, labels, () => {
      if (this.#ranks.get(key) === rank) this.#ranks.delete(key);
    });
    this.#ranks.set(key, rank);
    return rank;
  }

  /** Ends all timers. */
  close(): void {
    for (const rank of [...this.#ranks.values()]) rank.remove();
    this.registry.clear();
  }

  #gauge(name: string, help: string, labelNames: readonly string[]): Gauge {
    return new Gauge({ name, help, labelNames: [...labelNames], registers: [this.registry] });
  }

  #counter(name: string, help: string, labelNames: readonly string[]): Counter {
    return new Counter({ name, help, labelNames: [...labelNames], registers: [this.registry] });
  }
}

/** The series of one assignment. */
export class RankMetrics {
  readonly #metrics: WorkerMetrics;
  readonly #rank: { readonly job_id: string; readonly rank: string };
  readonly #device: Record<(typeof RANK_LABELS)[number], string>;
  readonly #used = new Map<
    string,
    { readonly metric: Removable; readonly labels: Record<string, string> }
  >();
  readonly #onRemoved: () => void;
  #timer: NodeJS.Timeout | undefined;

  constructor(metrics: WorkerMetrics, labels: RankLabels, onRemoved: () => void) {
    this.#metrics = metrics;
    this.#onRemoved = onRemoved;
    this.#rank = { job_id: labels.jobId, rank: String(labels.rank) };
    this.#device = { ...this.#rank, device: labels.device, backend: labels.backend };
  }

  setLimits(limitBytes: number, predictedPeakBytes: number): void {
    this.#metrics.memoryLimit.set(this.#use(this.#metrics.memoryLimit, this.#device), limitBytes);
    const { predictedPeakMemory } = this.#metrics;
    predictedPeakMemory.set(this.#use(predictedPeakMemory, this.#device), predictedPeakBytes);
    // From the start, not from the first step on: a job with no step yet has done 0 of them.
    this.#metrics.trainStep.set(this.#use(this.#metrics.trainStep, this.#device), 0);
    for (const phase of STEP_PHASES) this.#phase(phase, 0);
  }

  setMemory(report: MemoryReport): void {
    const { memory } = this.#metrics;
    this.#setPeak(report.peakBytes);
    for (const [kind, bytes] of Object.entries(report.byKind)) {
      memory.set(this.#use(memory, { ...this.#device, kind }), bytes);
    }
  }

  step(result: StepResult): void {
    const { trainStep, stepDuration } = this.#metrics;
    this.#setPeak(result.peakMemoryBytes);
    trainStep.set(this.#use(trainStep, this.#device), result.step + 1);
    stepDuration.observe(this.#use(stepDuration, this.#device), result.seconds);
    for (const phase of STEP_PHASES) this.#phase(phase, result.phases[phase]);
  }

  collective(
    op: CollectiveOp,
    transport: "grpc" | "nccl",
    seconds: number,
    sentBytes: number,
    receivedBytes: number,
  ): void {
    const { collectiveDuration, collectiveBytes } = this.#metrics;
    collectiveDuration.observe(
      this.#use(collectiveDuration, { ...this.#rank, op, transport }),
      seconds,
    );
    for (const [direction, bytes] of [
      ["sent", sentBytes],
      ["received", receivedBytes],
    ] as const) {
      collectiveBytes.inc(this.#use(collectiveBytes, { ...this.#rank, op, direction }), bytes);
    }
  }

  waited(peer: number, seconds: number): void {
    const { collectiveWait } = this.#metrics;
    collectiveWait.inc(this.#use(collectiveWait, { ...this.#rank, peer: String(peer) }), seconds);
  }

  /** The arena is freed: no memory is held, and the series go after a while. */
  end(): void {
    if (this.#timer !== undefined) return;
    for (const { metric, labels } of this.#used.values()) {
      if (metric === this.#metrics.memory) this.#metrics.memory.set(labels, 0);
    }
    this.#timer = setTimeout(() => this.remove(), LINGER_MS);
    this.#timer.unref();
  }

  /** Removes the series now. */
  remove(): void {
    clearTimeout(this.#timer);
    for (const { metric, labels } of this.#used.values()) metric.remove(labels);
    this.#used.clear();
    this.#onRemoved();
  }

  #phase(phase: StepPhase, seconds: number): void {
    const { phaseSeconds } = this.#metrics;
    phaseSeconds.inc(this.#use(phaseSeconds, { ...this.#device, phase }), seconds);
  }

  #setPeak(bytes: number): void {
    this.#metrics.peakMemory.set(this.#use(this.#metrics.peakMemory, this.#device), bytes);
  }

  /** Notes a label set, so that it can be removed. */
  #use(metric: Removable, labels: Record<string, string>): Record<string, string> {
    const key = `${metricName(metric)} ${JSON.stringify(labels)}`;
    if (!this.#used.has(key)) this.#used.set(key, { metric, labels });
    return labels;
  }
}

function metricName(metric: Removable): string {
  return "name" in metric ? String(metric.name) : "";
}
