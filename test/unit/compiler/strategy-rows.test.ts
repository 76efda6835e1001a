import { expect } from "chai";
import { copyBox } from "../../../compiler/interpret/run-program.ts";
import { opDefinition, opNames } from "../../../compiler/ops/index.ts";
import type { Attrs, ReferenceTensor, StrategyRow, ValueType } from "../../../compiler/ops/op.ts";
import { elements } from "../../../compiler/ops/shapes.ts";
import { localShape, type Placement, shardIntervals } from "../../../shared/mesh/placement.ts";
import { stepScalars } from "../../../shared/optimizer/step-scalars.ts";
import { numbers } from "../../support/compile-cases.ts";

interface Sample {
  readonly inputs: readonly (readonly number[])[];
  readonly output?: readonly number[];
  readonly attrs?: Attrs;
}

const D = 12; // divides by 2, 3 and 4
/** Operand shapes for every op that has strategies; dims all divide by the mesh sizes tried. */
const samples: Readonly<Record<string, readonly Sample[]>> = {
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
  ...Object.fromEntries(
    ["silu", "relu", "gelu", "tanh", "sigmoid", "identity"].map((op) => [
      op,
      [{ inputs: [[D, 24]] }],
    ]),
  ),
  ...Object.fromEntries(
    ["silu", "relu", "gelu", "tanh", "sigmoid"].map((op) => [
      `${op}Grad`,
      [
        {
          inputs: [
            [D, 24],
            [D, 24],
          ],
        },
      ],
    ]),
  ),
  ...Object.fromEntries(
    ["mul", "add", "sub"].map((op) => [
      op,
      [
        {
          inputs: [
            [D, 24],
            [D, 24],
          ],
        },
      ],
    ]),
  ),
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
  sum: [{ inputs: [[D, 24]] }],
  mean: [{ inputs: [[D, 24]], attrs: { count: D * 24 } }],
  mseLoss: [
    {
      inputs: [
        [D, 24],
        [D, 24],
      ],
      attrs: { count: D * 24 },
    },
  ],
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
};

/** A rank's rows of a microbatch are a microbatch of its rows: the union is the same only over all microbatches. */
const notPerCall = ["takeRows", "accumulate"];

describe("strategy rows", () => {
  it("have a sample for every op that has rows", () => {
    const missing = opNames().filter(
      (op) => samples[op] === undefined && !notPerCall.includes(op) && hasRows(op),
    );
    expect(missing).to.deep.equal([]);
  });

  for (const [op, list] of Object.entries(samples)) {
    for (const size of [2, 3, 4]) {
      it(`of ${op} give one device's result on ${size} ranks`, () => {
        for (const sample of list)
          for (const row of rowsOf(op, sample)) check(op, sample, row, size);
      });
    }
  }

  it("would fail if a partial result were taken for a whole one", () => {
    const [sample] = samples["linear"] ?? [];
    if (sample === undefined) throw new Error("no sample");
    expect(() => check("linear", sample, { inputs: ["S1", "S1"], output: "R" }, 2)).to.throw(
      /linear/,
    );
  });
});

function hasRows(op: string): boolean {
  try {
    const type: ValueType = { shape: [D, 24], dtype: "float32" };
    return (
      opDefinition(op).strategies([type, type, type, type], type, { hasMomentum: 0, hasFactor: 0 })
        .length > 0
    );
  } catch {
    return true;
  }
}

const typesOf = (sample: Sample): ValueType[] =>
  sample.inputs.map((shape) => ({ shape, dtype: "float32" }));

function outputShape(op: string, sample: Sample): readonly number[] {
  return sample.output ?? opDefinition(op).infer(typesOf(sample), sample.attrs ?? {}).shape;
}

function rowsOf(op: string, sample: Sample): readonly StrategyRow[] {
  return opDefinition(op).strategies(
    typesOf(sample),
    { shape: outputShape(op, sample), dtype: "float32" },
    sample.attrs ?? {},
  );
}

function check(op: string, sample: Sample, row: StrategyRow, size: number): void {
  const mesh = { axes: [{ name: "a", size }] };
  const globals = sample.inputs.map((shape, i) =>
    numbers(elements(shape), 7 + i).map((x) => Math.abs(x) + 0.1),
  );
  const shape = outputShape(op, sample);
  const want = call(
    op,
    sample,
    globals.map((data, i) => ({ data: data.slice(), shape: sample.inputs[i] ?? [] })),
    shape,
  );
  const parts = Array.from({ length: size }, (_, rank) => {
    const inputs = globals.map((data, i): ReferenceTensor => {
      const globalShape = sample.inputs[i] ?? [];
      return {
        data: part(data, globalShape, row.inputs[i] ?? "R", rank),
        shape: localShape(globalShape, [row.inputs[i] ?? "R"], mesh),
      };
    });
    return call(op, sample, inputs, localShape(shape, [row.output], mesh));
  });
  const got = new Float64Array(want.length);
  for (const [rank, local] of parts.entries()) {
    if (row.output !== "P")
      copyBox(got, shape, shardIntervals(shape, [row.output], mesh, rank), local, true);
    else for (const [i, x] of local.entries()) got[i] = (got[i] ?? 0) + x;
  }
  const text = `${op} (${row.inputs.join(", ")} -> ${row.output}) on ${size} ranks`;
  const wrong = want.findIndex(
    (x, i) => !(Math.abs((got[i] ?? Number.NaN) - x) <= 1e-9 * Math.max(1, Math.abs(x))),
  );
  if (wrong >= 0)
    expect.fail(`${text}: element ${wrong} is ${got[wrong]}, one device has ${want[wrong]}`);

  /** A rank's part of a tensor; a partial one is cut into unlike summands. */
  function part(
    data: Float64Array,
    globalShape: readonly number[],
    placement: Placement,
    rank: number,
  ): Float64Array {
    if (placement === "P") return data.map((x) => (x * (2 * rank + 1)) / size ** 2);
    const local = new Float64Array(elements(localShape(globalShape, [placement], mesh)));
    copyBox(data, globalShape, shardIntervals(globalShape, [placement], mesh, rank), local, false);
    return local;
  }
}

function call(
  op: string,
  sample: Sample,
  inputs: readonly ReferenceTensor[],
  shape: readonly number[],
): Float64Array {
  const definition = opDefinition(op);
  const attrs = sample.attrs ?? {};
  const taken = definition.inPlace === undefined ? undefined : inputs[definition.inPlace];
  const output = (taken?.data ?? new Float64Array(elements(shape))) as Float64Array;
  definition.reference({
    inputs,
    outputs: [
      { data: output, shape },
      ...(definition.alsoWrites?.(attrs) ?? []).map((i) => inputs[i] ?? { data: output, shape }),
    ],
    attrs,
    scalars: stepScalars(
      { kind: "adamw", lr: 0.01, betas: [0.9, 0.999], eps: 1e-8, weightDecay: 0.1 },
      { kind: "constant" },
      0,
    ),
    mesh: { axes: [] },
    coordinates: [],
  });
  return output;
}
