import { expect } from "chai";
import fc from "fast-check";
import { Series } from "../../../../cli/terminal/series.ts";

describe("a series in bounded memory", () => {
  it("keeps each value while there is room", () => {
    const series = new Series(4);
    for (const [at, value] of [3, 1, 2].entries()) series.push(at, value);
    expect(series.buckets).to.deep.equal([
      { first: 0, last: 0, min: 3, max: 3, mean: 3, count: 1 },
      { first: 1, last: 1, min: 1, max: 1, mean: 1, count: 1 },
      { first: 2, last: 2, min: 2, max: 2, mean: 2, count: 1 },
    ]);
  });

  it("merges neighbours, and loses neither extremes nor the mean, however many values there are", () => {
    const values = fc.array(fc.integer({ min: -1000, max: 1000 }), {
      minLength: 1,
      maxLength: 400,
    });
    fc.assert(
      fc.property(values, (all) => {
        const series = new Series(8);
        for (const [at, value] of all.entries()) series.push(at, value);
        const { buckets } = series;
        expect(buckets.length).to.be.at.most(8);
        expect(buckets[0]?.first).to.equal(0);
        expect(buckets.at(-1)?.last).to.equal(all.length - 1);
        for (const { first, last, min, max, mean, count } of buckets) {
          const part = all.slice(first, last + 1);
          expect(count).to.equal(part.length);
          expect(min).to.equal(Math.min(...part));
          expect(max).to.equal(Math.max(...part));
          expect(mean).to.be.closeTo(part.reduce((sum, value) => sum + value, 0) / count, 1e-9);
        }
        for (const [index, bucket] of buckets.entries()) {
          const next = buckets[index + 1];
          if (next !== undefined) expect(next.first).to.equal(bucket.last + 1);
        }
        expect(series.first).to.equal(all[0]);
        expect(series.last).to.equal(all.at(-1));
        const largest = Math.max(...all);
        expect(series.largest).to.deep.equal({ at: all.indexOf(largest), value: largest });
      }),
    );
  });

  it("holds a million values in the same number of buckets", () => {
    const series = new Series();
    for (let at = 0; at < 1_000_000; at++) series.push(at, at % 7);
    expect(series.buckets.length).to.be.within(512, 2048);
  });

  it("leaves values that are not finite out of the buckets, but says that the last one was", () => {
    const series = new Series(4);
    series.push(0, Number.NaN);
    series.push(1, 5);
    series.push(2, Number.POSITIVE_INFINITY);
    expect(series.buckets).to.have.length(1);
    expect(series.first).to.equal(5);
    expect(series.last).to.equal(Number.POSITIVE_INFINITY);
  });
});
