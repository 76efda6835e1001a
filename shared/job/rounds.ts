import { InternalError } from "../errors.ts";

/** When a job trains and when it evaluates. */
export interface RoundSchedule {
  /** Optimizer steps. */
  readonly steps: number;
  /** An evaluation follows each `evaluateEvery`-th step and the last one; 0: none. */
  readonly evaluateEvery: number;
  /** Batches of one evaluation; at least 1 where there are evaluations. */
  readonly evaluationBatches: number;
}

/**
 * One batch of a job. Ranks take all batches of a job in one order, the rounds 0, 1, 2, ...: steps, and between them the
 * batches of the evaluations.
 */
export interface Round {
  /** 0-based step: the one that the round is, or after which it evaluates. */
  readonly step: number;
  /** Number of the batch in its evaluation; undefined: the round is the step itself. */
  readonly evaluation: number | undefined;
}

export function countRounds({ steps, evaluateEvery, evaluationBatches }: RoundSchedule): number {
  return steps + (evaluateEvery > 0 ? Math.ceil(steps / evaluateEvery) * evaluationBatches : 0);
}

/** @throws InternalError for a round that the job does not have */
export function roundAt(schedule: RoundSchedule, index: number): Round {
  const { steps, evaluateEvery, evaluationBatches } = schedule;
  if (!Number.isInteger(index) || index < 0 || index >= countRounds(schedule)) {
    throw new InternalError(`round ${index} of ${countRounds(schedule)}`);
  }
  if (evaluateEvery === 0) return { step: index, evaluation: undefined };
  const cycle = evaluateEvery + evaluationBatches;
  const before = Math.floor(index / cycle) * evaluateEvery;
  const at = index % cycle;
  // The last cycle may have fewer steps.
  const stepsOfCycle = Math.min(evaluateEvery, steps - before);
  return at < stepsOfCycle
    ? { step: before + at, evaluation: undefined }
    : { step: before + stepsOfCycle - 1, evaluation: at - stepsOfCycle };
}

/** Whether a round is the last of its evaluation. */
export function endsEvaluation(schedule: RoundSchedule, { evaluation }: Round): boolean {
  return evaluation === schedule.evaluationBatches - 1;
}

/** `step 7`, or `evaluation after step 7, batch 2`. */
export function roundName({ step, evaluation }: Round): string {
  return evaluation === undefined
    ? `step ${step}`
    : `evaluation after step ${step}, batch ${evaluation}`;
}

export function sameRound(a: Round, b: Round): boolean {
  return a.step === b.step && a.evaluation === b.evaluation;
}
