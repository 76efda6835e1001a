import { expect } from "chai";
import { paint, styleOf } from "../../../../cli/terminal/style.ts";

describe("style of a terminal", () => {
  const styles: readonly [NodeJS.ProcessEnv, boolean, { color: boolean; unicode: boolean }][] = [
    [{ LANG: "en_US.UTF-8" }, true, { color: true, unicode: true }],
    [{ LANG: "C.utf8" }, true, { color: true, unicode: true }],
    [{ LANG: "en_US.UTF-8", LC_ALL: "C" }, true, { color: true, unicode: false }],
    [{ LANG: "C", LC_CTYPE: "C.UTF-8" }, true, { color: true, unicode: true }],
    [{}, true, { color: true, unicode: false }],
    [{ LANG: "C.UTF-8" }, false, { color: false, unicode: true }],
    [{ LANG: "C.UTF-8", NO_COLOR: "1" }, true, { color: false, unicode: true }],
    // https://no-color.org: only when it is not empty.
    [{ LANG: "C.UTF-8", NO_COLOR: "" }, true, { color: true, unicode: true }],
    [{ LANG: "C.UTF-8", TERM: "dumb" }, true, { color: false, unicode: false }],
  ];
  for (const [env, color, style] of styles) {
    it(`is ${JSON.stringify(style)} for ${JSON.stringify(env)}${color ? "" : " and --no-color"}`, function () {
      if (process.platform === "win32") this.skip();
      expect(styleOf(env, color)).to.deep.equal(style);
    });
  }

  it("paints nothing without colours", () => {
    expect(paint({ color: false, unicode: true }, "red", "x")).to.equal("x");
    expect(paint({ color: true, unicode: true }, "red", "x")).to.equal("\x1b[31mx\x1b[0m");
  });
});
