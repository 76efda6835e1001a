import type { Planning, PlanOptions, PlanRequest } from "../../coordinator/planner.ts";
import { inProcess } from "../../coordinator/planning/in-process.ts";
import { planJob } from "../../coordinator/planning/plan-job.ts";

/** A plan that a test has yet to allow. */
export interface GatedPlan {
  readonly name: string;
  /** `2 x 1`: dataParallel and tensorParallel. */
  readonly sizes: string;
  readonly signal: AbortSignal | undefined;
  /** Makes the plan. */
  allow(): void;
  fail(error: Error): void;
}

/** Plans as slowly as a test wants: each waits until it is allowed. Urgent ones alone, where `isGated` says so. */
export class GatedPlanning implements Planning {
  /** Asked for and neither allowed nor failed. */
  readonly open: GatedPlan[] = [];
  isClosed = false;
  readonly #planning = inProcess(planJob);
  readonly #isGated: (options: PlanOptions) => boolean;

  constructor(isGated: (options: PlanOptions) => boolean) {
    this.#isGated = isGated;
  }

  plan(request: PlanRequest, options: PlanOptions = {}): ReturnType<Planning["plan"]> {
    if (!this.#isGated(options)) return this.#planning.plan(request);
    return this.#gate(request, options).then(() => this.#planning.plan(request));
  }

  report(request: PlanRequest): ReturnType<Planning["report"]> {
    return this.#planning.report(request);
  }

  close(): Promise<void> {
    this.isClosed = true;
    for (const { fail } of [...this.open]) fail(new Error("closed"));
    return Promise.resolve();
  }

  #gate({ spec, sizes }: PlanRequest, { signal }: PlanOptions): Promise<void> {
    return new Promise((resolve, reject) => {
      const leave = (): void => {
        this.open.splice(this.open.indexOf(gated), 1);
      };
      const gated: GatedPlan = {
        name: spec.name,
        sizes: `${sizes.dataParallel} x ${sizes.tensorParallel}`,
        signal,
        allow() {
          leave();
          resolve();
        },
        fail(error) {
          leave();
          reject(error);
        },
      };
      this.open.push(gated);
    });
  }
}
