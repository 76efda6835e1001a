import { expect } from "chai";
import {
  formatAge,
  formatDuration,
  formatLoss,
  formatStepTime,
  formatTable,
  oneLine,
  printable,
} from "../../../cli/format.ts";
import { formatBytes } from "../../../shared/format-bytes.ts";

describe("formatting for people", () => {
  for (const [bytes, text] of [
    [0, "0 B"],
    [999, "999 B"],
    [1000, "1.00 kB"],
    [61_440, "61.44 kB"],
    [316_500_000, "316.5 MB"],
    [2_415_919_104, "2.42 GB"],
  ] as const) {
    it(`writes ${bytes} bytes as ${text}`, () => {
      expect(formatBytes(bytes)).to.equal(text);
    });
  }

  for (const [seconds, text] of [
    [0, "0:00"],
    [0.2, "0:01"],
    [59.2, "1:00"],
    [3723, "1:02:03"],
    [Number.NaN, "?"],
  ] as const) {
    it(`writes ${seconds} seconds as ${text}`, () => {
      expect(formatDuration(seconds)).to.equal(text);
    });
  }

  for (const [seconds, text] of [
    [-5, "0s"],
    [119, "119s"],
    [120, "2m"],
    [7199, "119m"],
    [7200, "2h"],
    [2 * 86_400, "2d"],
  ] as const) {
    it(`writes an age of ${seconds} seconds as ${text}`, () => {
      expect(formatAge(new Date(1e12), 1e12 + seconds * 1000)).to.equal(text);
    });
  }

  it("writes no age where the time is not known", () => {
    expect(formatAge(undefined, 0)).to.equal("");
  });

  for (const [loss, text] of [
    [0, "0.00000"],
    [1.047625184, "1.04763"],
    [-12.299814, "-12.2998"],
    [1e-7, "1.00000e-7"],
    [Number.NaN, "NaN"],
    [Number.NEGATIVE_INFINITY, "-Infinity"],
  ] as const) {
    it(`writes a loss of ${loss} as ${text}`, () => {
      expect(formatLoss(loss)).to.equal(text);
    });
  }

  it("writes step times with three digits and a fitting unit", () => {
    expect([4.2e-5, 0.0123, 0.8504, 12.3].map(formatStepTime)).to.deep.equal([
      "42 us",
      "12.3 ms",
      "850 ms",
      "12.3 s",
    ]);
  });

  it("obeys no control characters in texts of others", () => {
    expect(printable("a\u001b[2Jb\nc\u202e")).to.equal("a\\u001b[2Jb\nc\\u202e");
    expect(oneLine("a\r\nb")).to.equal("a\\u000d\\nb");
    expect(formatTable(["name"], [["a\nb"]])[1]).to.equal("a\\nb");
  });

  it("sets columns of numbers right and others left, and leaves no blanks at line ends", () => {
    expect(
      formatTable(
        ["rank", "worker"],
        [
          ["0", "a"],
          ["10", "long-name"],
        ],
      ),
    ).to.deep.equal(["rank  worker", "   0  a", "  10  long-name"]);
    expect(formatTable(["worker", "state"], [])).to.deep.equal(["worker  state"]);
  });
});
