import { truncate, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect } from "chai";
import { checkSource, openSource } from "../../../coordinator/data/open-source.ts";
import { anyPath } from "../../../coordinator/data/paths.ts";
import { tokenizeText } from "../../../coordinator/data/tokenize-text.ts";
import { MAX_TOKENIZED_BYTES } from "../../../coordinator/data/tokenized-text.ts";
import { Tokenizer } from "../../../coordinator/data/tokenizer.ts";
import { InvalidArgumentError } from "../../../shared/errors.ts";
import { caught } from "../../support/caught.ts";
import { integers, withFolder } from "../../support/data.ts";
import { tokenizerJson } from "../../support/tokenizer.ts";

const GO = new AbortController().signal;

// " the" is 258, "th" 256, "the" 257, "\n\n" 259.
const JSON_TEXT = tokenizerJson({
  merges: [
    ["t", "h"],
    ["th", "e"],
    [" ", "the"],
    ["\n", "\n"],
  ],
  addedTokens: ["<|end|>"],
});

const VERSE = "the cat sat on the mat\n";

describe("a Hugging Face tokenizer", () => {
  const tokenizer = new Tokenizer(JSON_TEXT);

  it("makes the ids of its file, and the text again", () => {
    const ids = tokenizer.encode("the then\n\n<|end|>é");
    expect(ids).to.deep.equal([257, 258, 110, 259, 260, 0xc3, 0xa9]);
    expect(tokenizer.decode(ids)).to.equal("the then\n\n<|end|>é");
    expect(tokenizer.vocabulary).to.equal(261);
    expect(tokenizer.encode("")).to.deep.equal([]);
    expect(tokenizer.decode([])).to.equal("");
  });

  it("counts its vocabulary by its greatest id", () => {
    const value = JSON.parse(JSON_TEXT) as { added_tokens: { id: number }[] };
    for (const token of value.added_tokens) token.id = 999;
    expect(new Tokenizer(JSON.stringify(value)).vocabulary).to.equal(1000);
  });

  for (const id of [-5, 2.5]) {
    it(`refuses a text with a token whose id is ${id}`, () => {
      const odd = new Tokenizer(JSON_TEXT.replace('"the":257', `"the":${id}`));
      expect(odd.encode("th")).to.deep.equal([256]);
      expect(() => odd.encode("the")).to.throw(
        InvalidArgumentError,
        `the tokenizer gives token "the" the id ${id}; ids are integers from 0 up`,
      );
    });
  }

  for (const [what, json, message] of [
    ["no JSON", "{", /^is no tokenizer\.json that can be used: .*JSON/],
    ["no map", "[]", /^is no tokenizer\.json: it holds no model/],
    ["no model", '{"version":"1.0"}', /it holds no model/],
    ["a model of no known kind", '{"model":{"type":"Nope"}}', /can be used: .*Nope/],
    [
      "a pre-tokenizer of no known kind",
      JSON_TEXT.replace(
        '"type":"ByteLevel","add_prefix_space"',
        '"type":"Nope","add_prefix_space"',
      ),
      /can be used: .*Nope/,
    ],
    ["no tokens", '{"model":{"type":"BPE","vocab":{},"merges":[]}}', /it has no tokens/],
  ] as const) {
    it(`is refused with ${what}`, () => {
      expect(() => new Tokenizer(json))
        .to.throw(InvalidArgumentError)
        .with.property("message")
        .that.matches(message);
    });
  }
});

describe("tokenizing a long text", () => {
  const pieces = (text: string, json: string, pieceBytes: number): number[][] => [
    ...tokenizeText(Buffer.from(text), new Tokenizer(json), pieceBytes),
  ];

  for (const [what, text] of [
    ["lines", VERSE.repeat(50)],
    ["lines and paragraphs", `${VERSE}\n${VERSE}  ${VERSE}\r\n`.repeat(20)],
    ["characters of several bytes", "the é€𝄞 the\nthen\n".repeat(50)],
    ["no line end", "the then ".repeat(100)],
    ["a byte order mark", `\ufeff${VERSE.repeat(10)}`],
  ] as const) {
    it(`gives the tokens of the whole, of ${what}`, () => {
      const whole = new Tokenizer(JSON_TEXT).encode(text);
      for (const pieceBytes of [40, 64, 101, 300]) {
        expect(pieces(text, JSON_TEXT, pieceBytes).flat()).to.deep.equal(whole);
      }
    });
  }

  it("cuts at line ends, so that no piece is much longer than asked for", () => {
    const parts = pieces(VERSE.repeat(100), JSON_TEXT, 64);
    expect(parts.length).to.equal(50);
  });

  it("does not cut where the tokenizer would make other tokens: each text has a mark of its own here", () => {
    const json = tokenizerJson({ merges: [], prefix: "_" });
    const parts = pieces(VERSE.repeat(20), json, 64);
    expect(parts.length).to.equal(1);
    expect(parts[0]?.length).to.equal(1 + 20 * VERSE.length);
  });
});

describe("a text with a tokenizer of its own", function () {
  this.timeout(20_000);

  async function request(
    folder: string,
    content: string | Uint8Array,
    ids?: number,
    json = JSON_TEXT,
  ) {
    await writeFile(join(folder, "data"), content);
    await writeFile(join(folder, "tok.json"), json);
    const policy = anyPath(folder);
    return {
      source: { text: { path: "data", tokenizer: "tok.json", seqLen: 4 } },
      field: "eval.data",
      inputs: [
        { name: "tokens", dtype: "int32", dims: [4], ids },
        { name: "targets", dtype: "int32", dims: [4], ids },
      ],
      paths: {
        file: await policy.input("data", "eval.data.text.path"),
        tokenizer: await policy.input("tok.json", "eval.data.text.tokenizer"),
      },
    } as const;
  }

  it("has windows of its tokens, whatever becomes of the file afterwards", () =>
    withFolder(async (folder) => {
      const wanted = await request(folder, VERSE.repeat(3), 261);
      const ids = new Tokenizer(JSON_TEXT).encode(VERSE.repeat(3));
      expect(await checkSource(wanted, "contents")).to.equal(Math.floor((ids.length - 1) / 4));
      const source = await openSource(wanted, GO);
      await writeFile(join(folder, "data"), "");
      expect(integers(await source.readRows(0, [2, 0]))).to.deep.equal([
        ...ids.slice(8, 12),
        ...ids.slice(0, 4),
      ]);
      expect(integers(await source.readRows(1, [1]))).to.deep.equal(ids.slice(5, 9));
      await source.close();
    }));

  it("keeps ids past 16 bits", () =>
    withFolder(async (folder) => {
      const value = JSON.parse(JSON_TEXT) as { added_tokens: { id: number }[] };
      for (const token of value.added_tokens) token.id = 100_000;
      const wanted = await request(folder, "<|end|>".repeat(9), 100_001, JSON.stringify(value));
      const source = await openSource(wanted, GO);
      expect(integers(await source.readRows(0, [1]))).to.deep.equal(Array(4).fill(100_000));
      await source.close();
    }));

  it("is refused before anything starts for a tokenizer with more ids than the model, with both numbers", () =>
    withFolder(async (folder) => {
      const wanted = await request(folder, VERSE, 260);
      const message =
        "eval.data.text.tokenizer: tok.json: has ids up to 260, and the model's vocabulary is 260; use a model of vocab 261 or more";
      expect((await caught(checkSource(wanted, "headers"))).message).to.equal(message);
      expect((await caught(openSource(wanted, GO))).message).to.equal(message);
    }));

  it("is refused for a tokenizer that is none", () =>
    withFolder(async (folder) => {
      const wanted = await request(folder, VERSE, 260, "{}");
      expect((await caught(checkSource(wanted, "headers"))).message).to.equal(
        "eval.data.text.tokenizer: tok.json: is no tokenizer.json: it holds no model",
      );
    }));

  it("is refused for broken UTF-8, naming the byte", () =>
    withFolder(async (folder) => {
      const bytes = Buffer.from(VERSE.repeat(3));
      bytes[30] = 0xff;
      const wanted = await request(folder, bytes, 261);
      expect((await caught(checkSource(wanted, "contents"))).message).to.match(
        /^eval\.data\.text\.path: data: byte 30: no UTF-8/,
      );
    }));

  it("is refused when it is too short for a window, or too long for memory", () =>
    withFolder(async (folder) => {
      const wanted = await request(folder, "the the the", 261);
      const message = "eval.data.text.path: data: has 3 tokens; a window of seqLen 4 takes 5";
      expect((await caught(checkSource(wanted, "contents"))).message).to.equal(message);
      expect((await caught(openSource(wanted, GO))).message).to.equal(message);
      await truncate(join(folder, "data"), MAX_TOKENIZED_BYTES + 1);
      expect((await caught(checkSource(wanted, "headers"))).message).to.contain(
        `data: has ${MAX_TOKENIZED_BYTES + 1} bytes; texts of up to ${MAX_TOKENIZED_BYTES} are tokenized`,
      );
    }));

  it("is given up when the job ends meanwhile", () =>
    withFolder(async (folder) => {
      const wanted = await request(folder, VERSE.repeat(100_000), 261);
      const stop = new AbortController();
      const opening = caught(openSource(wanted, stop.signal));
      const cause = new Error("the job is over");
      stop.abort(cause);
      expect(await opening).to.equal(cause);
    }));
});
