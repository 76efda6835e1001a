import type { JobFailure, StepDone } from "./job-state.ts";

/** What one rank says about one step. */
export interface StepReport {
  readonly rank: number;
  readonly step: number;
  readonly loss: number;
  readonly gradNorm?: number;
  readonly seconds: number;
  /** CRC-32 of the batch bytes that it used. */
  readonly batchHash: number;
  readonly peakBytes: number;
}

/** A completed step, or why it cannot count. A step with a loss that is not finite has both. */
export interface StepOutcome {
  readonly done?: StepDone;
  readonly failure?: JobFailure;
}

/**
 * Collects the reports of all ranks, step by step. Ranks run ahead of each other by no more than the batches sent
 * ahead, so that only a handful of steps is open at a time.
 */
export class StepLedger {
  readonly #numRanks: number;
  readonly #steps: number;
  /** Step that each rank reports next. */
  readonly #next: number[];
  /** Open steps: one report per rank. */
  readonly #open = new Map<number, (StepReport | undefined)[]>();
  /** Hashes of the batches sent, per open step and rank. */
  readonly #sent = new Map<number, (number | undefined)[]>();
  #done = 0;

  constructor(numRanks: number, steps: number) {
    this.#numRanks = numRanks;
    this.#steps = steps;
    this.#next = new Array<number>(numRanks).fill(0);
  }

  /** Steps that all ranks have reported. */
  get done(): number {
    return this.#done;
  }

  /** The first step that `rank` has not reported. */
  nextStep(rank: number): number {
    return this.#next[rank] ?? 0;
  }

  /** Ranks that have not reported the oldest open step. */
  laggards(): number[] {
    return this.#next.flatMap((next, rank) => (next <= this.#done ? [rank] : []));
  }

  /** Whether every rank has been sent the batch of the oldest step not done. */
  batchDelivered(): boolean {
    const sent = this.#sent.get(this.#done);
    return sent?.every((hash) => hash !== undefined) ?? false;
  }

  /** Notes the hash of a batch that was sent to `rank`. */
  batchSent(rank: number, step: number, hash: number): void {
    if (step < this.#done || step >= this.#steps || rank >= this.#numRanks) return;
    const hashes =
      this.#sent.get(step) ?? new Array<number | undefined>(this.#numRanks).fill(undefined);
    hashes[rank] = hash >>> 0;
    this.#sent.set(step, hashes);
  }

  /**
   * Takes one report and returns the steps it completes (none or one).
   * A rank that skips or repeats a step breaks the protocol: that is a failure naming it.
   */
  report(report: StepReport): StepOutcome | undefined {
    const expected = this.nextStep(report.rank);
    if (report.rank >= this.#numRanks || report.step !== expected || report.step >= this.#steps) {
      return {
        failure: {
          code: "INTERNAL",
          message:
            `internal: rank ${report.rank} reported step ${report.step}, ` +
            `expected ${expected < this.#steps ? `step ${expected}` : `nothing after ${this.#steps} steps`}`,
          rank: report.rank,
          step: report.step,
        },
      };
    }
    this.#next[report.rank] = expected + 1;
    const reports =
      this.#open.get(report.step) ??
      new Array<StepReport | undefined>(this.#numRanks).fill(undefined);
    reports[report.rank] = report;
    this.#open.set(report.step, reports);
    // Steps complete in order: a rank reports step k + 1 only after step k.
    const all = reports.filter((r) => r !== undefined);
    if (all.length < this.#numRanks) return undefined;
    const sent = this.#sent.get(report.step) ?? [];
    this.#open.delete(report.step);
    this.#sent.delete(report.step);
    this.#done = report.step + 1;
    return checkStep(all, sent);
  }
}

/** Compares what all ranks say about one step. `reports` are in rank order, `sent` are the hashes per rank. */
export function checkStep(
  reports: readonly StepReport[],
  sent: readonly (number | undefined)[],
): StepOutcome {
  const first = reports[0];
  if (first === undefined) return {};
  const { step } = first;
  const wrongBatch = reports.filter((r) => sent[r.rank] !== r.batchHash >>> 0);
  if (wrongBatch.length > 0) {
    const details = wrongBatch.map((r) => {
      const hash = sent[r.rank];
      const was = hash === undefined ? "nothing was sent" : `${hex(hash)} was sent`;
      return `rank ${r.rank} used ${hex(r.batchHash)}, ${was}`;
    });
    return {
      failure: {
        code: "DATA_LOSS",
        message: `step ${step}: ranks trained on another batch than theirs: ${details.join("; ")}`,
        rank: wrongBatch[0]?.rank ?? 0,
        step,
      },
    };
  }
  const unlike = reports.filter(
    (r) => !Object.is(r.loss, first.loss) || !Object.is(r.gradNorm, first.gradNorm),
  );
  if (unlike.length > 0) {
    const values = [first, ...unlike].map((r) => `rank ${r.rank}: ${describe(r)}`);
    return {
      failure: {
        code: "DATA_LOSS",
        message: `step ${step}: ranks disagree about the loss, which must be bit-equal: ${values.join(", ")}`,
        rank: unlike[0]?.rank ?? 0,
        step,
      },
    };
  }
  const done: StepDone = {
    kind: "step",
    step,
    loss: first.loss,
    ...(first.gradNorm === undefined ? {} : { gradNorm: first.gradNorm }),
    seconds: first.seconds,
    peakBytes: Math.max(...reports.map((r) => r.peakBytes)),
  };
  if (!Number.isFinite(first.loss)) return { done, failure: nonFinite("loss", first.loss, step) };
  if (first.gradNorm !== undefined && !Number.isFinite(first.gradNorm)) {
    return { done, failure: nonFinite("gradient norm", first.gradNorm, step) };
  }
  return { done };
}

function nonFinite(what: string, value: number, step: number): JobFailure {
  return {
    code: "OUT_OF_RANGE",
    message: `${what} is ${value} at step ${step}; lower the learning rate, clip the gradient, or check the data`,
    step,
  };
}

function describe(report: StepReport): string {
  return report.gradNorm === undefined
    ? `${report.loss}`
    : `${report.loss} (gradient norm ${report.gradNorm})`;
}

function hex(hash: number): string {
  return `0x${(hash >>> 0).toString(16).padStart(8, "0")}`;
}
