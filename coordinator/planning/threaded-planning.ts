import { Worker } from "node:worker_threads";
import type { Logger } from "pino";
import {
  DeadlineExceededError,
  InternalError,
  InvalidArgumentError,
  type RankmeshError,
  ResourceExhaustedError,
  UnavailableError,
} from "../../shared/errors.ts";
import { PLANNER_HEAP_MB } from "../limits.ts";
import type { PlannedJob, Planning, PlanOptions, PlanRequest, ReportedJob } from "../planner.ts";
import { inProcess } from "./in-process.ts";
import { planJob } from "./plan-job.ts";
import type { PlanAnswer, PlanQuestion } from "./plan-messages.ts";
import { isQuicklyPlanned, isQuicklyReported } from "./plan-size.ts";

export interface ThreadedPlanningOptions {
  readonly limits: {
    readonly planMs: number;
    readonly maxWaitingPlans: number;
    readonly waitForPlanMs: number;
  };
  readonly logger: Logger;
  /** Of the thread's JavaScript objects. @default PLANNER_HEAP_MB */
  readonly heapMb?: number;
  /** What the thread runs. @default planner-thread.ts */
  readonly script?: URL;
}

interface Task {
  readonly question: PlanQuestion;
  readonly isUrgent: boolean;
  /** How often a thread ended over it. */
  numLost: number;
  readonly resolve: (plan: PlannedJob | ReportedJob) => void;
  readonly reject: (error: unknown) => void;
}

/** A thread that ended under a plan is given it once more: what ended it may have come from outside. */
const MAX_LOST = 2;

const SCRIPT = new URL("./planner-thread.js", import.meta.url);

const quick = inProcess(planJob);

/**
 * Compiles jobs in one thread of its own, one after another, so that a large model holds up no heartbeat, batch or call. The
 * thread starts with the first model that is not quickly compiled anyway, and anew after one that ran out of time or memory.
 */
export class ThreadedPlanning implements Planning {
  readonly #options: ThreadedPlanningOptions;
  /** Urgent ones first, each kind in the order that they came in. */
  readonly #waiting: Task[] = [];
  #running: { readonly task: Task; readonly timer: NodeJS.Timeout } | undefined;
  #thread: Worker | undefined;
  #closed = false;

  constructor(options: ThreadedPlanningOptions) {
    this.#options = options;
  }

  plan(request: PlanRequest, options: PlanOptions = {}): PlannedJob | Promise<PlannedJob> {
    if (isQuicklyPlanned(request)) return quick.plan(request);
    return this.#ask({ request, isReported: false }, options);
  }

  report(request: PlanRequest, options: PlanOptions = {}): ReportedJob | Promise<ReportedJob> {
    if (isQuicklyReported(request)) return quick.report(request);
    return this.#ask({ request, isReported: true }, options).then((plan) => {
      if ("reportJson" in plan) return plan;
      throw new InternalError("the planner's thread made no report");
    });
  }

  async close(): Promise<void> {
    this.#closed = true;
    const error = closedError();
    clearTimeout(this.#running?.timer);
    const open = [...(this.#running === undefined ? [] : [this.#running.task]), ...this.#waiting];
    this.#running = undefined;
    this.#waiting.length = 0;
    for (const task of open) task.reject(error);
    const thread = this.#thread;
    this.#thread = undefined;
    await thread?.terminate();
  }

  async #ask(
    question: PlanQuestion,
    { signal, urgent: isUrgent = false }: PlanOptions,
  ): Promise<PlannedJob | ReportedJob> {
    signal?.throwIfAborted();
    if (this.#closed) throw closedError();
    const { maxWaitingPlans, waitForPlanMs } = this.#options.limits;
    if (!isUrgent && this.#waiting.length >= maxWaitingPlans) {
      throw new ResourceExhaustedError(
        `${this.#waiting.length} large models wait to be planned already; submit again in a minute`,
      );
    }
    let takeBack = (_reason: unknown): void => undefined;
    const leave = (): void => takeBack(signal?.reason);
    const late = isUrgent
      ? undefined
      : setTimeout(() => {
          const seconds = waitForPlanMs / 1000;
          const message = `other large models were planned for ${seconds} s, and the turn has not come; submit again in a minute`;
          takeBack(new ResourceExhaustedError(message));
        }, waitForPlanMs);
    try {
      return await new Promise((resolve, reject) => {
        const task: Task = { question, isUrgent, numLost: 0, resolve, reject };
        takeBack = (reason) => {
          const place = this.#waiting.indexOf(task);
          if (place < 0) return;
          this.#waiting.splice(place, 1);
          reject(reason);
        };
        signal?.addEventListener("abort", leave);
        this.#enqueue(task);
        this.#next();
      });
    } finally {
      clearTimeout(late);
      signal?.removeEventListener("abort", leave);
    }
  }

  #enqueue(task: Task): void {
    const firstOther = this.#waiting.findIndex(({ isUrgent }) => !isUrgent);
    const place = task.isUrgent && firstOther >= 0 ? firstOther : this.#waiting.length;
    this.#waiting.splice(place, 0, task);
  }

  #next(): void {
    if (this.#running !== undefined) return;
    const task = this.#waiting.shift();
    if (task === undefined) return;
    const timer = setTimeout(() => this.#late(), this.#options.limits.planMs);
    this.#running = { task, timer };
    try {
      this.#thread ??= this.#start();
      this.#thread.postMessage(task.question);
    } catch (error) {
      this.#done(({ reject }) => reject(error));
    }
  }

  #start(): Worker {
    const { heapMb = PLANNER_HEAP_MB, script = SCRIPT } = this.#options;
    const thread = new Worker(script, {
      name: "planner",
      resourceLimits: { maxOldGenerationSizeMb: heapMb },
    });
    thread.on("message", (answer: PlanAnswer) => {
      if (thread === this.#thread) this.#done((task) => settle(task, answer));
    });
    thread.once("error", (error: unknown) => this.#lost(thread, error));
    thread.once("exit", () => this.#lost(thread, undefined));
    return thread;
  }

  /** Ends the plan under way and begins the next. */
  #done(end: (task: Task) => void): void {
    const running = this.#running;
    this.#running = undefined;
    clearTimeout(running?.timer);
    if (running !== undefined) end(running.task);
    this.#next();
  }

  #late(): void {
    const { limits, logger } = this.#options;
    // It does not listen while it compiles: only its end frees its processor.
    const thread = this.#thread;
    this.#thread = undefined;
    void thread?.terminate();
    const message = `planning took more than ${limits.planMs / 1000} s; submit again when the coordinator's machine has less to do, or use fewer layers`;
    logger.warn(message);
    this.#done((task) => task.reject(new DeadlineExceededError(message)));
  }

  #lost(thread: Worker, error: unknown): void {
    // Told of twice (its error, its exit), or ended on purpose.
    if (thread !== this.#thread) return;
    this.#thread = undefined;
    const { logger, heapMb = PLANNER_HEAP_MB } = this.#options;
    logger.warn({ err: error }, "the planner's thread ended");
    this.#done((task) => {
      if (isOutOfMemory(error)) {
        task.reject(
          new ResourceExhaustedError(
            `planning needs more than ${heapMb} MB of memory; use fewer layers or a smaller mesh`,
          ),
        );
        return;
      }
      task.numLost += 1;
      if (task.numLost < MAX_LOST) this.#waiting.unshift(task);
      else task.reject(new InternalError(lostMessage(error), { cause: error }));
    });
  }
}

function settle({ resolve, reject }: Task, answer: PlanAnswer): void {
  switch (answer.kind) {
    case "plan": {
      const { buffer } = answer.plan.encodedProgram;
      resolve({ ...answer.plan, encodedProgram: Buffer.from(buffer) });
      return;
    }
    case "faults":
      reject(new InvalidArgumentError(answer.faults));
      return;
    case "bug":
      reject(new InternalError(answer.message.replace(/^internal: /, "")));
      return;
  }
}

function closedError(): RankmeshError {
  return new UnavailableError("the coordinator is shutting down; submit again when it is back");
}

function isOutOfMemory(error: unknown): boolean {
  return error instanceof Error && "code" in error && error.code === "ERR_WORKER_OUT_OF_MEMORY";
}

function lostMessage(error: unknown): string {
  const why = error instanceof Error ? `: ${error.message}` : "";
  return `the planner's thread ended ${MAX_LOST} times over this job${why}; submit it again`;
}
