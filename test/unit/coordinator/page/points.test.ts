import { expect } from "chai";
import fc from "fast-check";
import {
  Points,
  pointsOf,
  type StepPoint,
  stepPoint,
} from "../../../../coordinator/page/points.ts";

function pointsOfSteps(losses: readonly number[], maxPoints: number): Points {
  const points = new Points(maxPoints);
  for (const [step, loss] of losses.entries())
    points.add(stepPoint({ step, loss, gradNorm: Math.abs(loss), seconds: step % 7 }));
  return points;
}

describe("points of a chart", () => {
  it("keep every step as it is while they are few", () => {
    const { all, stride } = pointsOfSteps([3, 2, 1], 3);
    expect(stride).to.equal(1);
    expect(all.map(({ first, last, loss }) => [first, last, loss])).to.deep.equal([
      [1, 1, 3],
      [2, 2, 2],
      [3, 3, 1],
    ]);
  });

  it("join two to one when they are too many, with mean and extremes", () => {
    const { all, stride } = pointsOfSteps([4, 2, 8, 6, 1], 4);
    expect(stride).to.equal(2);
    expect(all).to.have.length(3);
    expect(all[1]).to.deep.equal({
      first: 3,
      last: 4,
      loss: 7,
      lossMin: 6,
      lossMax: 8,
      nonFinite: 0,
      gradNorm: 8,
      seconds: 2.5,
      secondsMax: 3,
    } satisfies StepPoint);
  });

  it("cover each step once, in order, and lose no extreme, whatever the number of steps", () => {
    fc.assert(
      fc.property(
        fc.array(fc.double({ min: -1e6, max: 1e6, noNaN: true }), { minLength: 1, maxLength: 600 }),
        fc.integer({ min: 2, max: 40 }),
        (losses, maxPoints) => {
          const { all } = pointsOfSteps(losses, maxPoints);
          expect(all.length).to.be.at.most(maxPoints);
          expect(all[0]?.first).to.equal(1);
          expect(all.at(-1)?.last).to.equal(losses.length);
          for (const [i, point] of all.entries()) {
            const own = losses.slice(point.first - 1, point.last);
            expect(point.first).to.equal((all[i - 1]?.last ?? 0) + 1);
            expect(point.lossMin).to.equal(Math.min(...own));
            expect(point.lossMax).to.equal(Math.max(...own));
            const mean = own.reduce((a, b) => a + b, 0) / own.length;
            expect(point.loss).to.be.closeTo(mean, 1e-6 * 1e6);
          }
        },
      ),
      { numRuns: 60 },
    );
  });

  it("count what is not finite and leave it out of means", () => {
    const { all } = pointsOfSteps([1, Number.NaN, Number.POSITIVE_INFINITY, Number.NaN, 5], 3);
    expect(all.map(({ loss, nonFinite }) => [loss, nonFinite])).to.deep.equal([
      [1, 1],
      [null, 2],
      [5, 0],
    ]);
  });

  it("come back from their columns", () => {
    const points = pointsOfSteps([4, 2, 8, Number.NaN, 1], 4);
    const view = JSON.parse(JSON.stringify(points.view())) as ReturnType<Points["view"]>;
    expect(pointsOf(view)).to.deep.equal(points.all);
  });
});
