import { InternalError } from "../../shared/errors.ts";
import type { JobSpec } from "../../shared/job/job-spec.ts";
import { ACTIVATIONS } from "../../shared/job/precision.ts";
import type { Precision, ProgramInput } from "../../shared/program/program.ts";
import type { Clock } from "../clock.ts";
import type { Demand } from "../gang/scheduler.ts";
import type { WorkerInfo } from "../gang/worker-registry.ts";
import type { ModelFacts, PlannedJob, Planning } from "../planner.ts";
import type { PlanSummary } from "../planning/plan-summary.ts";
import type { WrittenFile } from "./job-files.ts";
import { type JobDeadlines, type JobEffect, type JobInput, JobMachine } from "./job-machine.ts";
import { isTerminal, type MeshSizes } from "./job-state.ts";

export interface JobOptions {
  readonly jobId: string;
  readonly spec: JobSpec;
  /** Equal for equal specs. */
  readonly specKey: string;
  /** The job compiled for sizes at which it was checked. */
  readonly checked: {
    readonly sizes: MeshSizes;
    readonly plan: PlannedJob;
    readonly facts: ModelFacts;
  };
  readonly planning: Planning;
  /** A plan that was asked for and not there is now, or its error. Must not throw. */
  readonly onPlanned: () => void;
  readonly deadlines: JobDeadlines;
  readonly clock: Clock;
  /** Does what the machine asks for. Must not throw. */
  readonly perform: (job: Job, effect: JobEffect) => void;
}

/** A job's machine with its clock, its plans and those who wait for its events. */
export class Job implements Demand {
  readonly jobId: string;
  readonly specKey: string;
  readonly name: string;
  readonly batchSize: number;
  readonly takesPushedBatches: boolean;
  /** Rows of a batch times the positions of each: what language models count. */
  readonly tokensPerStep: number;
  readonly createdAtMs: number;
  readonly machine: JobMachine;
  /** How many later jobs were started before it. */
  overtaken = 0;
  /** What a person should know of its plan. */
  notes: readonly string[];
  /** What its plan comes to: for the sizes at which it was checked, then for those that it runs with. */
  planSummary: PlanSummary;
  /** The workers of its ranks as they were when it started; empty before. */
  gang: readonly WorkerInfo[] = [];
  /** Peers that each rank waited for at its last heartbeat. */
  readonly peerWaits = new Map<number, readonly number[]>();
  /** The file it wrote. */
  output: WrittenFile | undefined;
  readonly #options: JobOptions;
  /** Plans and compile errors by sizes: an error costs as much to find as a plan. */
  readonly #plans = new Map<string, { readonly plan: PlannedJob } | { readonly error: unknown }>();
  /** The plan that is being made. One at a time: by its end another may be wanted. */
  #underWay: Promise<void> | undefined;
  /** Takes back what has not begun, once nobody wants it. */
  readonly #over = new AbortController();
  readonly #waiters = new Set<() => void>();
  #timer: NodeJS.Timeout | undefined;
  /** Gone once the job has ended: a traced model can be large, and ended jobs are many. */
  #spec: JobSpec | undefined;

  constructor(options: JobOptions) {
    const now = options.clock();
    const { spec, checked } = options;
    this.jobId = options.jobId;
    this.specKey = options.specKey;
    this.name = spec.name;
    this.batchSize = spec.data.batchSize;
    this.takesPushedBatches = "stream" in spec.data;
    this.tokensPerStep = positions(checked.plan.program.inputs[0]) ?? spec.data.batchSize;
    this.notes = checked.plan.notes;
    this.planSummary = checked.plan.summary;
    this.createdAtMs = now.wallMs;
    this.#spec = spec;
    this.#options = options;
    this.#plans.set(sizesKey(checked.sizes), { plan: checked.plan });
    this.machine = new JobMachine({
      steps: spec.steps,
      evaluateEvery: spec.eval.every,
      deadlines: options.deadlines,
      now,
    });
  }

  /** What was asked for. @throws InternalError once the job has ended */
  get spec(): JobSpec {
    if (this.#spec === undefined) throw new InternalError(`the spec of job ${this.jobId} is gone`);
    return this.#spec;
  }

  /** What the job's files say of its model. */
  get facts(): ModelFacts {
    return this.#options.checked.facts;
  }

  get mesh(): JobSpec["mesh"] {
    return this.spec.mesh;
  }

  get allowMixedBackends(): boolean {
    return this.spec.allowMixedBackends;
  }

  get precision(): Precision {
    return ACTIVATIONS[this.spec.precision];
  }

  get ended(): boolean {
    return isTerminal(this.machine.phase);
  }

  /**
   * The job compiled for these sizes; kept until the job ends. Where the job leaves it to the memory of a rank whether
   * activations are kept, they are unless that needs more than `memoryBytes`. Undefined while it is being made: `underWay` is then
   * its end.
   * @throws InvalidArgumentError with its faults there, or why it could not be made
   */
  plan(sizes: MeshSizes, memoryBytes = Number.POSITIVE_INFINITY): PlannedJob | undefined {
    const kept = this.#planned(sizesKey(sizes), sizes);
    if (kept === undefined) return undefined;
    const fits = kept.program.arenaBytes <= memoryBytes;
    if (fits || this.spec.recompute !== "auto") return kept;
    return this.#planned(`${sizesKey(sizes)} recomputed`, sizes, memoryBytes);
  }

  /** Fulfilled when the plan that is being made is there, or its error; undefined while none is being made. */
  get underWay(): Promise<void> | undefined {
    return this.#underWay;
  }

  #planned(key: string, sizes: MeshSizes, memoryBytes?: number): PlannedJob | undefined {
    const known = this.#plans.get(key);
    if (known !== undefined) {
      if ("error" in known) throw known.error;
      return known.plan;
    }
    if (this.#underWay !== undefined) return undefined;
    const { planning, checked } = this.#options;
    const request = { spec: this.spec, sizes, facts: checked.facts, memoryBytes };
    try {
      const plan = planning.plan(request, { signal: this.#over.signal, urgent: true });
      if (!(plan instanceof Promise)) {
        this.#plans.set(key, { plan });
        return plan;
      }
      this.#underWay = plan.then(
        (made) => this.#made(key, { plan: made }),
        (error: unknown) => this.#made(key, { error }),
      );
      return undefined;
    } catch (error) {
      this.#plans.set(key, { error });
      throw error;
    }
  }

  #made(key: string, made: { readonly plan: PlannedJob } | { readonly error: unknown }): void {
    this.#underWay = undefined;
    if (this.#over.signal.aborted) return;
    this.#plans.set(key, made);
    this.#options.onPlanned();
  }

  arenaBytes(sizes: MeshSizes, memoryBytes?: number): number | undefined {
    return this.plan(sizes, memoryBytes)?.program.arenaBytes;
  }

  /** Takes one input now, does what follows from it, and wakes whoever waits for events. */
  apply(input: JobInput): void {
    const before = this.machine.log.lastId;
    const effects = this.machine.apply(input, this.#options.clock());
    this.#armTimer();
    for (const effect of effects) this.#options.perform(this, effect);
    if (this.ended) {
      this.#over.abort();
      this.#plans.clear();
      this.#spec = undefined;
    }
    if (this.machine.log.lastId > before) {
      for (const wake of [...this.#waiters]) wake();
    }
  }

  /** Resolves when an event was added, the job having ended or not, or when `signal` fires. */
  async changed(signal: AbortSignal): Promise<void> {
    if (signal.aborted) return;
    await new Promise<void>((resolve) => {
      const wake = (): void => {
        this.#waiters.delete(wake);
        signal.removeEventListener("abort", wake);
        resolve();
      };
      this.#waiters.add(wake);
      signal.addEventListener("abort", wake);
    });
  }

  /** Stops clock and planning of a job that nobody will drive any more. */
  dispose(): void {
    this.#over.abort();
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  #armTimer(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    const dueMs = this.machine.nextDeadlineMs;
    if (dueMs === undefined || this.ended) return;
    const waitMs = Math.max(0, dueMs - this.#options.clock().monotonicMs);
    // Node's timers overflow past 2^31 ms; a tick that comes early changes nothing and arms the rest.
    this.#timer = setTimeout(
      () => this.apply({ kind: "tick" }),
      Math.min(Math.ceil(waitMs), 2 ** 30),
    );
  }
}

function sizesKey({ dataParallel, tensorParallel }: MeshSizes): string {
  return `${dataParallel}x${tensorParallel}`;
}

/** Elements of a token input; of another one its rows, along all dims but the features. */
function positions(input: ProgramInput | undefined): number | undefined {
  if (input === undefined) return undefined;
  const dims = input.dtype === "int32" ? input.globalShape : input.globalShape.slice(0, -1);
  return dims.reduce((product, dim) => product * dim, 1);
}
