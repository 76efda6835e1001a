import { expect } from "chai";
import fc from "fast-check";
import {
  countRounds,
  endsEvaluation,
  type Round,
  type RoundSchedule,
  roundAt,
  roundName,
} from "../../../shared/job/rounds.ts";

/** All rounds of a job, one after another as a loop makes them. */
function listed({ steps, evaluateEvery, evaluationBatches }: RoundSchedule): Round[] {
  const rounds: Round[] = [];
  for (let step = 0; step < steps; step++) {
    rounds.push({ step, evaluation: undefined });
    const isDue = evaluateEvery > 0 && ((step + 1) % evaluateEvery === 0 || step + 1 === steps);
    for (let b = 0; isDue && b < evaluationBatches; b++) rounds.push({ step, evaluation: b });
  }
  return rounds;
}

describe("rounds of a job", () => {
  it("are steps, and evaluations after every so many of them and after the last", () => {
    const schedule = { steps: 5, evaluateEvery: 2, evaluationBatches: 2 };
    const names = Array.from({ length: countRounds(schedule) }, (_, i) =>
      roundName(roundAt(schedule, i)),
    );
    expect(names).to.deep.equal([
      "step 0",
      "step 1",
      "evaluation after step 1, batch 0",
      "evaluation after step 1, batch 1",
      "step 2",
      "step 3",
      "evaluation after step 3, batch 0",
      "evaluation after step 3, batch 1",
      "step 4",
      "evaluation after step 4, batch 0",
      "evaluation after step 4, batch 1",
    ]);
  });

  it("are found by their number alone", () => {
    fc.assert(
      fc.property(
        fc.nat(40),
        fc.nat(9),
        fc.integer({ min: 1, max: 5 }),
        (steps, every, batches) => {
          const schedule = { steps, evaluateEvery: every, evaluationBatches: batches };
          const rounds = listed(schedule);
          expect(countRounds(schedule)).to.equal(rounds.length);
          expect(rounds.map((_, index) => roundAt(schedule, index))).to.deep.equal(rounds);
          const ends = rounds.filter((round) => endsEvaluation(schedule, round));
          expect(ends.length).to.equal(every === 0 ? 0 : Math.ceil(steps / every));
          expect(() => roundAt(schedule, rounds.length)).to.throw(/round \d+ of \d+/);
        },
      ),
    );
  });

  it("reach past 2^32 steps", () => {
    const schedule = { steps: 2 ** 40, evaluateEvery: 3, evaluationBatches: 1 };
    expect(roundAt(schedule, 2 ** 40)).to.deep.equal({
      step: 3 * 2 ** 38,
      evaluation: undefined,
    });
    expect(roundAt(schedule, countRounds(schedule) - 1)).to.deep.equal({
      step: 2 ** 40 - 1,
      evaluation: 0,
    });
  });
});
