import { rm, symlink, truncate, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect } from "chai";
import { anyPath, insideRoot } from "../../../coordinator/data/paths.ts";
import {
  HuggingFaceCheckpoint,
  readHuggingFaceModel,
} from "../../../coordinator/weights/hugging-face-checkpoint.ts";
import { InitialWeights } from "../../../coordinator/weights/initial-weights.ts";
import { InvalidArgumentError } from "../../../shared/errors.ts";
import { huggingFaceTensors } from "../../../shared/hugging-face/names.ts";
import { shardIntervals } from "../../../shared/mesh/placement.ts";
import type { Program } from "../../../shared/program/program.ts";
import { sliceRuns } from "../../../shared/safetensors/box.ts";
import { caught } from "../../support/caught.ts";
import { withFolder } from "../../support/data.ts";
import { fixturePath } from "../../support/fixtures.ts";
import {
  type CheckpointFixture,
  changeJson,
  copyCheckpoint,
  FIXTURE_MODEL,
  numbersOf,
  type RawTensor,
  readJsonFile,
  readRaw,
  weightsProgram,
  writeRaw,
} from "../../support/hugging-face.ts";

const FIELD = "model.huggingFace.path";
const POLICY = anyPath(fixturePath("hugging-face"));

/** All tensors of a checkpoint, by its own names. */
async function tensorsOf(name: CheckpointFixture): Promise<Map<string, RawTensor>> {
  const folder = fixturePath(`hugging-face/${name}`);
  if (name === "llama") return readRaw(join(folder, "model.safetensors"));
  return new Map([
    ...(await readRaw(join(folder, "model-00001-of-00002.safetensors"))),
    ...(await readRaw(join(folder, "model-00002-of-00002.safetensors"))),
  ]);
}

/** Every parameter in the model's own names and order, wq and wk as the script that made the fixture put them. */
async function expectedParameters(name: CheckpointFixture): Promise<Map<string, Float32Array>> {
  const tensors = await tensorsOf(name);
  const reordered = await readRaw(fixturePath(`hugging-face/${name}/expected.safetensors`));
  const { model } = (await openFixture(name)).config;
  return new Map(
    huggingFaceTensors(model).map(({ name: theirs, parameter }) => {
      const tensor = reordered.get(parameter) ?? tensors.get(theirs);
      if (tensor === undefined) throw new Error(`${theirs} is not in the fixture`);
      return [parameter, numbersOf(tensor)];
    }),
  );
}

async function openFixture(name: CheckpointFixture): Promise<HuggingFaceCheckpoint> {
  const checkpoint = await HuggingFaceCheckpoint.open(name, POLICY);
  await checkpoint.close();
  return checkpoint;
}

function floatsOf(pieces: readonly Uint8Array[]): number[] {
  const bytes = Uint8Array.from(Buffer.concat(pieces));
  return [...new Float32Array(bytes.buffer)];
}

async function slice(weights: InitialWeights, stored: number, rank: number): Promise<number[]> {
  const pieces: Uint8Array[] = [];
  for await (const piece of weights.read(stored, rank)) pieces.push(piece);
  return floatsOf(pieces);
}

/** What `rank` holds of a whole tensor. */
function cut(whole: Float32Array, program: Program, stored: number, rank: number): number[] {
  const tensor = program.stored[stored];
  if (tensor === undefined) throw new Error(`no stored tensor ${stored}`);
  const { globalShape, layout } = tensor;
  const intervals = shardIntervals(globalShape, layout, program.mesh, rank);
  return [...sliceRuns(globalShape, intervals, 4)].flatMap(({ tensorByte, length }) => [
    ...whole.subarray(tensorByte / 4, (tensorByte + length) / 4),
  ]);
}

describe("a Hugging Face checkpoint", () => {
  for (const name of ["llama", "llama-tied-shards"] as const) {
    for (const [said, axes, layout] of [
      ["whole on 1 rank", [1, 1], () => ["R", "R"]],
      ["by rows on 2 ranks", [1, 2], () => ["R", "S0"]],
      ["by columns on 4 ranks", [1, 4], (shape) => ["R", shape.length > 1 ? "S1" : "S0"]],
      ["by rows in parts of a head on 2 x 4 ranks", [2, 4], () => ["S0", "S0"]],
      [
        "by rows and columns on 8 x 2 ranks",
        [8, 2],
        (shape) => ["S0", shape.length > 1 ? "S1" : "R"],
      ],
    ] as const satisfies readonly (readonly [
      string,
      readonly [number, number],
      (shape: readonly number[]) => readonly ("R" | "S0" | "S1")[],
    ])[]) {
      it(`${name} gives every rank its slice of each weight in the model's order, ${said}`, async () => {
        const expected = await expectedParameters(name);
        const checkpoint = await HuggingFaceCheckpoint.open(name, POLICY);
        const parameters = huggingFaceTensors(checkpoint.config.model).map(
          ({ parameter, shape }) => ({ name: parameter, shape }),
        );
        const mesh = {
          axes: [
            { name: "dataParallel", size: axes[0] },
            { name: "tensorParallel", size: axes[1] },
          ],
        };
        const program = weightsProgram(parameters, mesh, layout);
        const weights = await InitialWeights.fromCheckpoint(checkpoint, program);
        try {
          for (const [stored, { name: parameter }] of program.stored.entries()) {
            for (let rank = 0; rank < axes[0] * axes[1]; rank++) {
              const whole = expected.get(parameter) ?? new Float32Array();
              expect(
                await slice(weights, stored, rank),
                `${parameter} of rank ${rank}`,
              ).to.deep.equal(cut(whole, program, stored, rank));
            }
          }
          expect(await weights.valueFaults()).to.deep.equal([]);
        } finally {
          await weights.close();
        }
      });
    }
  }

  it("is read under a data root, with links inside it, and not by links out of it", () =>
    withFolder(async (root) => {
      await copyCheckpoint("llama", join(root, "blobs"));
      await withFolder(async (outside) => {
        await copyCheckpoint("llama", outside);
        for (const [folder, source] of [
          ["inside", join(root, "blobs")],
          ["outside", outside],
        ] as const) {
          await symlink(source, join(root, folder));
        }
        const policy = insideRoot(root);
        expect(await readHuggingFaceModel("inside", policy)).to.deep.equal(FIXTURE_MODEL);
        await (await HuggingFaceCheckpoint.open("inside", policy)).close();
        expect(await readHuggingFaceModel("blobs//", policy)).to.deep.equal(FIXTURE_MODEL);
        const empty = await caught(readHuggingFaceModel("", policy));
        expect(empty.message).to.equal('model.huggingFace.path: "": is empty');
        for (const given of ["outside", outside, "../x", "x/../inside"]) {
          const error = await caught(HuggingFaceCheckpoint.open(given, policy));
          expect(error).to.be.instanceOf(InvalidArgumentError);
          expect(error.message).to.match(/lies outside the data root|must not have "\.\."/);
        }
      });
    }));
});

describe("a checkpoint whose configuration disagrees with its tensors", () => {
  /** The faults of a checkpoint after a change. */
  async function faultsAfter(
    name: CheckpointFixture,
    change: (folder: string) => Promise<void>,
  ): Promise<string[]> {
    let messages: string[] = [];
    await withFolder(async (root) => {
      await copyCheckpoint(name, join(root, "m"));
      await change(join(root, "m"));
      const error = await caught(HuggingFaceCheckpoint.open("m", anyPath(root)));
      if (!(error instanceof InvalidArgumentError)) throw error;
      expect(error.faults.every(({ path }) => path === FIELD)).to.equal(true);
      messages = error.faults.map(({ message }) => message);
    });
    return messages;
  }

  async function changeTensors(
    path: string,
    change: (tensors: Map<string, RawTensor>) => void,
  ): Promise<void> {
    const tensors = await readRaw(path);
    change(tensors);
    await writeRaw(path, tensors);
  }

  const config = (change: Readonly<Record<string, unknown>>) => (folder: string) =>
    changeJson(join(folder, "config.json"), change);
  const one = (change: (tensors: Map<string, RawTensor>) => void) => (folder: string) =>
    changeTensors(join(folder, "model.safetensors"), change);

  it("names tensors that the configuration has no layer for", async () => {
    const faults = await faultsAfter("llama", config({ num_hidden_layers: 1 }));
    expect(faults).to.have.length(1);
    expect(faults[0]).to.match(
      /^m\/model\.safetensors: has 9 tensors that the model does not: "model\.layers\.1\..* and 1 more; leave out what is no parameter$/,
    );
  });

  it("names tensors that a layer misses", async () => {
    const faults = await faultsAfter("llama", config({ num_hidden_layers: 3 }));
    expect(faults).to.have.length(9);
    expect(faults[1]).to.equal(
      'm/model.safetensors: has no tensor "model.layers.2.self_attn.q_proj.weight"; config.json asks for [32, 32]',
    );
  });

  it("names every tensor of another shape, up to a bound", async () => {
    expect(await faultsAfter("llama", config({ vocab_size: 41 }))).to.deep.equal([
      'm/model.safetensors: tensor "model.embed_tokens.weight" is [40, 32]; config.json asks for [41, 32]',
      'm/model.safetensors: tensor "lm_head.weight" is [40, 32]; config.json asks for [41, 32]',
    ]);
    const all = await faultsAfter("llama", config({ hidden_size: 64 }));
    expect(all).to.have.length(21);
    expect(all.at(-1)).to.equal("and 1 more faults of this checkpoint");
  });

  it("takes key and value heads from the configuration", async () => {
    const faults = await faultsAfter("llama", config({ num_key_value_heads: 4 }));
    expect(faults[0]).to.equal(
      'm/model.safetensors: tensor "model.layers.0.self_attn.k_proj.weight" is [16, 32]; config.json asks for [32, 32]',
    );
    expect(faults).to.have.length(4);
  });

  it("says how a model is tied when it has no output projection", async () => {
    const faults = await faultsAfter("llama-tied-shards", config({ tie_word_embeddings: false }));
    expect(faults).to.deep.equal([
      'm/model.safetensors.index.json: has no tensor "lm_head.weight"; config.json asks for [40, 32]; ' +
        "if the embedding is the output projection too, config.json must have tie_word_embeddings: true",
    ]);
  });

  it("offers the nearest name for a tensor that is missing", async () => {
    const faults = await faultsAfter(
      "llama",
      one((tensors) => {
        const norm = tensors.get("model.norm.weight");
        if (norm !== undefined) tensors.set("model.norms.weight", norm);
        tensors.delete("model.norm.weight");
      }),
    );
    expect(faults).to.deep.equal([
      'm/model.safetensors: has no tensor "model.norm.weight"; config.json asks for [32]; did you mean "model.norms.weight"?',
      'm/model.safetensors: has 1 tensor that the model does not: "model.norms.weight"; leave out what is no parameter',
    ]);
  });

  it("names a tensor whose elements are no floats", async () => {
    const faults = await faultsAfter(
      "llama",
      one((tensors) => {
        const norm = tensors.get("model.norm.weight");
        if (norm !== undefined) norm.dtype = "I32";
      }),
    );
    expect(faults).to.deep.equal([
      'm/model.safetensors: tensor "model.norm.weight" is I32; only F32, F16 and BF16 can be loaded',
    ]);
  });

  it("takes the tables that old checkpoints carry along", async () => {
    await withFolder(async (root) => {
      await copyCheckpoint("llama", join(root, "m"));
      await changeTensors(join(root, "m/model.safetensors"), (tensors) =>
        tensors.set("model.layers.0.self_attn.rotary_emb.inv_freq", {
          dtype: "F32",
          shape: [4],
          bytes: new Uint8Array(16),
        }),
      );
      await (await HuggingFaceCheckpoint.open("m", anyPath(root))).close();
    });
  });

  it("is refused when there are no weights, or pickled ones alone", async () => {
    const faults = await faultsAfter("llama", async (folder) => {
      await rm(join(folder, "model.safetensors"));
      await writeFile(join(folder, "pytorch_model.bin"), "");
    });
    expect(faults).to.deep.equal([
      '"m/model.safetensors": no such file, and no model.safetensors.index.json either; a checkpoint has one of them ' +
        "(pickled weights, *.bin and *.pth, are not read: convert them to safetensors)",
    ]);
  });

  it("is refused without a configuration", async () => {
    const faults = await faultsAfter("llama", (folder) => rm(join(folder, "config.json")));
    expect(faults).to.deep.equal(['"m/config.json": no such file']);
  });

  for (const [text, message] of [
    ["{", /^m\/config\.json: is not valid JSON/],
    [Buffer.of(0x22, 0xff, 0x22), /^m\/config\.json: is not valid UTF-8$/],
    ['{"vocab_size": 4, "vocab_size": 5}', /^m\/config\.json: has the key "vocab_size" twice$/],
    ["[]", /^m\/config\.json: is a list of 0, not an object$/],
    [" ".repeat((8 << 20) + 1), /^m\/config\.json: has 8388609 bytes; at most 8388608 are read$/],
  ] as const) {
    it(`is refused when the configuration is ${JSON.stringify(String(text).slice(0, 40))}`, async () => {
      const faults = await faultsAfter("llama", (folder) =>
        writeFile(join(folder, "config.json"), text),
      );
      expect(faults).to.have.length(1);
      expect(faults[0]).to.match(message);
    });
  }

  describe("in several files", () => {
    const SECOND = "model-00002-of-00002.safetensors";
    const index = (change: (map: Record<string, string>) => void) => async (folder: string) => {
      const path = join(folder, "model.safetensors.index.json");
      const value = await readJsonFile<{ weight_map: Record<string, string> }>(path);
      change(value.weight_map);
      await writeFile(path, JSON.stringify(value));
    };

    it("names a file that is missing", async () => {
      expect(
        await faultsAfter("llama-tied-shards", (folder) => rm(join(folder, SECOND))),
      ).to.deep.equal([`"m/${SECOND}": no such file (named in model.safetensors.index.json)`]);
    });

    it("names a file that is cut short", async () => {
      const faults = await faultsAfter("llama-tied-shards", (folder) =>
        truncate(join(folder, SECOND), 16000),
      );
      expect(faults).to.have.length(1);
      expect(faults[0]).to.match(
        new RegExp(`^m/${SECOND}: file truncated: have 16000 bytes, .*\\(named in model`),
      );
    });

    it("names a tensor that its file does not have", async () => {
      const faults = await faultsAfter("llama-tied-shards", (folder) =>
        changeTensors(join(folder, SECOND), (tensors) =>
          tensors.delete("model.layers.1.mlp.up_proj.weight"),
        ),
      );
      expect(faults).to.deep.equal([
        `m/${SECOND}: has no tensor "model.layers.1.mlp.up_proj.weight", which model.safetensors.index.json says is there`,
      ]);
    });

    it("names a tensor that the index does not, or says is elsewhere", async () => {
      const name = "model.layers.1.mlp.up_proj.weight";
      expect(
        await faultsAfter(
          "llama-tied-shards",
          index((map) => delete map[name]),
        ),
      ).to.deep.equal([
        `m/${SECOND}: has tensor "${name}", which model.safetensors.index.json does not name`,
      ]);
      const moved = await faultsAfter(
        "llama-tied-shards",
        index((map) => {
          map[name] = "model-00001-of-00002.safetensors";
        }),
      );
      expect(moved).to.deep.equal([
        `m/model-00001-of-00002.safetensors: has no tensor "${name}", which model.safetensors.index.json says is there`,
        `m/${SECOND}: has tensor "${name}", which model.safetensors.index.json says is in model-00001-of-00002.safetensors`,
      ]);
    });

    it("reads nothing that the index names outside of the folder", async () => {
      const faults = await faultsAfter(
        "llama-tied-shards",
        index((map) => {
          map["model.norm.weight"] = "../other.safetensors";
        }),
      );
      expect(faults).to.deep.equal([
        'm/model.safetensors.index.json: weight_map has "../other.safetensors" for tensor "model.norm.weight"; ' +
          "it must be the name of a safetensors file beside the index",
      ]);
    });
  });

  describe("of a tied model", () => {
    /** Adds an output projection to the first file of the tied checkpoint. */
    const withHead = async (folder: string, change: (head: RawTensor) => void): Promise<void> => {
      const first = "model-00001-of-00002.safetensors";
      await changeTensors(join(folder, first), (tensors) => {
        const embedding = tensors.get("model.embed_tokens.weight");
        if (embedding === undefined) throw new Error("no embedding");
        const head = { ...embedding, bytes: embedding.bytes.slice() };
        change(head);
        tensors.set("lm_head.weight", head);
      });
      const path = join(folder, "model.safetensors.index.json");
      const value = await readJsonFile<{ weight_map: Record<string, string> }>(path);
      value.weight_map["lm_head.weight"] = first;
      await writeFile(path, JSON.stringify(value));
    };

    for (const differs of [false, true]) {
      it(`may hold the projection too, ${differs ? "but not one that differs" : "equal to the embedding"}`, () =>
        withFolder(async (root) => {
          await copyCheckpoint("llama-tied-shards", join(root, "m"));
          await withHead(join(root, "m"), (head) => {
            const last = head.bytes.byteLength - 1;
            if (differs) head.bytes[last] = (head.bytes[last] ?? 0) ^ 1;
          });
          const checkpoint = await HuggingFaceCheckpoint.open("m", anyPath(root));
          const parameters = huggingFaceTensors(checkpoint.config.model).map(
            ({ parameter, shape }) => ({ name: parameter, shape }),
          );
          const mesh = { axes: [{ name: "x", size: 1 }] };
          const program = weightsProgram(parameters, mesh, () => ["R"]);
          const weights = await InitialWeights.fromCheckpoint(checkpoint, program);
          const faults = await weights.valueFaults();
          await weights.close();
          expect(faults).to.deep.equal(
            differs
              ? [
                  {
                    path: FIELD,
                    message:
                      'm: tensors "lm_head.weight" and "model.embed_tokens.weight" differ, and the model is tied: ' +
                      "both are one weight in it; leave out the wrong one, or train the model untied",
                  },
                ]
              : [],
          );
        }));
    }

    it("may not hold a projection of another shape", async () => {
      const faults = await faultsAfter("llama-tied-shards", (folder) =>
        withHead(folder, (head) => {
          head.shape = [32, 40];
        }),
      );
      expect(faults).to.deep.equal([
        'm/model-00001-of-00002.safetensors: tensor "lm_head.weight" is [32, 40]; config.json asks for [40, 32]',
      ]);
    });
  });
});
