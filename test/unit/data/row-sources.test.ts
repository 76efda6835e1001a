import { truncate, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect } from "chai";
import { type DataInput, dataInputs } from "../../../coordinator/data/data-source.ts";
import { anyPath } from "../../../coordinator/data/paths.ts";
import { randomSource } from "../../../coordinator/data/random-source.ts";
import {
  openSafetensorsSource,
  safetensorsSequenceLength,
} from "../../../coordinator/data/safetensors-source.ts";
import { DataLossError, InvalidArgumentError } from "../../../shared/errors.ts";
import { fillStandardNormals } from "../../../shared/random/normal.ts";
import { PhiloxStream } from "../../../shared/random/philox.ts";
import { caught } from "../../support/caught.ts";
import {
  counting,
  floats,
  integers,
  type TestTensor,
  withFolder,
  writeTensors,
} from "../../support/data.ts";
import { fixturePath } from "../../support/fixtures.ts";

const X = { name: "x", dtype: "float32", dims: [3] } as const;
const Y = { name: "y", dtype: "float32", dims: [2] } as const;
const TOKENS = { name: "tokens", dtype: "int32", dims: [] } as const;

describe("random data", () => {
  it("is element g of the stream of its input's name, whatever rows are asked for", async () => {
    const source = randomSource({ length: 5, seed: 7 }, [X, Y]);
    const all = new Float32Array(15);
    fillStandardNormals(all, { seed: 7, name: "x" });
    const row = (index: number): number[] => [...all.subarray(3 * index, 3 * index + 3)];
    expect(floats(await source.readRows(0, [4, 1, 1]))).to.deep.equal([
      ...row(4),
      ...row(1),
      ...row(1),
    ]);
    expect(floats(await source.readRows(0, [1]))).to.deep.equal(row(1));
    const y = new Float32Array(10);
    fillStandardNormals(y, { seed: 7, name: "y" });
    expect(floats(await source.readRows(1, [3]))).to.deep.equal([...y.subarray(6, 8)]);
  });

  it("is the same when it is too large to be kept, over pieces of a row", async () => {
    const wide = { name: "x", dtype: "float32", dims: [70_001] } as const;
    const source = randomSource({ length: 1000, seed: 1 }, [wide]);
    const want = new Float32Array(70_001);
    fillStandardNormals(want, { seed: 1, name: "x", start: 999 * 70_001 });
    const bytes = await source.readRows(0, [999]);
    expect(Buffer.compare(bytes, new Uint8Array(want.buffer))).to.equal(0);
  });

  it("is refused for inputs that are no floats, and where elements can't be numbered", () => {
    expect(() => randomSource({ length: 2 ** 40, seed: 0 }, [TOKENS, { ...X, dims: [2 ** 20] }]))
      .to.throw(InvalidArgumentError)
      .with.property("message")
      .that.equals(
        [
          `data.random: can't tell which ids the job's input "tokens" takes; use safetensors or stream`,
          'data.random.length: is 1099511627776; for input "x" at most 8589934591 rows can be numbered',
        ].join("\n"),
      );
  });
});

describe("random tokens", () => {
  const row = (name: string, dims: readonly number[], ids: number) =>
    ({ name, dtype: "int32", dims, ids }) as const;
  const SEQUENCE = [row("tokens", [5], 11), row("targets", [5], 11)];

  it("are rows of one token more than a sequence has: the targets are one token later", async () => {
    const source = randomSource({ length: 4, seed: 3, seqLen: 5 }, SEQUENCE);
    const stream = new PhiloxStream(3, "tokens");
    const id = (g: number): number => Math.floor((stream.word(g) / 2 ** 32) * 11);
    const at = (start: number): number[] => [0, 1, 2, 3, 4].map((i) => id(start + i));
    expect(integers(await source.readRows(0, [2, 0]))).to.deep.equal([...at(12), ...at(0)]);
    expect(integers(await source.readRows(1, [2, 3]))).to.deep.equal([...at(13), ...at(19)]);
  });

  it("choose from all ids and no others", async () => {
    const source = randomSource({ length: 400, seed: 0 }, SEQUENCE);
    const rows = Array.from({ length: 400 }, (_, i) => i);
    const seen = new Set(integers(await source.readRows(0, rows)));
    expect([...seen].sort((a, b) => a - b)).to.deep.equal([...Array(11).keys()]);
  });

  it("are classes for a target that is one number a row, drawn beside the floats", async () => {
    const inputs = [X, row("targets", [], 3)];
    const source = randomSource({ length: 50, seed: 5 }, inputs);
    const stream = new PhiloxStream(5, "targets");
    const rows = Array.from({ length: 50 }, (_, i) => i);
    expect(integers(await source.readRows(1, rows))).to.deep.equal(
      rows.map((g) => Math.floor((stream.word(g) / 2 ** 32) * 3)),
    );
  });

  it("are refused in sequences of another length, and for a model that takes none", () => {
    const faults = (seqLen: number, inputs: readonly DataInput[]): string => {
      try {
        randomSource({ length: 2, seed: 0, seqLen }, inputs, "eval.data.random");
      } catch (error) {
        return String(error);
      }
      return "";
    };
    expect(faults(6, SEQUENCE)).to.equal(
      [
        `InvalidArgumentError: eval.data.random.seqLen: is 6; the job's input "tokens" is [rows, 5] int32`,
        `eval.data.random.seqLen: is 6; the job's input "targets" is [rows, 5] int32`,
      ].join("\n"),
    );
    expect(faults(6, [X])).to.equal(
      'InvalidArgumentError: eval.data.random.seqLen: is 6, but the job takes no sequences: "x" [rows, 3] float32; leave it out',
    );
  });
});

async function open(
  folder: string,
  tensors: Record<string, TestTensor>,
  inputs: readonly DataInput[] = [X, Y],
) {
  await writeTensors(join(folder, "d.safetensors"), tensors);
  return openSafetensorsSource(
    await anyPath(folder).input("d.safetensors", "data.safetensors.path"),
    inputs,
  );
}

describe("data of a safetensors file", () => {
  it("gives rows in the order asked for", () =>
    withFolder(async (folder) => {
      const source = await open(folder, { x: counting([5, 3]), y: counting([5, 2], 100) });
      expect(source.rows).to.equal(5);
      expect(floats(await source.readRows(0, [3, 4, 0, 1, 1]))).to.deep.equal([
        ...[9, 10, 11, 12, 13, 14],
        ...[0, 1, 2, 3, 4, 5, 3, 4, 5],
      ]);
      expect(floats(await source.readRows(1, [2]))).to.deep.equal([104, 105]);
      expect(await source.readRows(1, [])).to.have.length(0);
      await source.close();
    }));

  it("gives int32 rows", () =>
    withFolder(async (folder) => {
      const tokens = { shape: [4], values: Int32Array.of(9, 8, 7, -6) };
      await writeTensors(join(folder, "d.safetensors"), { tokens });
      const path = await anyPath(folder).input("d.safetensors", "data.safetensors.path");
      const source = await openSafetensorsSource(path, [TOKENS]);
      const bytes = await source.readRows(0, [3, 0]);
      expect([...new Int32Array(bytes.slice().buffer)]).to.deep.equal([-6, 9]);
      await source.close();
    }));

  it("is refused for an id that the model does not know, naming tensor, row and position", () =>
    withFolder(async (folder) => {
      const values = Int32Array.from({ length: 3 * 4 }, (_, i) => i % 9);
      values[9] = -1;
      const tensors = {
        tokens: { shape: [3, 4], values },
        targets: { shape: [3], values: Int32Array.of(0, 2, 3) },
      };
      const inputs = [
        { name: "tokens", dtype: "int32", dims: [4], ids: 9 },
        { name: "targets", dtype: "int32", dims: [], ids: 3 },
      ] as const;
      const source = await open(folder, tensors, inputs);
      const message =
        'data.safetensors.path: d.safetensors: tensor "tokens", row 2, position 1: id -1 is outside the model\'s vocabulary of 9';
      expect((await caught(source.scan?.() ?? Promise.resolve())).message).to.equal(message);
      expect((await caught(source.readRows(0, [0, 2]))).message).to.equal(message);
      expect(integers(await source.readRows(0, [1]))).to.deep.equal([4, 5, 6, 7]);
      expect((await caught(source.readRows(1, [0, 1, 2]))).message).to.equal(
        'data.safetensors.path: d.safetensors: tensor "targets", row 2: id 3 is outside the model\'s 3 classes',
      );
      await source.close();
    }));

  it("finds such an id past the first piece that it reads", () =>
    withFolder(async (folder) => {
      const values = new Int32Array(600 * 1000);
      values[500_500] = 7;
      const inputs = [{ name: "tokens", dtype: "int32", dims: [1000], ids: 7 }] as const;
      const source = await open(folder, { tokens: { shape: [600, 1000], values } }, inputs);
      expect((await caught(source.scan?.() ?? Promise.resolve())).message).to.contain(
        "row 500, position 500: id 7 is outside the model's vocabulary of 7",
      );
      await source.close();
    }));

  it("tells the length of its sequences from its header", () =>
    withFolder(async (folder) => {
      const path = async () => anyPath(folder).input("d.safetensors", "data.safetensors.path");
      const length = async (tensors: Record<string, TestTensor>): Promise<number> => {
        await writeTensors(join(folder, "d.safetensors"), tensors);
        return safetensorsSequenceLength(await path());
      };
      const of = (...shape: number[]): TestTensor => {
        return { shape, values: new Int32Array(shape.reduce((a, b) => a * b, 1)) };
      };
      expect(await length({ tokens: of(3, 16) })).to.equal(16);
      for (const [tensors, message] of [
        [{ tokens: of(3) }, 'tensor "tokens" is [3] I32; the model takes [rows, seqLen] int32'],
        [
          { tokens: counting([3, 4]) },
          'tensor "tokens" is [3, 4] F32; the model takes [rows, seqLen] int32',
        ],
        [
          { token: of(3, 4) },
          'has no tensor "tokens" for the job\'s input of that name, [rows, seqLen] int32; did you mean "token"?',
        ],
      ] as const) {
        expect((await caught(length(tensors))).message).to.equal(
          `data.safetensors.path: d.safetensors: ${message}`,
        );
      }
    }));

  it("reads the reference's data", async () => {
    const path = await anyPath(fixturePath("reference/feedforward-mse")).input(
      "data.safetensors",
      "data.safetensors.path",
    );
    const shape = [6, 48];
    const inputs = dataInputs({
      inputs: [
        { name: "x", dtype: "float32", globalShape: shape, layout: [], slot: 0 },
        { name: "y", dtype: "float32", globalShape: shape, layout: [], slot: 1 },
      ],
    });
    const source = await openSafetensorsSource(path, inputs);
    expect(source.rows).to.equal(60);
    expect(await source.readRows(1, [59, 0])).to.have.length(2 * 48 * 4);
    await source.close();
  });

  const faulty: readonly [string, Record<string, TestTensor>, string[]][] = [
    [
      "too few columns",
      { x: counting([5, 2]), y: counting([5, 2]) },
      [`tensor "x" is [5, 2] F32; the job's input of that name is [rows, 3] float32`],
    ],
    [
      "another dtype",
      { x: { shape: [5, 3], values: new Int32Array(15) }, y: counting([5, 2]) },
      [`tensor "x" is [5, 3] I32; the job's input of that name is [rows, 3] float32`],
    ],
    [
      "a missing tensor and one of the wrong rank",
      { X: counting([5, 3]), y: counting([5, 2, 1]) },
      [
        `has no tensor "x" for the job's input of that name, [rows, 3] float32; did you mean "X"?`,
        `tensor "y" is [5, 2, 1] F32; the job's input of that name is [rows, 2] float32`,
      ],
    ],
    [
      "unlike numbers of rows",
      { x: counting([5, 3]), y: counting([4, 2]) },
      ['tensors "x" and "y" have 5 and 4 rows; all must have as many'],
    ],
    ["no rows", { x: counting([0, 3]), y: counting([0, 2]) }, ['tensor "x" has no rows']],
  ];
  for (const [what, tensors, messages] of faulty) {
    it(`is refused for ${what}, naming file, tensor and both shapes`, () =>
      withFolder(async (folder) => {
        const error = await caught(open(folder, tensors));
        expect(error).to.be.instanceOf(InvalidArgumentError);
        expect(error.message.split("\n")).to.deep.equal(
          messages.map((message) => `data.safetensors.path: d.safetensors: ${message}`),
        );
      }));
  }

  it("is refused when the file is cut short, under the name that the user gave", () =>
    withFolder(async (folder) => {
      await writeTensors(join(folder, "d.safetensors"), { x: counting([5, 3]) });
      await truncate(join(folder, "d.safetensors"), 100);
      const path = await anyPath(folder).input("d.safetensors", "data.safetensors.path");
      const error = await caught(openSafetensorsSource(path, [X]));
      expect(error.message).to.match(/^data\.safetensors\.path: d\.safetensors: /);
      expect(error.message).to.not.contain(folder);
      await writeFile(join(folder, "d.safetensors"), "x");
      expect((await caught(openSafetensorsSource(path, [X]))).message).to.match(
        /^data\.safetensors\.path: d\.safetensors: not a safetensors file/,
      );
    }));

  it("fails as data loss when the file shrinks while the job runs", () =>
    withFolder(async (folder) => {
      const source = await open(folder, { x: counting([500, 3]), y: counting([500, 2]) });
      await truncate(join(folder, "d.safetensors"), 200);
      expect(await caught(source.readRows(0, [499]))).to.be.instanceOf(DataLossError);
      await source.close();
    }));
});
