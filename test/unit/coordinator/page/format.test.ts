import { expect } from "chai";
import {
  formatBytes,
  formatDuration,
  formatLoss,
  formatPercent,
  formatRate,
  formatSeconds,
  formatTick,
  formatTime,
} from "../../../../coordinator/page/format.ts";
import { memoryLevel } from "../../../../coordinator/page/memory.ts";

function cases<T>(
  name: string,
  format: (value: T) => string,
  table: readonly (readonly [value: T, text: string])[],
): void {
  describe(name, () => {
    for (const [value, text] of table) {
      it(`writes ${String(value)} as ${text}`, () => expect(format(value)).to.equal(text));
    }
  });
}

describe("figures of the status page", () => {
  cases("bytes", formatBytes, [
    [0, "0 B"],
    [999, "999 B"],
    [999.9, "1.00 kB"],
    [1000, "1.00 kB"],
    [302_100_000, "302 MB"],
    [99_960_000, "100 MB"],
    [9_630_000, "9.63 MB"],
    [2_415_919_104, "2.42 GB"],
    [5e18, "5000 PB"],
  ]);
  cases("losses", formatLoss, [
    [null, "not finite"],
    [0, "0"],
    [1.164_359_9, "1.16436"],
    [-318_404.25, "\u2212318,404"],
    [-4.075e9, "\u22124.075e+9"],
    [-0.000_012_34, "\u22121.234e\u22125"],
  ]);
  cases("ticks", formatTick, [
    [0, "0"],
    [-250_000, "\u2212250k"],
    [1_500_000, "1.5M"],
    [2.5e9, "2.5e9"],
    [0.0001, "1e\u22124"],
    [0.25, "0.25"],
  ]);
  cases("seconds", formatSeconds, [
    [0, "0"],
    [0.000_25, "250 \u00b5s"],
    [0.148, "148 ms"],
    [0.9999, "1 s"],
    [2.314, "2.31 s"],
    [3_723, "1:02:03"],
  ]);
  cases("durations", formatDuration, [
    [-1, "0:00"],
    [59.6, "1:00"],
    [3_599, "59:59"],
    [97_200, "1 d 3 h"],
  ]);
  cases("shares", formatPercent, [
    [0, "0%"],
    [0.004, "<1%"],
    [0.126, "13%"],
    [0.996, "99%"],
    [1, "100%"],
    [1.5, "150%"],
  ]);
  cases("rates", formatRate, [
    [53.94, "53.9"],
    [1203.6, "1,204"],
  ]);

  it("gives a time its date when that is not today's", () => {
    const at = new Date(2026, 0, 2, 3, 4, 5).toISOString();
    expect(formatTime(at, new Date(2026, 0, 2, 23))).to.equal("03:04:05");
    expect(formatTime(at, new Date(2026, 0, 3))).to.equal("2026-01-02 03:04:05");
  });

  it("has a colour for every share of memory", () => {
    const shares = [0.001, 0.2499, 0.25, 0.74, 0.75, 0.9, 0.97, 1.2];
    expect(shares.map((share) => memoryLevel(share))).to.deep.equal([0, 0, 1, 2, 3, 4, 5, 5]);
    expect(memoryLevel(undefined)).to.equal(undefined);
  });
});
