import { mkdtemp, readdir, readFile, rm, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import fc from "fast-check";
import { InvalidArgumentError } from "../../../../shared/errors.ts";
import type { Interval } from "../../../../shared/mesh/placement.ts";
import { wholeIntervals } from "../../../../shared/safetensors/box.ts";
import { SafetensorsFile } from "../../../../shared/safetensors/reader.ts";
import type { TensorSpec } from "../../../../shared/safetensors/write-header.ts";
import { SafetensorsWriter } from "../../../../shared/safetensors/writer.ts";
import { caught } from "../../../support/caught.ts";
import { fixturePath } from "../../../support/fixtures.ts";

/** A file of this header and that many zero bytes of data. */
function fileOf(header: string | Uint8Array, dataBytes: number): Buffer {
  const json = Buffer.from(header);
  const bytes = Buffer.alloc(8 + json.byteLength + dataBytes);
  bytes.writeBigUInt64LE(BigInt(json.byteLength));
  json.copy(bytes, 8);
  return bytes;
}

describe("safetensors", () => {
  let folder = "";
  let path = "";

  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), "rankmesh-safetensors-"));
    path = join(folder, "file.safetensors");
  });

  afterEach(async () => {
    await rm(folder, { recursive: true, force: true });
  });

  async function openBytes(bytes: Uint8Array): Promise<SafetensorsFile> {
    await writeFile(path, bytes);
    return SafetensorsFile.open(path);
  }

  describe("reader", () => {
    it("reads names, dtypes, shapes and values of a reference file", async () => {
      const file = await SafetensorsFile.open(
        fixturePath("reference/feedforward-sum/init.safetensors"),
      );
      expect(
        [...file.header.tensors.values()].map(({ name, dtype, shape }) => [name, dtype, shape]),
      ).to.deep.equal([
        ["w1.weight", "F32", [80, 48]],
        ["w2.weight", "F32", [48, 80]],
        ["w3.weight", "F32", [80, 48]],
      ]);
      const tensor = file.tensor("w2.weight");
      const bytes = await file.readWhole(tensor, wholeIntervals(tensor.shape));
      await file.close();
      const raw = await readFile(fixturePath("reference/feedforward-sum/init.safetensors"));
      expect(Buffer.from(bytes).equals(raw.subarray(256 + 15360, 256 + 30720))).to.equal(true);
    });

    it("reads any slice, across pieces", async () => {
      // Larger than a piece, so that pieces end inside of rows.
      const shape = [300, 5, 257];
      const values = Float32Array.from({ length: 300 * 5 * 257 }, (_, i) => i);
      const bytes = fileOf(
        `{"t":{"dtype":"F32","shape":[${shape}],"data_offsets":[0,${values.byteLength}]}}`,
        values.byteLength,
      );
      Buffer.from(values.buffer).copy(bytes, bytes.byteLength - values.byteLength);
      const file = await openBytes(bytes);
      const tensor = file.tensor("t");
      const boxes: Interval[][] = [
        wholeIntervals(shape),
        [
          { start: 7, end: 9 },
          { start: 0, end: 5 },
          { start: 0, end: 257 },
        ],
        [
          { start: 0, end: 300 },
          { start: 2, end: 4 },
          { start: 0, end: 257 },
        ],
        [
          { start: 0, end: 300 },
          { start: 0, end: 5 },
          { start: 100, end: 101 },
        ],
        [
          { start: 299, end: 300 },
          { start: 4, end: 5 },
          { start: 256, end: 257 },
        ],
        [
          { start: 5, end: 5 },
          { start: 0, end: 5 },
          { start: 0, end: 257 },
        ],
      ];
      for (const box of boxes) {
        const want: number[] = [];
        const [a, b, c] = box as [Interval, Interval, Interval];
        for (let i = a.start; i < a.end; i++) {
          for (let j = b.start; j < b.end; j++) {
            for (let k = c.start; k < c.end; k++) want.push((i * 5 + j) * 257 + k);
          }
        }
        const got: number[] = [];
        for await (const piece of file.readSlice(tensor, box)) {
          expect(piece.byteLength).to.be.at.most(1 << 20);
          for (const value of new Float32Array(piece.buffer)) got.push(value);
        }
        expect(got).to.deep.equal(want);
      }
      await file.close();
    });

    it("takes scalars, empty tensors, metadata, padding and a tensor named __proto__", async () => {
      const file = await openBytes(
        fileOf(
          '{"__metadata__":{"format":"pt"},"__proto__":{"dtype":"F32","shape":[],"data_offsets":[0,4]},"e":{"dtype":"BF16","shape":[3,0],"data_offsets":[4,4]}}   ',
          4,
        ),
      );
      expect(file.header.tensors.get("__proto__")?.shape).to.deep.equal([]);
      expect(file.header.tensors.get("e")?.endByte).to.equal(
        file.header.tensors.get("e")?.beginByte,
      );
      expect([...file.header.metadata]).to.deep.equal([["format", "pt"]]);
      await file.close();
    });

    const f32 = (shape: string, begin: number, end: number): string =>
      `{"dtype":"F32","shape":${shape},"data_offsets":[${begin},${end}]}`;
    const cases: [what: string, bytes: Uint8Array, message: string][] = [
      ["an empty file", Buffer.alloc(0), "it has 0 bytes, the header's length alone takes 8"],
      ["a file of 7 bytes", Buffer.alloc(7), "it has 7 bytes"],
      [
        "a header longer than the file",
        fileOf(`{"a":${f32("[1]", 0, 4)}}`, 4).subarray(0, 20),
        "file truncated: have 20 bytes, header says 62 for itself alone",
      ],
      [
        "a header length near 2^64",
        Buffer.from("ffffffffffffffff7b7d", "hex"),
        "would take 18446744073709551615 bytes, at most 100000000",
      ],
      [
        "data cut off",
        fileOf(`{"a":${f32("[2]", 0, 8)}}`, 5),
        "file truncated: have 67 bytes, header says 70",
      ],
      [
        "bytes after the data",
        fileOf(`{"a":${f32("[2]", 0, 8)}}`, 9),
        "1 bytes follow the last tensor: have 71 bytes, header says 70",
      ],
      [
        "another kind of file",
        fileOf("PK hello", 0),
        'does not start with "{" but with "PK hello"',
      ],
      ["invalid UTF-8", fileOf(Uint8Array.of(0x7b, 0xff, 0x7d), 0), "not valid UTF-8"],
      ["broken JSON", fileOf('{"a":', 0), "not valid JSON"],
      [
        "a key twice",
        fileOf(`{"a":${f32("[1]", 0, 4)},"a":${f32("[1]", 0, 4)}}`, 4),
        'has the key "a" twice',
      ],
      [
        "a key twice, escaped",
        fileOf(`{"a":${f32("[1]", 0, 4)},"\\u0061":${f32("[1]", 0, 4)}}`, 4),
        'has the key "a" twice',
      ],
      [
        "a field twice",
        fileOf('{"a":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}}', 4),
        'the key "dtype" twice',
      ],
      [
        "an unknown dtype",
        fileOf('{"a":{"dtype":"F31","shape":[1],"data_offsets":[0,4]}}', 4),
        'tensor "a": dtype "F31" is unknown; known are',
      ],
      [
        "a dtype of Object's own",
        fileOf('{"a":{"dtype":"toString","shape":[1],"data_offsets":[0,4]}}', 4),
        'dtype "toString" is unknown',
      ],
      [
        "a negative dim",
        fileOf(`{"a":${f32("[-1]", 0, 4)}}`, 4),
        "shape [-1] is not a list of integers >= 0",
      ],
      ["a fractional dim", fileOf(`{"a":${f32("[1.5]", 0, 4)}}`, 4), "shape [1.5] is not a list"],
      [
        "dims whose product overflows",
        fileOf(`{"a":${f32("[4294967296,4294967296]", 0, 0)}}`, 0),
        "more elements than can be counted",
      ],
      [
        "offsets that do not fit the shape",
        fileOf(`{"a":${f32("[3]", 0, 8)}}`, 8),
        "F32 [3] takes 12 bytes, but data_offsets [0, 8] span 8",
      ],
      [
        "offsets that run backwards",
        fileOf(`{"a":${f32("[1]", 8, 4)}}`, 8),
        "data_offsets [8, 4] span -4",
      ],
      [
        "overlapping tensors",
        fileOf(`{"a":${f32("[2]", 0, 8)},"b":${f32("[2]", 4, 12)}}`, 12),
        'tensor "b" begins at byte 4 of the data and overlaps tensor "a", which ends at 8',
      ],
      [
        "a gap between tensors",
        fileOf(`{"a":${f32("[1]", 0, 4)},"b":${f32("[1]", 8, 12)}}`, 12),
        'tensor "b" begins at byte 8 of the data, leaving a gap after tensor "a" at 4',
      ],
      [
        "data that does not begin at 0",
        fileOf(`{"a":${f32("[1]", 4, 8)}}`, 8),
        "leaving a gap after the start of the data at 0",
      ],
      [
        "metadata that is no string",
        fileOf('{"__metadata__":{"n":1}}', 0),
        '__metadata__ "n" is not a string',
      ],
      [
        "a tensor that is a list",
        fileOf('{"a":[]}', 0),
        'tensor "a" is not described by an object',
      ],
      [
        "deep nesting",
        fileOf(`{"a":{"dtype":${"[".repeat(200_000)}${"]".repeat(200_000)}}}`, 0),
        "dtype [a list of 1] is unknown",
      ],
    ];
    for (const [what, bytes, message] of cases) {
      it(`refuses ${what}`, async () => {
        const error = await caught(openBytes(bytes));
        expect(error).to.be.instanceOf(InvalidArgumentError);
        expect(error.message).to.include(message).and.include(path);
      });
    }

    it("lists all faults of a header at once", async () => {
      const error = await caught(
        openBytes(
          fileOf(`{"a":${f32("[3]", 0, 8)},"b":{"dtype":"X","shape":[1],"data_offsets":[8,9]}}`, 9),
        ),
      );
      expect((error as InvalidArgumentError).faults).to.have.length(2);
    });

    it("refuses a missing file, a folder and a device", async () => {
      expect((await caught(SafetensorsFile.open(path))).message).to.equal(`${path}: no such file`);
      expect((await caught(SafetensorsFile.open(folder))).message).to.include("is a folder");
      expect((await caught(SafetensorsFile.open("/dev/null"))).message).to.include(
        "no regular file",
      );
    });

    it("names the nearest tensors when one is missing", async () => {
      const file = await SafetensorsFile.open(
        fixturePath("reference/feedforward-sum/init.safetensors"),
      );
      expect(() => file.tensor("w1.wieght")).to.throw(
        InvalidArgumentError,
        /has no tensor "w1.wieght"; it has "w1.weight"/,
      );
      await file.close();
    });

    it("says so when the file shrinks while it is read", async () => {
      const file = await openBytes(fileOf(`{"a":${f32("[256]", 0, 1024)}}`, 1024));
      await truncate(path, 500);
      const error = await caught(file.readWhole(file.tensor("a"), [{ start: 0, end: 256 }]));
      expect(error.message).to.match(/file shrank while it was read: \d+ of 1024 bytes/);
      await file.close();
    });

    it("answers every mutation of a valid file with the file or InvalidArgumentError", async () => {
      const valid = await readFile(fixturePath("reference/feedforward-sum/data.safetensors"));
      const head = 80; // Length and header: where a change of one byte matters.
      const mutation = fc.oneof(
        fc.record({ kind: fc.constant("set" as const), at: fc.nat(head), byte: fc.nat(255) }),
        fc.record({
          kind: fc.constant("cut" as const),
          at: fc.nat(valid.byteLength),
          byte: fc.nat(255),
        }),
        fc.record({ kind: fc.constant("insert" as const), at: fc.nat(head), byte: fc.nat(255) }),
        fc.record({ kind: fc.constant("remove" as const), at: fc.nat(head), byte: fc.nat(255) }),
      );
      await fc.assert(
        fc.asyncProperty(fc.array(mutation, { minLength: 1, maxLength: 3 }), async (mutations) => {
          let bytes = Buffer.from(valid);
          for (const { kind, at, byte } of mutations) {
            const middle = kind === "set" || kind === "insert" ? [byte] : [];
            const rest = kind === "cut" ? bytes.byteLength : kind === "insert" ? at : at + 1;
            bytes = Buffer.concat([
              bytes.subarray(0, at),
              Buffer.from(middle),
              bytes.subarray(rest),
            ]);
          }
          try {
            const file = await openBytes(bytes);
            const [tensor] = file.header.tensors.values();
            if (tensor !== undefined) await file.readWhole(tensor, wholeIntervals(tensor.shape));
            await file.close();
          } catch (error) {
            expect(error).to.be.instanceOf(InvalidArgumentError);
          }
        }),
        { numRuns: 500 },
      );
    });
  });

  describe("writer", () => {
    for (const name of ["sum/init", "sum/data", "sum/final", "mse/init", "mse/data", "mse/final"]) {
      it(`writes reference file feedforward-${name} byte for byte`, async () => {
        const source = fixturePath(`reference/feedforward-${name}.safetensors`);
        const file = await SafetensorsFile.open(source);
        const tensors = [...file.header.tensors.values()];
        const writer = await SafetensorsWriter.create(path, tensors.toReversed());
        for (const tensor of tensors) {
          await writer.writeSlice(
            tensor.name,
            wholeIntervals(tensor.shape),
            file.readSlice(tensor, wholeIntervals(tensor.shape)),
          );
        }
        await writer.commit();
        await file.close();
        expect((await readFile(path)).equals(await readFile(source))).to.equal(true);
      });
    }

    it("joins slices of any cut, in pieces of any length, into the same file", async () => {
      const spec = { name: "t", dtype: "F32", shape: [6, 10] } as const;
      const values = Float32Array.from({ length: 60 }, (_, i) => i);
      await fc.assert(
        fc.asyncProperty(
          fc.nat(6),
          fc.nat(10),
          fc.integer({ min: 1, max: 50 }),
          async (row, column, pieceBytes) => {
            const writer = await SafetensorsWriter.create(path, [spec]);
            const slices: Promise<void>[] = [];
            for (const rows of [
              { start: 0, end: row },
              { start: row, end: 6 },
            ]) {
              for (const columns of [
                { start: 0, end: column },
                { start: column, end: 10 },
              ]) {
                const part = [...values].filter((_, i) => {
                  const [r, c] = [Math.floor(i / 10), i % 10];
                  return rows.start <= r && r < rows.end && columns.start <= c && c < columns.end;
                });
                const bytes = new Uint8Array(Float32Array.from(part).buffer);
                const pieces: Uint8Array[] = [];
                for (let at = 0; at < bytes.length; at += pieceBytes)
                  pieces.push(bytes.subarray(at, at + pieceBytes));
                slices.push(writer.writeSlice("t", [rows, columns], pieces));
              }
            }
            await Promise.all(slices);
            await writer.commit();
            const file = await SafetensorsFile.open(path);
            const got = await file.readWhole(file.tensor("t"), wholeIntervals(spec.shape));
            await file.close();
            expect([...new Float32Array(got.buffer)]).to.deep.equal([...values]);
          },
        ),
        { numRuns: 30 },
      );
    });

    it("sorts by element size, then name, pads the header to 8 bytes and keeps metadata", async () => {
      const specs: TensorSpec[] = [
        { name: "b", dtype: "U8", shape: [3] },
        { name: "c", dtype: "F32", shape: [] },
        { name: "a", dtype: "U8", shape: [1] },
        { name: "z", dtype: "F64", shape: [0, 2] },
      ];
      const writer = await SafetensorsWriter.create(path, specs, { format: "pt", a: "1" });
      await writer.writeSlice("b", [{ start: 0, end: 3 }], [Uint8Array.of(1, 2, 3)]);
      await writer.writeSlice("a", [{ start: 0, end: 1 }], [Uint8Array.of(9)]);
      await writer.writeSlice("c", [], [new Uint8Array(4)]);
      await writer.commit();
      const bytes = await readFile(path);
      const headerBytes = Number(bytes.readBigUInt64LE());
      expect(headerBytes % 8).to.equal(0);
      expect(
        bytes
          .subarray(8, 8 + headerBytes)
          .toString()
          .trimEnd(),
      ).to.equal(
        '{"__metadata__": {"a": "1", "format": "pt"}, "z": {"dtype": "F64", "shape": [0, 2], "data_offsets": [0, 0]}, "c": {"dtype": "F32", "shape": [], "data_offsets": [0, 4]}, "a": {"dtype": "U8", "shape": [1], "data_offsets": [4, 5]}, "b": {"dtype": "U8", "shape": [3], "data_offsets": [5, 8]}}',
      );
      expect([...bytes.subarray(-4)]).to.deep.equal([9, 1, 2, 3]);
    });

    const oneTensor: TensorSpec[] = [{ name: "t", dtype: "F32", shape: [4] }];
    const half = [{ start: 0, end: 2 }];

    it("leaves an old file untouched until commit, and after abort", async () => {
      await writeFile(path, "old");
      const writer = await SafetensorsWriter.create(path, oneTensor);
      await writer.writeSlice("t", half, [new Uint8Array(8)]);
      expect(await readFile(path, "utf8")).to.equal("old");
      await writer.abort();
      expect(await readdir(folder)).to.deep.equal(["file.safetensors"]);
      expect(await readFile(path, "utf8")).to.equal("old");
    });

    for (const [what, slices, message] of [
      ["a part was never written", [half], 'tensor "t" takes 16 bytes, 8 were written'],
      ["slices overlap", [half, [{ start: 1, end: 3 }]], 'slices of "t" overlap'],
    ] as const) {
      it(`refuses to commit when ${what}, and leaves nothing`, async () => {
        const writer = await SafetensorsWriter.create(path, oneTensor);
        for (const slice of slices) await writer.writeSlice("t", slice, [new Uint8Array(8)]);
        expect((await caught(writer.commit())).message).to.include(message);
        expect(await readdir(folder)).to.deep.equal([]);
      });
    }

    it("refuses a slice of too few or too many bytes", async () => {
      const writer = await SafetensorsWriter.create(path, oneTensor);
      for (const bytes of [7, 9]) {
        const error = await caught(writer.writeSlice("t", half, [new Uint8Array(bytes)]));
        expect(error.message).to.include(`slice of t takes 8 bytes, got ${bytes}`);
      }
      await writer.abort();
    });

    it("says what is wrong with a path that cannot be written", async () => {
      const missing = join(folder, "none", "file.safetensors");
      expect((await caught(SafetensorsWriter.create(missing, oneTensor))).message).to.equal(
        `${missing}: cannot be written: its folder does not exist; create it first`,
      );
      expect((await caught(SafetensorsWriter.create(folder, oneTensor))).message).to.include(
        "is a folder; name a file to write",
      );
    });
  });
});
