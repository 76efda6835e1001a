import { expect } from "chai";
import { didYouMean, editDistance, nearestNames } from "../../../shared/nearest.ts";
import { quote } from "../../../shared/quote.ts";

describe("edit distance", () => {
  const cases: readonly [string, string, number][] = [
    ["", "", 0],
    ["", "abc", 3],
    ["kitten", "sitting", 3],
    ["colwise", "colwise", 0],
    ["colwsie", "colwise", 1],
    ["abc", "cab", 2],
  ];
  for (const [a, b, distance] of cases) {
    it(`is ${distance} from "${a}" to "${b}", both ways`, () => {
      expect(editDistance(a, b)).to.equal(distance);
      expect(editDistance(b, a)).to.equal(distance);
    });
  }
});

describe("nearest names", () => {
  it("come nearest first, ties in the given order", () => {
    expect(nearestNames("w4", ["attention.wq", "w1", "w2", "w44"])).to.deep.equal([
      "w1",
      "w2",
      "w44",
    ]);
  });

  it("ignore case, dashes and underscores", () => {
    expect(nearestNames("weight_decay", ["lr", "weightDecay"])).to.deep.equal(["weightDecay"]);
  });

  it("leave out what is far off", () => {
    expect(nearestNames("optimizer", ["mesh", "plan"])).to.deep.equal([]);
    expect(nearestNames("x", ["y", "x1", "X"])).to.deep.equal(["X", "x1"]);
    expect(didYouMean("optimizer", ["mesh", "plan"])).to.equal("");
    expect(didYouMean("rowise", ["rowwise", "colwise"], 1)).to.equal('; did you mean "rowwise"?');
  });

  it("cost little for a huge name", () => {
    expect(nearestNames("x".repeat(1e7), ["xxx"])).to.deep.equal([]);
  });
});

describe("quoting a value", () => {
  it("escapes what a terminal would obey", () => {
    expect(quote("\u001b[31m\u009b\u202e\n")).to.equal('"\\u001b[31m\\u009b\\u202e\\n"');
  });

  it("cuts long text and walks into nothing", () => {
    expect(quote("y".repeat(81))).to.equal(`"${"y".repeat(80)}"... (81 characters)`);
    expect(quote([1, [2]])).to.equal("a list of 2");
    expect(quote({ a: 1 })).to.equal("a map");
    expect(quote(-0)).to.equal("-0");
    expect(quote(Symbol("s"))).to.equal("a value of type symbol");
  });
});
