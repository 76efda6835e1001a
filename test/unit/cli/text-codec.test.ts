import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import fc from "fast-check";
import { BYTE_CODEC, readTokenizer, type TextCodec } from "../../../cli/text-codec.ts";
import { caught } from "../../support/caught.ts";
import { tokenizerJson } from "../../support/tokenizer.ts";

/** Pieces of text that come of tokens one by one, and the rest. */
function pieces(codec: TextCodec, prompt: readonly number[], ids: readonly number[]): string[] {
  const decoder = codec.decoder(prompt);
  return [...ids.map((id) => decoder.push(id)), decoder.end()];
}

const texts = fc.string({ unit: "grapheme", maxLength: 30 });

describe("the codec of bytes", () => {
  it("gives back any text, character by character", () => {
    fc.assert(
      fc.property(texts, (text) => {
        expect(pieces(BYTE_CODEC, [], BYTE_CODEC.encode(text)).join("")).to.equal(text);
      }),
    );
  });

  it("holds a character back until its last byte is there", () => {
    expect(pieces(BYTE_CODEC, [], BYTE_CODEC.encode("a\u00e9\u20ac"))).to.deep.equal([
      ...["a", "", "\u00e9", "", "", "\u20ac"],
      "",
    ]);
  });

  it("marks what is no character, and ids that are no bytes", () => {
    expect(pieces(BYTE_CODEC, [], [0x61, 0xff, 0x62]).join("")).to.equal("a\u{fffd}b");
    expect(pieces(BYTE_CODEC, [], [0xe2, 0x82]).join("")).to.equal("\u{fffd}");
    expect(pieces(BYTE_CODEC, [], [0x61, 300, 0x62]).join("")).to.equal("a\u{fffd}b");
  });
});

describe("the codec of a tokenizer.json", () => {
  let folder = "";
  let codec: TextCodec;

  before(async () => {
    folder = await mkdtemp(join(tmpdir(), "rankmesh-codec-"));
    const path = join(folder, "tokenizer.json");
    const merges = [
      ["h", "e"],
      [" ", "t"],
      [" t", "he"],
    ] as const;
    await writeFile(path, tokenizerJson({ merges, addedTokens: ["<|end|>"] }));
    codec = await readTokenizer(path);
  });

  after(async () => {
    await rm(folder, { recursive: true, force: true });
  });

  it("gives back any text, whatever part of it is the prompt", () => {
    fc.assert(
      fc.property(texts, fc.nat(), (text, at) => {
        const ids = codec.encode(text);
        const cut = at % (ids.length + 1);
        const prompt = pieces(codec, [], ids.slice(0, cut)).join("");
        fc.pre(!prompt.includes("\u{fffd}"));
        const rest = pieces(codec, ids.slice(0, cut), ids.slice(cut)).join("");
        expect(prompt + rest).to.equal(text);
      }),
    );
  });

  it("writes a token as soon as it is whole", () => {
    const ids = codec.encode("he the\u20ac");
    expect(ids).to.have.lengthOf(5);
    expect(pieces(codec, [], ids)).to.deep.equal(["he", " the", "", "", "\u20ac", ""]);
  });

  it("writes tokens added to the vocabulary, and nothing for ids past it", () => {
    const { vocabulary = 0 } = codec;
    expect(pieces(codec, [], [104, vocabulary - 1, 9999, 101]).join("")).to.equal("h<|end|>e");
  });

  it("names a file that is none, or is not there", async () => {
    const path = join(folder, "other.json");
    expect((await caught(readTokenizer(path))).message).to.equal(
      `tokenizer ${path}: there is no such file`,
    );
    await writeFile(path, "{}");
    expect((await caught(readTokenizer(path))).message).to.equal(
      `tokenizer ${path}: is no tokenizer.json: it holds no model`,
    );
  });
});
