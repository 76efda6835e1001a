import {
  countRounds,
  endsEvaluation,
  type Round,
  type RoundSchedule,
  roundAt,
  roundName,
  sameRound,
} from "../../shared/job/rounds.ts";
import type { EvaluationDone, JobFailure, StepDone } from "./job-state.ts";

/** What one rank says about one round. */
interface RoundReport {
  readonly rank: number;
  readonly step: number;
  readonly loss: number;
  /** CRC-32 of the batch bytes that it used. */
  readonly batchHash: number;
}

export interface StepReport extends RoundReport {
  readonly evaluation?: undefined;
  readonly gradNorm?: number;
  readonly seconds: number;
  readonly peakBytes: number;
}

export interface EvaluationReport extends RoundReport {
  /** Number of the batch in its evaluation. */
  readonly evaluation: number;
}

type Report = StepReport | EvaluationReport;

/** What a completed round ended, or why it cannot count. A loss that is not finite has both. */
export interface RoundOutcome {
  readonly done?: StepDone | EvaluationDone;
  readonly failure?: JobFailure;
}

/**
 * Collects the reports of all ranks, round by round. Ranks run ahead of each other by no more than the batches sent
 * ahead, so that only a handful of rounds is open at a time.
 */
export class RoundLedger {
  readonly #numRanks: number;
  readonly #schedule: RoundSchedule;
  readonly #alike: boolean;
  readonly #rounds: number;
  /** Round that each rank reports next. */
  readonly #next: number[];
  /** Open rounds: one report per rank. */
  readonly #open = new Map<number, (Report | undefined)[]>();
  /** Hashes of the batches sent, per open round and rank. */
  readonly #sent = new Map<number, (number | undefined)[]>();
  #done = 0;
  /** Losses of the evaluation under way, added up. */
  #evaluationSum = 0;

  /** @param alike whether the ranks compute alike, so that what they report must be bit-equal */
  constructor(numRanks: number, schedule: RoundSchedule, alike = true) {
    this.#numRanks = numRanks;
    this.#alike = alike;
    this.#schedule = schedule;
    this.#rounds = countRounds(schedule);
    this.#next = new Array<number>(numRanks).fill(0);
  }

  /** The oldest round that not all ranks have reported; undefined when there is none left. */
  get current(): Round | undefined {
    return this.#roundAt(this.#done);
  }

  /** Rounds that `rank` has reported. */
  reported(rank: number): number {
    return this.#next[rank] ?? 0;
  }

  /** The round that `rank` reports next; undefined after its last. */
  next(rank: number): Round | undefined {
    return this.#roundAt(this.reported(rank));
  }

  /** Ranks that have not reported the oldest open round. */
  laggards(): number[] {
    return this.#next.flatMap((next, rank) => (next <= this.#done ? [rank] : []));
  }

  /** Whether every rank has been sent the batch of the oldest round not done. */
  batchDelivered(): boolean {
    const sent = this.#sent.get(this.#done);
    return sent?.every((hash) => hash !== undefined) ?? false;
  }

  /** Notes the hash of a batch that was sent to `rank`. */
  batchSent(rank: number, round: number, hash: number): void {
    if (round < this.#done || round >= this.#rounds || rank >= this.#numRanks) return;
    const hashes =
      this.#sent.get(round) ?? new Array<number | undefined>(this.#numRanks).fill(undefined);
    hashes[rank] = hash >>> 0;
    this.#sent.set(round, hashes);
  }

  /**
   * Takes one report and returns what it completes: at most one round.
   * A rank that skips or repeats a round breaks the protocol: that is a failure naming it.
   */
  report(report: Report): RoundOutcome | undefined {
    const { rank, step, evaluation } = report;
    const round: Round = { step, evaluation };
    const index = this.reported(rank);
    const expected = this.next(rank);
    if (rank >= this.#numRanks || expected === undefined || !sameRound(round, expected)) {
      const wanted =
        expected === undefined ? `nothing after ${this.#rounds} rounds` : roundName(expected);
      return {
        failure: {
          code: "INTERNAL",
          message: `internal: rank ${rank} reported ${roundName(round)}, expected ${wanted}`,
          rank,
          step,
        },
      };
    }
    this.#next[rank] = index + 1;
    const reports =
      this.#open.get(index) ?? new Array<Report | undefined>(this.#numRanks).fill(undefined);
    reports[rank] = report;
    this.#open.set(index, reports);
    // Rounds complete in order: a rank reports round k + 1 only after round k.
    const all = reports.filter((r) => r !== undefined);
    if (all.length < this.#numRanks) return undefined;
    const sent = this.#sent.get(index) ?? [];
    this.#open.delete(index);
    this.#sent.delete(index);
    this.#done = index + 1;
    const failure = disagreement(round, all, sent, this.#alike);
    return failure === undefined ? this.#complete(round, all) : { failure };
  }

  #complete(round: Round, reports: readonly Report[]): RoundOutcome {
    // Of ranks that round differently one may overflow first: that one tells.
    const first = reports.find((report) => !isFiniteReport(report)) ?? reports[0];
    if (first === undefined) return {};
    if (first.evaluation === undefined) return stepOutcome(first, reports);
    this.#evaluationSum = (first.evaluation === 0 ? 0 : this.#evaluationSum) + first.loss;
    if (!endsEvaluation(this.#schedule, round)) return {};
    const batches = first.evaluation + 1;
    const done: EvaluationDone = {
      kind: "eval",
      step: first.step + 1,
      loss: this.#evaluationSum / batches,
      batches,
    };
    if (Number.isFinite(done.loss)) return { done };
    return {
      done,
      failure: nonFinite("evaluation loss", done.loss, `after step ${first.step}`, first.step),
    };
  }

  #roundAt(index: number): Round | undefined {
    return index < this.#rounds ? roundAt(this.#schedule, index) : undefined;
  }
}

/** What does not fit in what all ranks say of one round. `reports` are in rank order, `sent` are the hashes per rank. */
function disagreement(
  round: Round,
  reports: readonly Report[],
  sent: readonly (number | undefined)[],
  alike: boolean,
): JobFailure | undefined {
  const { step } = round;
  const where = roundName(round);
  const wrongBatch = reports.filter((r) => sent[r.rank] !== r.batchHash >>> 0);
  if (wrongBatch.length > 0) {
    const verb = round.evaluation === undefined ? "trained on" : "evaluated";
    const details = wrongBatch.map((r) => {
      const hash = sent[r.rank];
      const was = hash === undefined ? "nothing was sent" : `${hex(hash)} was sent`;
      return `rank ${r.rank} used ${hex(r.batchHash)}, ${was}`;
    });
    return {
      code: "DATA_LOSS",
      message: `${where}: ranks ${verb} another batch than theirs: ${details.join("; ")}`,
      rank: wrongBatch[0]?.rank ?? 0,
      step,
    };
  }
  const [first] = reports;
  if (first === undefined || (!alike && reports.some((report) => !isFiniteReport(report)))) {
    return undefined;
  }
  const agree = alike ? Object.is : agreeButForRounding;
  const unlike = reports.filter(
    (r) => !agree(r.loss, first.loss) || !agree(gradNormOf(r) ?? 0, gradNormOf(first) ?? 0),
  );
  if (unlike.length === 0) return undefined;
  const values = [first, ...unlike].map((r) => `rank ${r.rank}: ${describe(r)}`);
  const bound = alike ? "must be bit-equal" : `may differ by ${MIXED_TOLERANCE} of it at most`;
  return {
    code: "DATA_LOSS",
    message: `${where}: ranks disagree about the loss, which ${bound}: ${values.join(", ")}`,
    rank: unlike[0]?.rank ?? 0,
    step,
  };
}

/**
 * How far apart ranks of unlike backends may be, of the value or of 1, whichever is more: bfloat16 rounds to 2^-9 of each
 * operand. Ranks that do not compute the same thing are further apart within a few steps.
 */
const MIXED_TOLERANCE = 0.02;

function agreeButForRounding(a: number, b: number): boolean {
  return Math.abs(a - b) <= MIXED_TOLERANCE * Math.max(1, Math.abs(a), Math.abs(b));
}

function isFiniteReport(report: Report): boolean {
  return Number.isFinite(report.loss) && Number.isFinite(gradNormOf(report) ?? 0);
}

function stepOutcome(first: StepReport, reports: readonly Report[]): RoundOutcome {
  const { step, loss, gradNorm, seconds } = first;
  const done: StepDone = {
    kind: "step",
    step,
    loss,
    ...(gradNorm === undefined ? {} : { gradNorm }),
    seconds,
    peakBytes: Math.max(...reports.map((r) => (r.evaluation === undefined ? r.peakBytes : 0))),
  };
  const where = `at step ${step}`;
  if (!Number.isFinite(loss)) return { done, failure: nonFinite("loss", loss, where, step) };
  if (gradNorm !== undefined && !Number.isFinite(gradNorm)) {
    return { done, failure: nonFinite("gradient norm", gradNorm, where, step) };
  }
  return { done };
}

function nonFinite(what: string, value: number, where: string, step: number): JobFailure {
  return {
    code: "OUT_OF_RANGE",
    message: `${what} is ${value} ${where}; lower the learning rate, clip the gradient, or check the data`,
    step,
  };
}

function gradNormOf(report: Report | undefined): number | undefined {
  return report?.evaluation === undefined ? report?.gradNorm : undefined;
}

function describe(report: Report): string {
  const gradNorm = gradNormOf(report);
  return gradNorm === undefined ? `${report.loss}` : `${report.loss} (gradient norm ${gradNorm})`;
}

function hex(hash: number): string {
  return `0x${(hash >>> 0).toString(16).padStart(8, "0")}`;
}
