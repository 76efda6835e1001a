import { expect } from "chai";
import fc from "fast-check";
import { hasOp, opDefinition, opNames } from "../../../../compiler/ops/index.ts";
import type { Attrs, ValueType } from "../../../../compiler/ops/op.ts";
import { InvalidArgumentError } from "../../../../shared/errors.ts";

const f32 = (...shape: number[]): ValueType => ({ shape, dtype: "float32" });
const f64 = (...shape: number[]): ValueType => ({ shape, dtype: "float64" });
const i32 = (...shape: number[]): ValueType => ({ shape, dtype: "int32" });

interface Refusal {
  readonly op: string;
  readonly inputs: readonly ValueType[];
  readonly attrs?: Attrs;
  readonly message: string;
}

const eps = { eps: 1e-5 };
const three = f32(2, 3, 4);

const REFUSALS: readonly Refusal[] = [
  {
    op: "embedding",
    inputs: [f32(2, 3), f32(10, 4)],
    message: "needs int32 ids [...] and a float32 table [rows, features], got float32[2, 3]",
  },
  { op: "embedding", inputs: [i32(2, 3), f32(10)], message: "and float32[10]" },
  { op: "embedding", inputs: [i32(2, 3), f64(10, 4)], message: "and float64[10, 4]" },
  { op: "addPosition", inputs: [f32(2, 3), f32(3, 3)], message: "got float32[2, 3]" },
  { op: "addPosition", inputs: [three, f32(5, 3)], message: "and float32[5, 3]" },
  { op: "addPosition", inputs: [i32(2, 3, 4), f32(5, 4)], message: "got int32[2, 3, 4]" },
  {
    op: "addPosition",
    inputs: [three, f32(2, 4)],
    message: "a sequence of 3 positions, and a table of 2",
  },
  ...["rmsNorm", "layerNorm"].flatMap((op): Refusal[] => {
    const rest = op === "layerNorm" ? [f32(4)] : [];
    return [
      {
        op,
        inputs: [three, f32(3), ...rest],
        attrs: eps,
        message: "got float32[2, 3, 4], float32[3]",
      },
      { op, inputs: [three, f32(1, 4), ...rest], attrs: eps, message: "float32[1, 4]" },
      { op, inputs: [f32(), f32(4), ...rest], attrs: eps, message: "got float32[]" },
      { op, inputs: [i32(2, 4), f32(4), ...rest], attrs: eps, message: "got int32[2, 4]" },
      ...[Number.NaN, -1, Number.POSITIVE_INFINITY].map((bad) => ({
        op,
        inputs: [three, f32(4), ...rest],
        attrs: { eps: bad },
        message: `attribute eps must be a finite number of at least 0, got ${bad}`,
      })),
      { op, inputs: [three, f32(4), ...rest], message: "attribute eps" },
    ];
  }),
  { op: "swiglu", inputs: [three, f32(2, 3, 5)], message: "shapes differ" },
  { op: "swiglu", inputs: [i32(2), i32(2)], message: "input 0 is int32[2]; it must be of floats" },
  ...["silu", "geluTanh", "mul", "add", "sub"].map(
    (op): Refusal => ({ op, inputs: [i32(2), i32(2)], message: "it must be of floats" }),
  ),
  { op: "dropout", inputs: [three], message: "attribute rate must be a finite number" },
  ...[1, 1.5].map((rate) => ({
    op: "dropout",
    inputs: [three],
    attrs: { rate },
    message: `attribute rate must be a share of at least 0 and below 1, got ${rate}`,
  })),
  { op: "dropout", inputs: [three], attrs: { rate: -0.1 }, message: "got -0.1" },
  { op: "dropout", inputs: [i32(3)], attrs: { rate: 0.1 }, message: "int32[3]" },
  {
    op: "dropout",
    inputs: [three],
    attrs: { rate: 0.1, nameLow: 2 ** 32 },
    message: "attribute nameLow must be a whole number from 0 to 4294967295, got 4294967296",
  },
  {
    op: "dropout",
    inputs: [three],
    attrs: { rate: 0.1, nameLow: 1 },
    message: "attribute nameHigh must be a whole number from 0 to 4294967295, got undefined",
  },
  {
    op: "dropout",
    inputs: [three],
    attrs: { rate: 0.1, microbatches: 0.5 },
    message: "attribute microbatches",
  },
  { op: "dropout", inputs: [f32()], attrs: { rate: 0.1 }, message: "[] has 0 dims" },
  {
    op: "dropout",
    inputs: [f32(1, 1, 1, 1, 1, 1, 1, 1, 1)],
    attrs: { rate: 0.1 },
    message: "has 9 dims; it must have 1 to 8",
  },
  {
    op: "dropout",
    inputs: [f32(2 ** 20, 2 ** 14)],
    attrs: { rate: 0.1, microbatches: 2 },
    message: "34359738368 elements a step of [1048576, 16384]; at most 17179869184",
  },
  { op: "reshape", inputs: [three], message: "attribute rank must be a whole number from 1 to 8" },
  { op: "reshape", inputs: [three], attrs: { rank: 1e9 }, message: "got 1000000000" },
  { op: "reshape", inputs: [three], attrs: { rank: 3, d1: 4 }, message: "attribute d2" },
  { op: "reshape", inputs: [three], attrs: { rank: 3, d1: -3, d2: -4 }, message: "attribute d1" },
  {
    op: "reshape",
    inputs: [three],
    attrs: { rank: 3, d1: 2, d2: 5 },
    message: "[2, 3, 4] has 12 elements in each row of dim 0, and [2, 2, 5] 10",
  },
  { op: "reshape", inputs: [f32()], attrs: { rank: 1 }, message: "a scalar has no batch dim" },
  { op: "transpose", inputs: [three], attrs: { a: 0, b: 1 }, message: "attribute a must be" },
  { op: "transpose", inputs: [three], attrs: { a: 1, b: 3 }, message: "from 1 to 2, got 3" },
  { op: "transpose", inputs: [three], attrs: { a: 1 }, message: "attribute b" },
  { op: "transpose", inputs: [f32(7)], attrs: { a: 1, b: 1 }, message: "has no two dims" },
];

/** Ops that models may hold: their graphs come from users. */
const modelOps = opNames().filter((op) => opDefinition(op).numInputs !== undefined);

describe("operands and attributes of a user's graph", () => {
  for (const { op, inputs, attrs, message } of REFUSALS) {
    const types = inputs.map(({ dtype, shape }) => `${dtype}[${shape.join(", ")}]`).join(", ");
    it(`are refused: ${op} of ${types} with ${JSON.stringify(attrs ?? {})}`, () => {
      expect(hasOp(op)).to.equal(true);
      expect(() => opDefinition(op).infer(inputs, attrs ?? {})).to.throw(
        InvalidArgumentError,
        message,
      );
    });
  }

  it("give a type and rows, or an InvalidArgumentError, whatever they are", () => {
    const size = fc.constantFrom(0, 1, 2, 3, 4, 6, 12, 2 ** 31, 2 ** 53);
    const type = fc.record({
      shape: fc.array(size, { maxLength: 9 }),
      dtype: fc.constantFrom("float32", "int32", "float64") as fc.Arbitrary<ValueType["dtype"]>,
    });
    const number = fc.oneof(
      fc.constantFrom(0, 1, 2, 3, 4, 8, -1, 0.5, 1e9, 2 ** 32, 2 ** 53, 1e308, -0),
      fc.constantFrom(Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY),
    );
    const names = ["eps", "rate", "rank", "d1", "d2", "d3", "a", "b", "factor", "count", "headDim"];
    const attrs = fc.dictionary(
      fc.constantFrom(...names, "theta", "inverse", "heads", "kvHeads", "causal", "classes"),
      number,
      { maxKeys: 8 },
    );
    fc.assert(
      fc.property(
        fc.constantFrom(...modelOps),
        fc.array(type, { maxLength: 4 }),
        attrs,
        (op, all, attrs) => {
          const definition = opDefinition(op);
          const inputs = [...all, ...all, f32(2, 3, 4), i32(2, 3)].slice(
            0,
            definition.numInputs ?? 2,
          );
          let output: ValueType;
          try {
            output = definition.infer(inputs, attrs);
          } catch (error) {
            expect(error, `${op}: ${error}`).to.be.instanceOf(InvalidArgumentError);
            return;
          }
          const rows = definition.strategies(inputs, output, attrs);
          for (const row of rows) expect(row.inputs).to.have.lengthOf(inputs.length);
          definition.positions?.(inputs, output, attrs);
        },
      ),
      { numRuns: 3000, seed: 1 },
    );
  });
});
