import { expect } from "chai";
import fc from "fast-check";
import { cutText, padEnd, padStart, textWidth } from "../../../../cli/terminal/text-width.ts";

describe("width of a text on a terminal", () => {
  const widths: readonly [string, number][] = [
    ["", 0],
    ["worker-0", 8],
    ["\u65e5\u672c\u8a9e", 6],
    ["\uff21\uff22", 4],
    ["e\u0301", 1],
    ["\u{1f600}", 2],
    ["\u{1f468}\u200d\u{1f469}\u200d\u{1f467}", 2],
    ["\u2764\ufe0f", 2],
    ["a\u200bb", 2],
    ["\x1b[1mbold\x1b[0m", 4],
    ["\u2588\u2502\u28ff", 3],
  ];
  for (const [text, width] of widths) {
    it(`is ${width} for ${JSON.stringify(text)}`, () => {
      expect(textWidth(text)).to.equal(width);
    });
  }

  it("is kept by cutting: never wider than asked, whole where it fits", () => {
    const texts = fc.string({ unit: "grapheme", maxLength: 20 });
    fc.assert(
      fc.property(texts, fc.nat(24), (text, columns) => {
        const cut = cutText(text, columns, "~");
        expect(textWidth(cut)).to.be.at.most(columns);
        if (textWidth(text) <= columns) expect(cut).to.equal(text);
        else if (columns > 0) expect(cut.endsWith("~")).to.equal(true);
      }),
    );
  });

  it("cuts before a wide character that does not fit", () => {
    expect(cutText("\u65e5\u672c\u8a9e", 4, "~")).to.equal("\u65e5~");
    expect(cutText("\u65e5\u672c\u8a9e", 5, "~")).to.equal("\u65e5\u672c~");
  });

  it("ends the colours of what it cuts", () => {
    expect(cutText("\x1b[31mfailed\x1b[0m", 3)).to.equal("\x1b[31mfai\x1b[0m");
    expect(cutText("\x1b[31mab\x1b[0mcdef", 3)).to.equal("\x1b[31mab\x1b[0mc");
  });

  it("pads by columns", () => {
    expect(padEnd("\u65e5", 4)).to.equal("\u65e5  ");
    expect(padStart("\u65e5", 4)).to.equal("  \u65e5");
    expect(padEnd("long", 2)).to.equal("long");
  });
});
