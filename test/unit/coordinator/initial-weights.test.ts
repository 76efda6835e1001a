import { join } from "node:path";
import { expect } from "chai";
import { anyPath } from "../../../coordinator/data/paths.ts";
import { InitialWeights } from "../../../coordinator/weights/initial-weights.ts";
import { InvalidArgumentError } from "../../../shared/errors.ts";
import { caught } from "../../support/caught.ts";
import { withFolder } from "../../support/data.ts";
import { numbersOf, type RawTensor, weightsProgram, writeRaw } from "../../support/hugging-face.ts";

const MESH = { axes: [{ name: "x", size: 2 }] };
const PARAMETERS = [
  { name: "norm.weight", shape: [2] },
  { name: "tok_embeddings.weight", shape: [4, 2] },
];

const tensor = (dtype: string, shape: number[], ...values: number[]): RawTensor => {
  const words = dtype === "F32" ? Float32Array.from(values) : Uint16Array.from(values);
  return { dtype, shape, bytes: new Uint8Array(words.buffer) };
};
const NORM = tensor("F32", [2], 1, 2);
const EMBEDDING = tensor("F32", [4, 2], 1, 2, 3, 4, 5, 6, 7, 8);

async function withWeights<T>(
  tensors: Readonly<Record<string, RawTensor>>,
  body: (weights: InitialWeights) => Promise<T>,
): Promise<T> {
  return withFolder(async (folder) => {
    await writeRaw(join(folder, "init"), new Map(Object.entries(tensors)));
    const path = await anyPath(folder).input("init", "init.safetensors");
    const weights = await InitialWeights.open(
      path,
      weightsProgram(PARAMETERS, MESH, () => ["S0"]),
    );
    try {
      return await body(weights);
    } finally {
      await weights.close();
    }
  });
}

async function slice(weights: InitialWeights, stored: number, rank: number): Promise<number[]> {
  const pieces: Uint8Array[] = [];
  for await (const piece of weights.read(stored, rank)) pieces.push(piece);
  return [...numbersOf({ dtype: "F32", shape: [], bytes: Buffer.concat(pieces) })];
}

describe("a file of initial weights", () => {
  it("gives each rank its slice", () =>
    withWeights({ "norm.weight": NORM, "tok_embeddings.weight": EMBEDDING }, async (weights) => {
      expect(await slice(weights, 0, 1)).to.deep.equal([2]);
      expect(await slice(weights, 1, 0)).to.deep.equal([1, 2, 3, 4]);
      expect(await slice(weights, 1, 1)).to.deep.equal([5, 6, 7, 8]);
      expect(await weights.valueFaults()).to.deep.equal([]);
    }));

  it("may hold float16 and bfloat16", () =>
    withWeights(
      {
        "norm.weight": tensor("F16", [2], 0x3c00, 0xc000),
        "tok_embeddings.weight": tensor(
          "BF16",
          [4, 2],
          ...[0x3f80, 0x4000, 0x4040, 0x4080, 0x40a0, 0x40c0, 0x40e0, 0x4100],
        ),
      },
      async (weights) => {
        expect(await slice(weights, 0, 0)).to.deep.equal([1]);
        expect(await slice(weights, 0, 1)).to.deep.equal([-2]);
        expect(await slice(weights, 1, 1)).to.deep.equal([5, 6, 7, 8]);
      },
    ));

  it("of a tied model may hold the weight under both names when they are equal", async () => {
    const other = { ...EMBEDDING, bytes: EMBEDDING.bytes.slice() };
    other.bytes[31] = 0;
    for (const [output, faults] of [
      [EMBEDDING, []],
      [
        other,
        [
          {
            path: "init.safetensors",
            message:
              'init: tensors "output.weight" and "tok_embeddings.weight" differ, and the model is tied: ' +
              "both are one weight in it; leave out the wrong one, or train the model untied",
          },
        ],
      ],
    ] as const) {
      await withWeights(
        { "norm.weight": NORM, "tok_embeddings.weight": EMBEDDING, "output.weight": output },
        async (weights) => {
          expect(await weights.valueFaults()).to.deep.equal(faults);
          expect(await slice(weights, 1, 1)).to.deep.equal([5, 6, 7, 8]);
        },
      );
    }
  });

  it("may hold no other tensor, nor one of another shape, nor integers", async () => {
    const error = await caught(
      withWeights(
        {
          "norm.weight": { ...NORM, dtype: "I32" },
          "tok_embeddings.weight": { ...EMBEDDING, shape: [2, 4] },
          "output.weight": EMBEDDING,
        },
        async () => undefined,
      ),
    );
    if (!(error instanceof InvalidArgumentError)) throw error;
    expect(error.faults).to.deep.equal(
      [
        'tensor "norm.weight" is I32, the model\'s is F32; convert it (F16 and BF16 are converted when loaded)',
        'tensor "tok_embeddings.weight" is [2, 4], the model\'s is [4, 2]',
        'has 1 tensor that the model does not: "output.weight"; leave out what is no parameter',
      ].map((message) => ({ path: "init.safetensors", message: `init: ${message}` })),
    );
  });

  it("with the names of Hugging Face is told apart from one that misses everything", async () => {
    const tensors = { "model.norm.weight": NORM, "model.embed_tokens.weight": EMBEDDING };
    const error = await caught(withWeights(tensors, async () => undefined));
    expect(error.message).to.equal(
      "init.safetensors: init: has the names and the order of rows of a Hugging Face checkpoint; " +
        "load its folder with model.huggingFace",
    );
  });
});
