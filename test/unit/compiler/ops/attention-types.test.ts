import { expect } from "chai";
import { opDefinition } from "../../../../compiler/ops/index.ts";
import type { Attrs, ValueType } from "../../../../compiler/ops/op.ts";
import { ropeFrequencies } from "../../../../compiler/ops/rope-frequencies.ts";
import { InvalidArgumentError } from "../../../../shared/errors.ts";

const f = (...shape: number[]): ValueType => ({ shape, dtype: "float32" });
const i = (...shape: number[]): ValueType => ({ shape, dtype: "int32" });
const infer = (op: string, inputs: readonly ValueType[], attrs: Attrs): readonly number[] =>
  opDefinition(op).infer(inputs, attrs).shape;

const rotation = { headDim: 4, theta: 10000, inverse: 0 };
const scaling = { factor: 8, lowFrequency: 1, highFrequency: 4, originalLength: 8192 };
const heads = { heads: 8, kvHeads: 4, headDim: 4, causal: 1 };
const [q, k] = [f(2, 5, 32), f(2, 5, 16)];

const REFUSED: readonly (readonly [
  op: string,
  what: string,
  inputs: readonly ValueType[],
  attrs: Attrs,
  message: RegExp,
])[] = [
  ["rope", "no head size", [f(2, 3, 8)], { theta: 1e4, inverse: 0 }, /headDim .* got undefined/],
  [
    "rope",
    "an odd head size",
    [f(2, 3, 9)],
    { ...rotation, headDim: 3 },
    /headDim must be even.*3/,
  ],
  ["rope", "a huge head", [f(2, 3, 8)], { ...rotation, headDim: 2 ** 40 }, /headDim .* from 2 to/],
  [
    "rope",
    "a theta below 1",
    [f(2, 3, 8)],
    { ...rotation, theta: 0 },
    /theta .* at least 1, got 0/,
  ],
  [
    "rope",
    "an endless theta",
    [f(2, 3, 8)],
    { ...rotation, theta: Number.POSITIVE_INFINITY },
    /theta .* Infinity/,
  ],
  ["rope", "half a scaling", [f(2, 3, 8)], { ...rotation, factor: 8 }, /factor without lowFreq/],
  [
    "rope",
    "a scaling upside down",
    [f(2, 3, 8)],
    { ...rotation, ...scaling, highFrequency: 1 },
    /highFrequency must be above lowFrequency/,
  ],
  ["rope", "half a head", [f(2, 3, 6)], rotation, /6 features of \[2, 3, 6\].*heads of 4/],
  ["rope", "two dims", [f(3, 8)], rotation, /\[batch, tokens, features\], got float32 \[3, 8\]/],
  ["rope", "ids", [i(2, 3, 8)], rotation, /got int32/],
  ["rope", "a direction of its own", [f(2, 3, 8)], { ...rotation, inverse: 2 }, /inverse .* got 2/],
  ["attention", "no heads", [q, k, k], { ...heads, heads: 0 }, /heads .* at least 1, got 0/],
  ["attention", "a part of a head", [q, k, k], { ...heads, heads: 1.5 }, /heads .* got 1.5/],
  ["attention", "no number", [q, k, k], { ...heads, kvHeads: Number.NaN }, /kvHeads .* got NaN/],
  [
    "attention",
    "unequal groups",
    [q, k, k],
    { ...heads, kvHeads: 3 },
    /8 heads are no multiple of 3/,
  ],
  ["attention", "a huge head", [q, k, k], { ...heads, headDim: 1024 }, /headDim .* from 1 to 512/],
  ["attention", "other causality", [q, k, k], { ...heads, causal: 7 }, /causal .* got 7/],
  ["attention", "too many heads", [f(2, 5, 64), k, k], heads, /64 features of q .* 8 heads of 4/],
  ["attention", "no features", [f(2, 5, 0), k, k], heads, /0 features of q/],
  [
    "attention",
    "other tokens",
    [q, f(2, 6, 16), k],
    heads,
    /tokens of k \[2, 6, 16\].*q \[2, 5, 32\]/,
  ],
  ["attention", "other values", [q, k, f(1, 5, 16)], heads, /of v \[1, 5, 16\]/],
  [
    "attention",
    "keys cut where queries are whole",
    [q, f(2, 5, 8), k],
    heads,
    /k \[2, 5, 8\] 1\/2 of 4/,
  ],
  ["attention", "four dims", [f(2, 5, 8, 4), k, k], heads, /q must be float32 \[batch/],
  ["attention", "ids for keys", [q, i(2, 5, 16), k], heads, /k must be float32 .* got int32/],
  ["attentionDq", "other statistics", [q, q, k, k, q, f(2, 5, 4)], heads, /\[2, 5, 8\] are needed/],
  ["attentionDk", "another output", [q, q, k, k, k, f(2, 5, 8)], heads, /o \[2, 5, 16\] must be/],
  [
    "ceStats",
    "float targets",
    [f(4, 9), f(4)],
    { classes: 9 },
    /int32 targets, got float32 and float32/,
  ],
  ["ceStats", "targets of other rows", [f(4, 9), i(3)], { classes: 9 }, /\[4, 9\].*targets \[3\]/],
  ["ceStats", "no classes", [f(4, 0), i(4)], { classes: 0 }, /logits \[4, 0\]/],
  ["ceStats", "a scalar", [f(), i()], { classes: 1 }, /logits \[\]/],
  ["ceGrad", "other targets", [f(), f(4, 9), i(4, 9), f(4, 3)], { classes: 9 }, /targets \[4, 9\]/],
];

describe("types of attention and cross-entropy", () => {
  for (const [op, what, inputs, attrs, message] of REFUSED) {
    it(`${op} refuses ${what}, and says what is wrong`, () => {
      expect(() => infer(op, inputs, attrs)).to.throw(InvalidArgumentError, message);
    });
  }

  it("are the same for all heads and for a rank's", () => {
    expect(infer("attention", [q, k, k], heads)).to.deep.equal([2, 5, 32]);
    expect(infer("attention", [f(2, 5, 8), f(2, 5, 4), f(2, 5, 4)], heads)).to.deep.equal([
      2, 5, 8,
    ]);
    // Queries split, keys whole.
    expect(infer("attention", [f(2, 5, 4), k, k], heads)).to.deep.equal([2, 5, 4]);
    expect(infer("attentionStats", [q, k], heads)).to.deep.equal([2, 5, 8]);
    expect(infer("attentionStats", [f(2, 5, 16), k], heads)).to.deep.equal([2, 5, 4]);
    expect(infer("ceStats", [f(2, 5, 9), i(2, 5)], { classes: 9 })).to.deep.equal([2, 5, 3]);
    expect(infer("ceMerge", [f(4, 2, 5, 3)], {})).to.deep.equal([2, 5, 3]);
  });
});

describe("frequencies of rotary embedding", () => {
  it("are those that PyTorch computes for Llama 3.1, to the last bit", () => {
    const plain = ropeFrequencies({ headDim: 128, theta: 500000 });
    const slowed = ropeFrequencies({ headDim: 128, theta: 500000, ...scaling });
    for (const [pair, values] of PYTORCH) {
      expect([plain[pair], slowed[pair]], `pair ${pair}`).to.deep.equal(values.map(Math.fround));
    }
  });
});

/** Pair, its frequency, and its frequency slowed down: short, middle and long wavelengths. */
const PYTORCH: readonly (readonly [pair: number, frequencies: readonly number[]])[] = [
  [0, [1.0, 1.0]],
  [1, [0.814617217, 0.814617217]],
  [20, [0.0165604409, 0.0165604409]],
  [29, [0.00261609908, 0.00216657063]],
  [31, [0.00173604675, 0.00085675146]],
  [34, [0.000938473851, 0.000178507791]],
  [40, [0.000274248188, 3.42810235e-5]],
  [63, [2.4551407e-6, 3.06892588e-7]],
];
