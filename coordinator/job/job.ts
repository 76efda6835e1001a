import type { JobSpec } from "../../shared/job/job-spec.ts";
import type { ProgramInput } from "../../shared/program/program.ts";
import type { Clock } from "../clock.ts";
import type { Demand } from "../gang/scheduler.ts";
import type { JobPlan, Planner } from "../planner.ts";
import type { WrittenFile } from "./job-files.ts";
import { type JobDeadlines, type JobEffect, type JobInput, JobMachine } from "./job-machine.ts";
import { isTerminal, type MeshSizes } from "./job-state.ts";

export interface JobOptions {
  readonly jobId: string;
  readonly spec: JobSpec;
  /** Equal for equal specs. */
  readonly specKey: string;
  readonly planner: Planner;
  readonly deadlines: JobDeadlines;
  readonly clock: Clock;
  /** Does what the machine asks for. Must not throw. */
  readonly perform: (job: Job, effect: JobEffect) => void;
}

/** A job's machine with its clock, its plans and those who wait for its events. */
export class Job implements Demand {
  readonly jobId: string;
  readonly spec: JobSpec;
  readonly specKey: string;
  readonly createdAtMs: number;
  readonly machine: JobMachine;
  /** How many later jobs were started before it. */
  overtaken = 0;
  notes: readonly string[] = [];
  /** The file it wrote. */
  output: WrittenFile | undefined;
  readonly #options: JobOptions;
  /** Plans and compile errors by sizes: an error costs as much to find as a plan. */
  readonly #plans = new Map<string, { readonly plan: JobPlan } | { readonly error: unknown }>();
  readonly #waiters = new Set<() => void>();
  #timer: NodeJS.Timeout | undefined;
  /** The same at all sizes, but for the batch dim's layout. */
  #firstInput: ProgramInput | undefined;

  constructor(options: JobOptions) {
    const now = options.clock();
    this.jobId = options.jobId;
    this.spec = options.spec;
    this.specKey = options.specKey;
    this.createdAtMs = now.wallMs;
    this.#options = options;
    this.machine = new JobMachine({ steps: options.spec.steps, deadlines: options.deadlines, now });
  }

  get mesh(): JobSpec["mesh"] {
    return this.spec.mesh;
  }

  get allowMixedBackends(): boolean {
    return this.spec.allowMixedBackends;
  }

  /** Rows of a batch times the positions of each: the dims of its first input but the last, or all of a token input's. */
  get tokensPerStep(): number {
    const input = this.#firstInput;
    if (input === undefined) return this.spec.data.batchSize;
    const positions = input.dtype === "int32" ? input.globalShape : input.globalShape.slice(0, -1);
    return Math.max(
      this.spec.data.batchSize,
      positions.reduce((product, dim) => product * dim, 1),
    );
  }

  get ended(): boolean {
    return isTerminal(this.machine.phase);
  }

  /** The job compiled for these sizes; kept until the job ends. @throws InvalidArgumentError with its faults there */
  plan(sizes: MeshSizes): JobPlan {
    const key = `${sizes.dataParallel}x${sizes.tensorParallel}`;
    let known = this.#plans.get(key);
    if (known === undefined) {
      try {
        known = { plan: this.#options.planner(this.spec, sizes) };
        this.#firstInput = known.plan.program.inputs[0];
      } catch (error) {
        known = { error };
      }
      this.#plans.set(key, known);
    }
    if ("error" in known) throw known.error;
    return known.plan;
  }

  peakBytes(sizes: MeshSizes): number {
    return this.plan(sizes).program.arenaBytes;
  }

  /** Takes one input now, does what follows from it, and wakes whoever waits for events. */
  apply(input: JobInput): void {
    const before = this.machine.log.lastId;
    const effects = this.machine.apply(input, this.#options.clock());
    this.#armTimer();
    if (this.ended) this.#plans.clear();
    for (const effect of effects) this.#options.perform(this, effect);
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

  /** Stops the clock of a job that nobody will drive any more. */
  dispose(): void {
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
