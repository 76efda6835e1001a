import { appendFile, truncate, utimes, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect } from "chai";
import fc from "fast-check";
import type { RowSource } from "../../../coordinator/data/data-source.ts";
import { checkSource, openSource } from "../../../coordinator/data/open-source.ts";
import { anyPath } from "../../../coordinator/data/paths.ts";
import { DataLossError, InvalidArgumentError } from "../../../shared/errors.ts";
import type { FixedSourceSpec } from "../../../shared/job/job-spec.ts";
import { caught } from "../../support/caught.ts";
import { integers, withFolder } from "../../support/data.ts";

const GO = new AbortController().signal;

/** The inputs of a language model. */
function inputs(seqLen: number, ids?: number) {
  return [
    { name: "tokens", dtype: "int32", dims: [seqLen], ids },
    { name: "targets", dtype: "int32", dims: [seqLen], ids },
  ] as const;
}

async function request(folder: string, source: FixedSourceSpec, seqLen: number, ids?: number) {
  const kind = "text" in source ? "text" : "tokens";
  const file = await anyPath(folder).input("data", `data.${kind}.path`);
  const paths = { file, tokenizer: undefined };
  return { source, field: "data", inputs: inputs(seqLen, ids), paths };
}

const text = (seqLen: number): FixedSourceSpec => ({
  text: { path: "data", tokenizer: "bytes", seqLen },
});
const tokens = (seqLen: number, dtype: "uint16" | "uint32" = "uint16"): FixedSourceSpec => ({
  tokens: { path: "data", dtype, seqLen },
});

async function rowsOf(source: RowSource, rows: number[]): Promise<number[][]> {
  return [integers(await source.readRows(0, rows)), integers(await source.readRows(1, rows))];
}

describe("windows of a text", () => {
  it("hold their tokens and, one later, their targets; neighbours share one token", () =>
    withFolder(async (folder) => {
      await writeFile(
        join(folder, "data"),
        Uint8Array.from({ length: 14 }, (_, i) => 65 + i),
      );
      const source = await openSource(await request(folder, text(4), 4), GO);
      expect(source.rows).to.equal(3);
      expect(await rowsOf(source, [0])).to.deep.equal([
        [65, 66, 67, 68],
        [66, 67, 68, 69],
      ]);
      expect(await rowsOf(source, [2, 0])).to.deep.equal([
        [73, 74, 75, 76, 65, 66, 67, 68],
        [74, 75, 76, 77, 66, 67, 68, 69],
      ]);
      await source.close();
    }));

  for (const [bytes, rows] of [
    [5, 1],
    [8, 1],
    [9, 2],
    [12, 2],
    [13, 3],
  ] as const) {
    it(`are ${rows} of 4 tokens in ${bytes} bytes`, () =>
      withFolder(async (folder) => {
        await writeFile(join(folder, "data"), "x".repeat(bytes));
        expect(await checkSource(await request(folder, text(4), 4), "headers")).to.equal(rows);
      }));
  }

  it("are refused when not even one is full, for texts and tokens, with both numbers", () =>
    withFolder(async (folder) => {
      await writeFile(join(folder, "data"), "1234");
      expect((await caught(openSource(await request(folder, text(4), 4), GO))).message).to.equal(
        "data.text.path: data: has 4 tokens; a window of seqLen 4 takes 5",
      );
      const none = await caught(openSource(await request(folder, tokens(4), 4), GO));
      expect(none.message).to.equal(
        "data.tokens.path: data: has 2 tokens; a window of seqLen 4 takes 5",
      );
    }));

  it("are refused for a model that takes something else, naming what it takes", () =>
    withFolder(async (folder) => {
      await writeFile(join(folder, "data"), "1234567890");
      const wanted = await request(folder, text(4), 4);
      const other = [
        { name: "x", dtype: "float32", dims: [3] },
        { name: "tokens", dtype: "int32", dims: [8] },
      ] as const;
      const error = await caught(openSource({ ...wanted, inputs: other }, GO));
      expect((error as InvalidArgumentError).faults).to.deep.equal([
        {
          path: "data.text",
          message: `gives "tokens" and "targets" [rows, 4] int32; the job's input "x" is [rows, 3] float32`,
        },
        {
          path: "data.text.seqLen",
          message: `is 4; the job's input "tokens" is [rows, 8] int32`,
        },
      ]);
    }));

  it("equal the whole file cut by hand, in any order and for any length", () =>
    withFolder((folder) =>
      fc.assert(
        fc.asyncProperty(
          fc.uint8Array({ minLength: 2, maxLength: 60 }),
          fc.integer({ min: 1, max: 7 }),
          fc.array(fc.nat(100), { maxLength: 8 }),
          async (values, seqLen, picks) => {
            const ascii = values.map((value) => value % 128);
            if (ascii.length <= seqLen) return;
            await writeFile(join(folder, "data"), ascii);
            const source = await openSource(await request(folder, text(seqLen), seqLen), GO);
            const rows = picks.map((pick) => pick % source.rows);
            const cut = (offset: number): number[] =>
              rows.flatMap((row) => [
                ...ascii.subarray(row * seqLen + offset, (row + 1) * seqLen + offset),
              ]);
            expect(await rowsOf(source, rows)).to.deep.equal([cut(0), cut(1)]);
            await source.close();
          },
        ),
        { numRuns: 50 },
      ),
    ));
});

describe("a text of bytes", () => {
  const LONG = "né €𝄞\n".repeat(400_000); // characters of 1 to 4 bytes over every boundary of the scan

  it("may cut characters between windows and pieces", function () {
    this.timeout(20_000);
    return withFolder(async (folder) => {
      await writeFile(join(folder, "data"), LONG);
      const wanted = await request(folder, text(5), 5);
      const rows = await checkSource(wanted, "contents");
      expect(rows).to.equal(Math.floor((Buffer.byteLength(LONG) - 1) / 5));
      const source = await openSource(wanted, GO);
      const start = Buffer.from(LONG).subarray(0, 60);
      const [read] = await rowsOf(source, [...Array(12).keys()].reverse());
      const expected = [...Array(12).keys()]
        .reverse()
        .flatMap((i) => [...start.subarray(5 * i, 5 * i + 5)]);
      expect(read).to.deep.equal(expected);
      await source.close();
    });
  });

  for (const [where, at] of [
    ["at the beginning", 0],
    ["past the first piece that is read", (1 << 20) + 7],
    ["at the end", 1_500_000],
  ] as const) {
    it(`is refused for a byte ${where} that is no UTF-8, naming file and byte`, () =>
      withFolder(async (folder) => {
        const bytes = Buffer.alloc(1_500_001, "a");
        bytes[at] = 0xe9;
        await writeFile(join(folder, "data"), bytes);
        const wanted = await request(folder, text(8), 8);
        // A header says nothing of it.
        await checkSource(wanted, "headers");
        const message = `data.text.path: data: byte ${at}: no UTF-8; convert the text, or tokenize it yourself for data.tokens`;
        expect((await caught(checkSource(wanted, "contents"))).message).to.equal(message);
        const source = await openSource(wanted, GO);
        if (at < 1_500_000) {
          const error = await caught(source.readRows(0, [Math.floor(at / 8)]));
          expect(error).to.be.instanceOf(InvalidArgumentError);
          expect(error.message).to.equal(message);
        }
        await source.close();
      }));
  }

  it("is refused for a byte outside a smaller vocabulary, naming it", () =>
    withFolder(async (folder) => {
      await writeFile(join(folder, "data"), "abcdefzghijk");
      const wanted = await request(folder, text(4), 4, 110);
      const message =
        "data.text.path: data: byte 6: id 122 is outside the model's vocabulary of 110";
      expect((await caught(checkSource(wanted, "contents"))).message).to.equal(message);
      const source = await openSource(wanted, GO);
      expect((await caught(source.readRows(0, [1]))).message).to.equal(message);
      expect(integers(await source.readRows(0, [0]))).to.deep.equal([97, 98, 99, 100]);
      await source.close();
    }));

  it("fails as data loss when it has changed since it was opened", () =>
    withFolder(async (folder) => {
      const path = join(folder, "data");
      await writeFile(path, "0123456789");
      const source = await openSource(await request(folder, text(4), 4), GO);
      await source.readRows(0, [0]);
      await appendFile(path, "0");
      const grown = await caught(source.readRows(0, [0]));
      expect(grown).to.be.instanceOf(DataLossError);
      expect(grown.message).to.match(
        /^data\.text\.path: data has changed since the job opened it \(10 bytes then, 11 now\)/,
      );
      await truncate(path, 10);
      await utimes(path, 1, 1);
      expect((await caught(source.readRows(0, [0]))).message).to.match(
        /has changed since the job opened it; leave/,
      );
      await source.close();
    }));
});

describe("a file of tokens", () => {
  it("is read as the numbers that its dtype says", () =>
    withFolder(async (folder) => {
      const ids = [0, 1, 65535, 40000, 5, 6, 7];
      await writeFile(join(folder, "data"), new Uint8Array(Uint16Array.from(ids).buffer));
      const short = await openSource(await request(folder, tokens(3), 3), GO);
      expect(await rowsOf(short, [0, 1])).to.deep.equal([ids.slice(0, 6), ids.slice(1, 7)]);
      await short.close();
      const wide = [3, 70_000, 2 ** 31 - 1, 9];
      await writeFile(join(folder, "data"), new Uint8Array(Uint32Array.from(wide).buffer));
      const long = await openSource(await request(folder, tokens(3, "uint32"), 3), GO);
      expect(await rowsOf(long, [0])).to.deep.equal([wide.slice(0, 3), wide.slice(1)]);
      await long.close();
    }));

  for (const [dtype, width] of [
    ["uint16", 2],
    ["uint32", 4],
  ] as const) {
    it(`of ${dtype} is refused for an id outside the vocabulary, naming token and byte`, () =>
      withFolder(async (folder) => {
        // Past the first piece of the scan.
        const ids = Array.from({ length: 600_000 }, (_, i) => (i === 555_555 ? 96 : i % 96));
        const packed = dtype === "uint16" ? Uint16Array.from(ids) : Uint32Array.from(ids);
        await writeFile(join(folder, "data"), new Uint8Array(packed.buffer));
        const wanted = await request(folder, tokens(5, dtype), 5, 96);
        const message = `data.tokens.path: data: token 555555 (byte ${555_555 * width}): id 96 is outside the model's vocabulary of 96`;
        expect((await caught(checkSource(wanted, "contents"))).message).to.equal(message);
        const source = await openSource(wanted, GO);
        expect((await caught(source.readRows(0, [111_111]))).message).to.equal(message);
        expect(integers(await source.readRows(1, [111_109]))).to.have.length(5);
        await source.close();
      }));
  }

  it("never gives a number that 32 bits with a sign can't hold", () =>
    withFolder(async (folder) => {
      await writeFile(join(folder, "data"), Buffer.from("0000000000000080", "hex"));
      const source = await openSource(await request(folder, tokens(1, "uint32"), 1), GO);
      expect((await caught(source.readRows(1, [0]))).message).to.contain(
        "id 2147483648 is outside",
      );
      await source.close();
    }));

  it("is refused when it ends inside a token", () =>
    withFolder(async (folder) => {
      await writeFile(join(folder, "data"), "12345");
      expect((await caught(openSource(await request(folder, tokens(1), 1), GO))).message).to.equal(
        "data.tokens.path: data: has 5 bytes, which are no whole number of uint16 tokens",
      );
    }));
});
