import { gzipSync } from "node:zlib";
import { expect } from "chai";
import fc from "fast-check";
import { InvalidArgumentError } from "../../../shared/errors.ts";
import { encodeProgram } from "../../../shared/program/wire.ts";
import { parseProgram } from "../../../worker/program-check.ts";
import { tinyProgram } from "../../support/tiny-program.ts";

type Json = { [key: string]: Json } | Json[] | string | number | boolean | null;

const encode = (value: unknown): Uint8Array => Buffer.from(JSON.stringify(value));

function faultsOf(value: unknown): string {
  try {
    parseProgram(encode(value));
  } catch (error) {
    if (error instanceof InvalidArgumentError) return error.message;
    throw error;
  }
  return "";
}

/** A copy of the tiny program with the value at `path` replaced. */
function broken(path: string, value: Json): Json {
  const program = JSON.parse(JSON.stringify(tinyProgram({ ranks: 2 }))) as Json;
  const keys = path.split(".");
  const last = keys.pop() ?? "";
  let at = program as { [key: string]: Json };
  for (const key of keys) at = at[key] as { [key: string]: Json };
  at[last] = value;
  return program;
}

describe("parseProgram", () => {
  it("reads back what it was given", () => {
    const program = tinyProgram({ ranks: 2, microbatches: 3 });
    expect(parseProgram(encode(program))).to.deep.equal(program);
  });

  for (const [path, value, text] of [
    ["formatVersion", 2, "program.formatVersion: is 2, this worker reads 1"],
    ["arenaBytes", 64, "ends at"],
    ["slots.0.offsetBytes", 1 << 30, "the arena has 104 bytes"],
    ["slots.0.offsetBytes", 2, "offset 2 is not a multiple of 4"],
    ["slots.0.sizeBytes", 8, "its shape takes 32 bytes, sizeBytes is 8"],
    ["slots.0.dtype", "float16", '"float16" is not float32, float64, int32, bfloat16'],
    ["stored.0.slot", 9, "program.stored[0].slot: is 9, the table has 5 entries"],
    ["stored.0.slot", -1, "-1 is not a whole number of at least 0"],
    ["stored.0.layout.0", "S7", "dim 7 of [4, 4] does not divide by 2"],
    ["stored.0.globalShape", [5, 4], "dim 0 of [5, 4] does not divide by 2"],
    ["stored.0.globalShape", [8, 4], "a rank's part takes 64 bytes, its slot holds 32"],
    ["inputs.0.dtype", "int32", 'holds "float32", the input is int32'],
    ["body.0.inputs.1", 99, "program.body[0].inputs[1]: is 99"],
    ["body.1.kind", "wait", "waits for collective 0, which was not started"],
    ["body.2.kind", "start", "starts collective 0 a second time before its wait"],
    ["body.2.collective", 1, "is 1, the table has 1 entries"],
    ["collectives.0.chunkElements", 2, "its input slot holds 4 bytes, the allReduce needs 8"],
    ["collectives.0.axes.0", 3, "3 is no axis of the mesh"],
    ["mesh.axes.0.size", 1e9, "has 1000000000 ranks"],
    ["lossSlot", 0, "slot 0 is not one float32"],
    ["gradNormSlot", 4, "slot 4 is not one float64"],
    ["optimizer.kind", "lion", '"lion" is not adamw or sgd'],
    ["memoryByKind.weights", 1, "adds up to 73 bytes, arenaBytes is 104"],
  ] as const) {
    it(`refuses ${path} = ${JSON.stringify(value)}`, () => {
      expect(faultsOf(broken(path, value as Json))).to.contain(text);
    });
  }

  it("refuses a start without its wait", () => {
    const program = tinyProgram({ ranks: 2 });
    const body = program.body.filter(({ kind }) => kind !== "wait");
    expect(faultsOf({ ...program, body })).to.contain(
      "program.body: ends without waiting for collective 0",
    );
  });

  it("reads long programs by gzip, and refuses gzip that is broken or a bomb", () => {
    const program = tinyProgram({ ranks: 2 });
    const long = { ...program, name: "n".repeat(100_000) };
    const encoded = encodeProgram(long);
    expect(encoded.length).to.be.below(10_000);
    expect(parseProgram(encoded)).to.deep.equal(long);
    expect(encodeProgram(program).toString()).to.equal(JSON.stringify(program));
    const bomb = gzipSync(Buffer.alloc(200 << 20, " "));
    for (const bytes of [encoded.subarray(0, 500), bomb])
      expect(() => parseProgram(bytes)).to.throw(InvalidArgumentError, "are not JSON");
  });

  it("refuses what is no JSON, or no program", () => {
    expect(() => parseProgram(Buffer.from("{"))).to.throw(
      InvalidArgumentError,
      "1 bytes are not JSON",
    );
    expect(() => parseProgram(Uint8Array.of(0xff))).to.throw(InvalidArgumentError);
    for (const value of [null, 3, [], {}, "program"]) expect(faultsOf(value)).to.not.equal("");
  });

  it("never throws anything but InvalidArgumentError, whatever is put wherever", () => {
    const paths: string[] = [];
    const walk = (value: unknown, path: string): void => {
      if (path !== "") paths.push(path);
      if (typeof value === "object" && value !== null) {
        for (const [key, child] of Object.entries(value))
          walk(child, path === "" ? key : `${path}.${key}`);
      }
    };
    walk(tinyProgram({ ranks: 2 }), "");
    fc.assert(
      fc.property(fc.constantFrom(...paths), fc.jsonValue({ maxDepth: 2 }), (path, value) => {
        faultsOf(broken(path, value as Json));
      }),
      { numRuns: 2000 },
    );
  });
});
