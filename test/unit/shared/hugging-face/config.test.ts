import { readFileSync } from "node:fs";
import { join } from "node:path";
import { expect } from "chai";
import fc from "fast-check";
import { InvalidArgumentError } from "../../../../shared/errors.ts";
import {
  huggingFaceConfigJson,
  parseHuggingFaceConfig,
} from "../../../../shared/hugging-face/config.ts";
import type { LlamaModel } from "../../../../shared/job/job-spec.ts";
import { fixturePath } from "../../../support/fixtures.ts";

type Config = Readonly<Record<string, unknown>>;

function fixture(name: string): Config {
  const path = join(fixturePath("hugging-face"), name, "config.json");
  return JSON.parse(readFileSync(path, "utf8")) as Config;
}

const PLAIN = fixture("llama");
const TIED = fixture("llama-tied-shards");

function faultsOf(value: unknown): string[] {
  try {
    parseHuggingFaceConfig(value, "m/config.json");
  } catch (error) {
    if (error instanceof InvalidArgumentError) return error.faults.map(({ message }) => message);
    throw error;
  }
  return [];
}

describe("config.json of a Hugging Face checkpoint", () => {
  it("says the model's sizes, and what is kept for the export", () => {
    expect(parseHuggingFaceConfig(PLAIN, "c")).to.deep.equal({
      model: {
        dim: 32,
        layers: 2,
        heads: 4,
        kvHeads: 2,
        hidden: 48,
        vocab: 40,
        ropeTheta: 10000,
        normEps: 1e-5,
        dropout: 0,
        tied: false,
      },
      carried: {
        maxPositions: 64,
        extras: { bos_token_id: 1, eos_token_id: 2, initializer_range: 0.02 },
      },
    });
  });

  it("may have theta and scaling in rope_parameters, as transformers 5 writes it, or apart", () => {
    const scaling = { factor: 4, lowFrequency: 1, highFrequency: 4, originalLength: 128 };
    const { model } = parseHuggingFaceConfig(TIED, "c");
    expect(model).to.include({ ropeTheta: 10000, tied: true });
    expect(model.ropeScaling).to.deep.equal(scaling);
    const { rope_parameters, ...rest } = TIED;
    const { rope_theta, ...rope_scaling } = rope_parameters as Config;
    expect(parseHuggingFaceConfig({ ...rest, rope_theta, rope_scaling }, "c").model).to.deep.equal(
      model,
    );
    const { rope_type, ...older } = rope_scaling;
    expect(
      parseHuggingFaceConfig(
        { ...rest, rope_theta, rope_scaling: { ...older, type: rope_type } },
        "c",
      ).model,
    ).to.deep.equal(model);
    const unscaled = { ...rest, rope_parameters: { rope_type: "default", rope_theta: 7 } };
    expect(parseHuggingFaceConfig(unscaled, "c").model).to.include({ ropeTheta: 7 });
    expect(parseHuggingFaceConfig(unscaled, "c").model).not.to.have.property("ropeScaling");
  });

  it("stands for what transformers takes where keys are left out", () => {
    const { rms_norm_eps, rope_theta, num_key_value_heads, tie_word_embeddings, ...rest } = PLAIN;
    void [rms_norm_eps, rope_theta, num_key_value_heads, tie_word_embeddings];
    expect(parseHuggingFaceConfig(rest, "c").model).to.include({
      normEps: 1e-6,
      ropeTheta: 10000,
      kvHeads: 4,
      tied: false,
    });
  });

  it("of a mistral is taken when it has no window", () => {
    const mistral = { ...PLAIN, model_type: "mistral" };
    expect(faultsOf({ ...mistral, sliding_window: null })).to.deep.equal([]);
    expect(faultsOf(mistral)).to.deep.equal([
      "m/config.json: sliding_window is left out; only null, no window, can be trained",
    ]);
    expect(faultsOf({ ...mistral, sliding_window: 4096 })).to.deep.equal([
      "m/config.json: sliding_window is 4096; only null, no window, can be trained",
    ]);
  });

  const scaling = { rope_type: "llama3", factor: 8, low_freq_factor: 1, high_freq_factor: 4 };
  const cases: readonly [string, Config, string][] = [
    [
      "another model",
      { model_type: "gpt2" },
      'model_type is "gpt2"; only llama, and mistral without a window, can be loaded',
    ],
    ["no model type", { model_type: undefined }, "has no model_type; it must be llama"],
    [
      "a missing size",
      { hidden_size: undefined },
      "hidden_size is missing; it must be a positive integer",
    ],
    ["a size of 0", { vocab_size: 0 }, "vocab_size is 0; it must be an integer from 1 to 16777216"],
    [
      "a size in words",
      { vocab_size: "40" },
      'vocab_size is "40"; it must be an integer from 1 to 16777216',
    ],
    [
      "more layers than can be compiled",
      { num_hidden_layers: 1e6 },
      "num_hidden_layers is 1000000; it must be an integer from 1 to 126",
    ],
    [
      "heads that do not divide",
      { num_attention_heads: 5, num_key_value_heads: 5 },
      "num_attention_heads 5 does not divide hidden_size 32; is one of them wrong?",
    ],
    [
      "kv heads that do not divide",
      { num_key_value_heads: 3 },
      "num_key_value_heads 3 does not divide num_attention_heads 4; is one of them wrong?",
    ],
    [
      "heads of an odd size",
      { hidden_size: 36 },
      "hidden_size 36 / num_attention_heads 4 is 9; rotary heads have an even size",
    ],
    [
      "another head size",
      { head_dim: 16 },
      "head_dim is 16; only hidden_size / num_attention_heads = 8 can be loaded",
    ],
    [
      "biases in attention",
      { attention_bias: true },
      "attention_bias is true; only models without these biases can be loaded",
    ],
    [
      "biases in the mlp",
      { mlp_bias: true },
      "mlp_bias is true; only models without these biases can be loaded",
    ],
    [
      "dropped attention",
      { attention_dropout: 0.1 },
      "attention_dropout is 0.1; the model has none, so set it to 0",
    ],
    ["another activation", { hidden_act: "gelu" }, 'hidden_act is "gelu"; only silu is known'],
    [
      "a flag in words",
      { tie_word_embeddings: "yes" },
      'tie_word_embeddings is "yes"; it must be true or false',
    ],
    [
      "quantized weights",
      { quantization_config: { bits: 4 } },
      "has a quantization_config; load the checkpoint that was quantized, in F32, F16 or BF16",
    ],
    ["a negative epsilon", { rms_norm_eps: -1 }, "rms_norm_eps is -1; it must be a number above 0"],
    [
      "another scaling",
      { rope_scaling: { type: "yarn", factor: 2 } },
      'rope_scaling.type is "yarn"; only llama3, or no scaling, can be loaded',
    ],
    [
      "a scaling of no kind",
      { rope_scaling: { factor: 2 } },
      "rope_scaling.type is missing; only llama3, or no scaling, can be loaded",
    ],
    [
      "a scaling without a length",
      { rope_scaling: scaling },
      "rope_scaling.original_max_position_embeddings is missing; it must be a positive integer",
    ],
    [
      "a scaling in words",
      { rope_scaling: "llama3" },
      'rope_scaling is "llama3"; it must be an object',
    ],
    [
      "rotation of a part",
      { partial_rotary_factor: 0.5 },
      "partial_rotary_factor is 0.5; only whole heads, 1, can be loaded",
    ],
  ];
  for (const [what, change, message] of cases) {
    it(`with ${what} is refused by its key`, () => {
      expect(faultsOf({ ...PLAIN, ...change })).to.deep.equal([`m/config.json: ${message}`]);
    });
  }

  it("is refused with all of its faults, and anything but an object at once", () => {
    const faults = faultsOf({ model_type: "bert", hidden_act: "relu", vocab_size: 1.5 });
    expect(faults).to.have.length(7);
    for (const value of [null, 3, "llama", [PLAIN]])
      expect(faultsOf(value)[0]).to.match(/^m\/config\.json: is .*, not an object$/);
    expect(faultsOf(JSON.parse('{"__proto__": {"hidden_size": 4}}'))).to.include(
      "m/config.json: hidden_size is missing; it must be a positive integer",
    );
  });

  it("never makes the reader fail, whatever it holds", () => {
    const keys = [...Object.keys(PLAIN), "rope_parameters", "head_dim", "sliding_window"];
    fc.assert(
      fc.property(fc.dictionary(fc.constantFrom(...keys), fc.jsonValue()), (change) => {
        faultsOf({ ...PLAIN, ...change });
        faultsOf(change);
      }),
    );
  });

  it("is written so that reading it gives the model back, with sorted keys", () => {
    const size = fc.integer({ min: 1, max: 16 });
    const positive = fc.double({ min: 1e-9, max: 1e9, noNaN: true });
    const models = fc
      .record({
        layers: size,
        heads: size,
        half: size,
        groups: size,
        hidden: size,
        vocab: size,
        ropeTheta: positive,
        normEps: positive,
        tied: fc.boolean(),
        scaled: fc.boolean(),
      })
      .map(({ half, groups, scaled, heads, ...rest }): LlamaModel => {
        const scaling = { factor: 8, lowFrequency: 1, highFrequency: 4, originalLength: 8192 };
        return {
          ...rest,
          heads: heads * groups,
          kvHeads: heads,
          dim: 2 * half * heads * groups,
          dropout: 0,
          ...(scaled ? { ropeScaling: scaling } : {}),
        };
      });
    fc.assert(
      fc.property(models, (model) => {
        const json = huggingFaceConfigJson(model, 77);
        const config = JSON.parse(json) as Config;
        expect(Object.keys(config)).to.deep.equal(Object.keys(config).sort());
        expect(config).to.deep.include({
          architectures: ["LlamaForCausalLM"],
          torch_dtype: "float32",
          max_position_embeddings: 77,
        });
        expect(parseHuggingFaceConfig(config, "c")).to.deep.equal({
          model,
          carried: { maxPositions: 77, extras: {} },
        });
      }),
    );
    const read = parseHuggingFaceConfig(PLAIN, "c");
    expect(huggingFaceConfigJson(read.model, 1)).to.contain('"rope_theta": 10000.0,\n');
    const again = JSON.parse(huggingFaceConfigJson(read.model, 1, read.carried)) as Config;
    for (const [key, value] of Object.entries(PLAIN)) {
      if (["pretraining_tp", "transformers_version"].includes(key)) continue;
      expect(again[key], key).to.deep.equal(value);
    }
  });
});
