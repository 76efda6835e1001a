import { expect } from "chai";
import { InvalidArgumentError } from "../../../../shared/errors.ts";
import { parseShardIndex } from "../../../../shared/hugging-face/shard-index.ts";

describe("model.safetensors.index.json", () => {
  it("says the file of each tensor", () => {
    const map = parseShardIndex({ weight_map: { a: "1.safetensors", b: "2.safetensors" } }, "i");
    expect([...map]).to.deep.equal([
      ["a", "1.safetensors"],
      ["b", "2.safetensors"],
    ]);
  });

  for (const name of [
    "../x.safetensors",
    "/x.safetensors",
    "a\\x.safetensors",
    "x.bin",
    "x\0.safetensors",
    "",
    3,
    null,
  ]) {
    it(`may not name ${JSON.stringify(name)} as a file`, () => {
      expect(() => parseShardIndex({ weight_map: { w: name } }, "m/i.json")).to.throw(
        InvalidArgumentError,
        /^m\/i\.json: weight_map has .* for tensor "w"; it must be the name of a safetensors file beside the index$/,
      );
    });
  }

  for (const value of [null, [], {}, { weight_map: [] }, { weight_map: "x" }]) {
    it(`may not be ${JSON.stringify(value)}`, () => {
      expect(() => parseShardIndex(value, "i")).to.throw(InvalidArgumentError, "has no weight_map");
    });
  }

  it("may not name more files than can be open", () => {
    const weight_map = Object.fromEntries(
      Array.from({ length: 5000 }, (_, i) => [`t${i}`, `${i}.safetensors`]),
    );
    expect(() => parseShardIndex({ weight_map }, "i")).to.throw("names 5000 files; at most 4096");
  });
});
