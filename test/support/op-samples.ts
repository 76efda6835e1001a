// Operands on which every strategy row of every op is run, split over ranks and whole.
import type { Attrs, ValueType } from "../../compiler/ops/op.ts";
import { elements } from "../../compiler/ops/shapes.ts";
import { ATTENTION_SAMPLES } from "./op-samples-attention.ts";
import { MODEL_SAMPLES } from "./op-samples-model.ts";

export interface Sample {
  /** Shapes of the operands; every dim that a row splits divides by 2, 3 and 4. Values are positive floats. */
  readonly inputs: readonly (readonly number[])[];
  /** Shape of the output, for ops that do not infer it. */
  readonly output?: readonly number[];
  readonly attrs?: Attrs;
  /** Operands that hold int32 numbers from -1 up to one past the limit given here: index -> limit. */
  readonly ids?: Readonly<Record<number, number>>;
  /** Values that make sense where positive floats do not. Operand -> value of element i. */
  readonly values?: Readonly<Record<number, (i: number) => number>>;
}

/** Divides by 2, 3 and 4. */
export const D = 12;

const pair: Sample = {
  inputs: [
    [D, 24],
    [D, 24],
  ],
};
const ACTIVATIONS = ["silu", "relu", "gelu", "geluTanh", "tanh", "sigmoid"];

/** Samples of every op that has strategies. */
export const SAMPLES: Readonly<Record<string, readonly Sample[]>> = {
  linear: [
    {
      inputs: [
        [D, 24],
        [36, 24],
      ],
    },
    {
      inputs: [
        [D, 24, 12],
        [24, 12],
      ],
    },
  ],
  linearDx: [
    {
      inputs: [
        [D, 24],
        [24, 36],
      ],
    },
    {
      inputs: [
        [D, 12, 24],
        [24, 12],
      ],
    },
  ],
  linearDw: [
    {
      inputs: [
        [D, 24],
        [D, 36],
      ],
    },
    {
      inputs: [
        [D, 12, 24],
        [D, 12, 36],
      ],
    },
  ],
  bias: [{ inputs: [[D, 24], [24]] }, { inputs: [[D, 12, 24], [24]] }],
  biasDb: [{ inputs: [[D, 24]] }, { inputs: [[D, 12, 24]] }],
  ...Object.fromEntries([...ACTIVATIONS, "identity"].map((op) => [op, [{ inputs: [[D, 24]] }]])),
  ...Object.fromEntries(ACTIVATIONS.map((op) => [`${op}Grad`, [pair]])),
  ...Object.fromEntries(["mul", "add", "sub"].map((op) => [op, [pair]])),
  addN: [
    {
      inputs: [
        [D, 24],
        [D, 24],
        [D, 24],
      ],
    },
  ],
  scale: [{ inputs: [[D, 24]], attrs: { factor: 0.3 } }],
  cast: [{ inputs: [[D, 24]], attrs: { to: 1 } }],
  sum: [{ inputs: [[D, 24]] }],
  mean: [{ inputs: [[D, 24]], attrs: { count: D * 24 } }],
  mseLoss: [{ ...pair, attrs: { count: D * 24 } }],
  mseLossGrad: [{ inputs: [[], [D, 24], [D, 24]], attrs: { count: D * 24 } }],
  broadcast: [{ inputs: [[]], output: [D, 24], attrs: { factor: 0.5 } }],
  fill: [{ inputs: [], output: [D, 24], attrs: { value: 3 } }],
  sumSquares: [{ inputs: [[D, 24]] }],
  sqrt: [{ inputs: [[]] }],
  clipFactor: [{ inputs: [[]], attrs: { maxNorm: 0.2 } }],
  adamw: [{ inputs: [[D, 24], [D, 24], [D, 24], [D, 24], []], attrs: { hasFactor: 1 } }],
  sgd: [
    {
      inputs: [
        [D, 24],
        [D, 24],
        [D, 24],
      ],
      attrs: { hasFactor: 0, hasMomentum: 1 },
    },
  ],
  sampleToken: [
    { inputs: [[1, 1, D]], attrs: { temperature: 1, topK: 5, seedLow: 1, seedHigh: 2 } },
  ],
  ...MODEL_SAMPLES,
  ...ATTENTION_SAMPLES,
};

export function typesOf(sample: Sample): ValueType[] {
  return sample.inputs.map((shape, i) => ({
    shape,
    dtype: sample.ids?.[i] === undefined ? "float32" : "int32",
  }));
}

/** Values of operand `index`, `random` giving numbers on [-1, 1). */
export function valuesOf(
  sample: Sample,
  index: number,
  random: (count: number, seed: number) => Float64Array,
): Float64Array {
  const own = sample.values?.[index];
  const count = elements(sample.inputs[index] ?? []);
  if (own !== undefined) return Float64Array.from({ length: count }, (_, i) => own(i));
  const drawn = random(count, 7 + index);
  const limit = sample.ids?.[index];
  if (limit === undefined) return drawn.map((x) => Math.abs(x) + 0.1);
  return drawn.map((x) => Math.floor(((x + 1) / 2) * (limit + 2)) - 1);
}
