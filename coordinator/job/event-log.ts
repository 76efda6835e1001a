import { InternalError } from "../../shared/errors.ts";
import type { EvaluationDone, JobEvent, StepDone } from "./job-state.ts";

/** An event with its id (from 1, growing by one) and the wall time at which it happened. */
export interface LoggedEvent {
  readonly id: number;
  readonly wallMs: number;
  readonly event: JobEvent;
}

const STEP_COLUMNS = 6;

/**
 * All events of one job, kept for replay. Steps are most of them and are stored as 48 bytes each, so that a
 * job of a million steps costs 48 MB and not an object per step.
 */
export class EventLog {
  #steps = new Float64Array(STEP_COLUMNS * 16);
  #numSteps = 0;
  /** A job reports the norm at every step or at none. */
  #hasGradNorm = false;
  /** Everything that is not a step, ascending by id. */
  readonly #others: LoggedEvent[] = [];

  /** Id of the newest event; 0 when there is none. */
  get lastId(): number {
    return this.#numSteps + this.#others.length;
  }

  get numSteps(): number {
    return this.#numSteps;
  }

  append(event: JobEvent, wallMs: number): number {
    const id = this.lastId + 1;
    if (event.kind === "step") this.#appendStep(event, wallMs);
    else this.#others.push({ id, wallMs, event });
    return id;
  }

  /** The event with this id. @throws InternalError when there is none. */
  at(id: number): LoggedEvent {
    if (!Number.isInteger(id) || id < 1 || id > this.lastId) {
      throw new InternalError(`event ${id} of a log of ${this.lastId}`);
    }
    const before = this.#countOthersBefore(id);
    const other = this.#others[before];
    if (other?.id === id) return other;
    const index = id - 1 - before;
    return { id, wallMs: this.#column(index, 5), event: this.step(index) };
  }

  /** The `index`-th step event. */
  step(index: number): StepDone {
    const gradNorm = this.#column(index, 2);
    return {
      kind: "step",
      step: this.#column(index, 0),
      loss: this.#column(index, 1),
      ...(this.#hasGradNorm ? { gradNorm } : {}),
      seconds: this.#column(index, 3),
      peakBytes: this.#column(index, 4),
    };
  }

  /** One value of every step done, in order. */
  losses(): number[] {
    return this.#columnOf(1);
  }

  /** Gradient norm of every step done; empty when the job does not report it. */
  gradNorms(): number[] {
    return this.#hasGradNorm ? this.#columnOf(2) : [];
  }

  stepSeconds(): number[] {
    return this.#columnOf(3);
  }

  /** Every evaluation done, in order. */
  evaluations(): EvaluationDone[] {
    return this.#others.flatMap(({ event }) => (event.kind === "eval" ? [event] : []));
  }

  #appendStep(event: StepDone, wallMs: number): void {
    const start = this.#numSteps * STEP_COLUMNS;
    if (start + STEP_COLUMNS > this.#steps.length) {
      const grown = new Float64Array(this.#steps.length * 2);
      grown.set(this.#steps);
      this.#steps = grown;
    }
    this.#hasGradNorm = event.gradNorm !== undefined;
    this.#steps.set(
      [
        event.step,
        event.loss,
        event.gradNorm ?? Number.NaN,
        event.seconds,
        event.peakBytes,
        wallMs,
      ],
      start,
    );
    this.#numSteps += 1;
  }

  #column(index: number, column: number): number {
    const value = this.#steps[index * STEP_COLUMNS + column];
    if (value === undefined || index >= this.#numSteps) {
      throw new InternalError(`step event ${index} of ${this.#numSteps}`);
    }
    return value;
  }

  #columnOf(column: number): number[] {
    return Array.from({ length: this.#numSteps }, (_, index) => this.#column(index, column));
  }

  /** How many events that are not steps have a smaller id. */
  #countOthersBefore(id: number): number {
    let low = 0;
    let high = this.#others.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if ((this.#others[middle]?.id ?? 0) < id) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}
