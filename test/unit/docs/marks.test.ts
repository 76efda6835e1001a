import { expect } from "chai";
import { blocksOf } from "../../support/documents.ts";
import { outputFault } from "../../support/expected-output.ts";

describe("marked blocks of documents", () => {
  it("are read with their options, language, line and text", () => {
    const text = "# a\n\n<!-- run needs=x,y timeout=5 background -->\n```sh\na \\\n  b\n```\n";
    const [block] = blocksOf("a.md", text);
    expect(block).to.include({ document: "a.md", line: 5, language: "sh", text: "a \\\n  b\n" });
    expect(block?.mark?.kind).to.equal("run");
    expect([...(block?.mark?.options ?? [])]).to.deep.equal([
      ["needs", "x,y"],
      ["timeout", "5"],
      ["background", ""],
    ]);
  });

  it("lose the indentation of the list item they are in", () => {
    const [block] = blocksOf("a.md", "1. a\n\n   ```yaml\n   a:\n     b: 1\n   ```\n");
    expect(block).to.include({ text: "a:\n  b: 1\n", language: "yaml", mark: undefined });
  });

  for (const [text, why] of [
    ["<!-- run quickly -->\n```sh\n```\n", "a.md:1: run has no option quickly"],
    ["<!-- output background -->\n```\n```\n", "a.md:1: output has no option background"],
    ["<!-- run -->\ntext\n```sh\n```\n", 'a.md:1: a mark stands before "text"'],
    ["<!-- run -->\n", "a.md:1: no block comes after the mark"],
    ["```sh\na\n", "a.md:1: the block has no end"],
  ] as const) {
    it(`are an error in ${JSON.stringify(text)}`, () => {
      expect(() => blocksOf("a.md", text)).to.throw(why);
    });
  }
});

describe("output shown in documents", () => {
  const equal = (shown: string, wrote: string, exact = false) =>
    outputFault(shown, wrote, { exact }) === undefined;

  for (const [what, shown, wrote] of [
    ["other numbers and widths", "w1  1.5 s\n", "w1 22,000.25   s\n"],
    ["other scales of units", "peak 9.63 MB, 160 ms", "peak 12 kB, 1.2 s"],
    ["other job ids", "job 20261123-120011-abc123 ok", "job 20251001-000000-012def ok"],
    ["ids of clients", "job-m1x9-0123456789 ok", "job-zzzz-abcdefabcd ok"],
    ["lines left out", "a\n...\nz", "a\nb\nc\nz"],
    ["no lines where some may be left out", "a\n...\nz", "a\nz"],
    ["the rest of a line left out", "a: ...", "a: b c"],
    ["what npm says itself", "a", "> rankmesh@0.1.0 quickstart\n> bash\n\na"],
  ] as const) {
    it(`is the same with ${what}`, () => {
      expect(equal(shown, wrote)).to.equal(true);
    });
  }

  for (const [what, shown, wrote, exact] of [
    ["another word", "a 1", "b 1", false],
    ["a line more", "a", "a\nb", false],
    ["a line less", "a\nb", "a", false],
    ["a line missing after those left out", "a\n...\nz", "a\nb", false],
    ["other numbers, when exact", "a 1", "a 2", true],
  ] as const) {
    it(`differs with ${what}`, () => {
      expect(equal(shown, wrote, exact)).to.equal(false);
    });
  }
});
