import { expect } from "chai";
import fc from "fast-check";
import { bar } from "../../../../cli/terminal/bar.ts";
import { lineChart } from "../../../../cli/terminal/line-chart.ts";
import { Series } from "../../../../cli/terminal/series.ts";
import { PLAIN_STYLE } from "../../../../cli/terminal/style.ts";
import { textWidth } from "../../../../cli/terminal/text-width.ts";

const UNICODE = { color: false, unicode: true };

function bucketsOf(values: readonly number[]) {
  const series = new Series();
  for (const [at, value] of values.entries()) series.push(at, value);
  return series.buckets;
}

function chart(values: readonly number[], change: Partial<Parameters<typeof lineChart>[0]> = {}) {
  return lineChart({
    title: "loss",
    buckets: bucketsOf(values),
    columns: 26,
    plotRows: 3,
    style: PLAIN_STYLE,
    format: (value) => value.toFixed(1),
    ...change,
  });
}

describe("a chart of lines", () => {
  it("draws a falling line from its largest to its smallest value, in ASCII", () => {
    expect(chart([3, 2, 1], { note: "3 -> 1" })).to.deep.equal([
      "loss                3 -> 1",
      " 3.0 +''...               ",
      "     |     ''''....       ",
      " 1.0 +             ''''...",
      "     +1------------------3",
    ]);
  });

  it("draws it with the dots of braille where there are any", () => {
    expect(chart([3, 2, 1], { style: UNICODE })).to.deep.equal([
      "loss                      ",
      " 3.0 \u2524\u2809\u2812\u2822\u2824\u2884\u28c0              ",
      "     \u2502      \u2809\u2811\u2812\u2822\u2824\u28c0\u28c0       ",
      " 1.0 \u2524             \u2809\u2809\u2812\u2812\u2824\u2824\u28c0",
      "     \u25141\u2500\u2500\u2500\u2500\u2500\u2500\u2500\u2500\u2500\u2500\u2500\u2500\u2500\u2500\u2500\u2500\u2500\u25003",
    ]);
  });

  it("puts marks over the line", () => {
    const marks = [{ first: 1, last: 1, min: 3, max: 3, mean: 3, count: 1 }];
    expect(chart([3, 2, 1], { marks })[1]?.indexOf("o")).to.equal(16);
  });

  it("takes a logarithmic scale where one of several powers of ten would hide the rest", () => {
    const values = [10_000, 100, 1];
    expect(chart(values, { log: true })[0]).to.match(/^loss \(log\)/);
    // The middle value is in the middle.
    expect(chart(values, { log: true })[2]?.trim()).to.not.equal("|");
    expect(chart(values)[0]).to.match(/^loss +$/);
    expect(chart([10_000, 100, -1], { log: true })[0]).to.match(/^loss +$/);
  });

  it("lets one peak lie beyond the scale where single values count", () => {
    const values = [...Array.from({ length: 60 }, (_, i) => 1 + (i % 2) / 10), 50];
    expect(chart(values)[1]).to.match(/^50\.0/);
    expect(chart(values, { peaks: true })[1]).to.match(/^ 1\.\d/);
  });

  it("gives equal values a scale around them, and none below zero", () => {
    expect(chart([2, 2, 2], { minSpread: 0.5 })[1]).to.match(/^ 2\.5/);
    expect(chart([0, 0])[3]).to.match(/^ 0\.0/);
  });

  it("draws empty axes while there is nothing", () => {
    expect(chart([])).to.deep.equal([
      "loss                      ",
      "     |                    ",
      "     |                    ",
      "     |                    ",
      "     +--------------------",
    ]);
  });

  it("has the size it was asked for, whatever the values", () => {
    const values = fc.array(fc.double(), { maxLength: 30 });
    const columns = fc.integer({ min: 12, max: 120 });
    fc.assert(
      fc.property(
        values,
        columns,
        fc.integer({ min: 1, max: 12 }),
        fc.boolean(),
        (v, c, rows, u) => {
          const style = { color: false, unicode: u };
          const lines = chart(v, { columns: c, plotRows: rows, style, log: true, peaks: u });
          expect(lines).to.have.length(rows + 2);
          for (const line of lines) expect(textWidth(line)).to.equal(c);
        },
      ),
    );
  });
});

describe("a bar", () => {
  it("is filled to an eighth of a column, with a mark", () => {
    const options = { columns: 8, style: UNICODE };
    expect(bar({ ...options, fill: 0.5 })).to.equal(
      "\u2588\u2588\u2588\u2588\u00b7\u00b7\u00b7\u00b7",
    );
    expect(bar({ ...options, fill: 0.55 })).to.equal(
      "\u2588\u2588\u2588\u2588\u258d\u00b7\u00b7\u00b7",
    );
    expect(bar({ ...options, fill: 0.25, mark: 0.5 })).to.equal(
      "\u2588\u2588\u00b7\u00b7\u2502\u00b7\u00b7\u00b7",
    );
    expect(bar({ ...options, fill: 0, shade: 0.5 })).to.equal(
      "\u2592\u2592\u2592\u2592\u00b7\u00b7\u00b7\u00b7",
    );
  });

  it("is ASCII where nothing else can be drawn, and full when there is more", () => {
    const options = { columns: 8, style: PLAIN_STYLE };
    expect(bar({ ...options, fill: 0.5, mark: 0.75 })).to.equal("####..|.");
    expect(bar({ ...options, fill: 7, mark: 9 })).to.equal("#######|");
    expect(bar({ ...options, fill: Number.NaN })).to.equal("........");
  });
});
