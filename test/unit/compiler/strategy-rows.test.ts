import { expect } from "chai";
import { copyBox } from "../../../compiler/interpret/run-program.ts";
import { opDefinition, opNames } from "../../../compiler/ops/index.ts";
import type { Attrs, ReferenceTensor, StrategyRow, ValueType } from "../../../compiler/ops/op.ts";
import { elements } from "../../../compiler/ops/shapes.ts";
import { coordinates, type Mesh, worldSize } from "../../../shared/mesh/mesh.ts";
import {
  isShard,
  localShape,
  type Placement,
  shardDim,
  shardIntervals,
} from "../../../shared/mesh/placement.ts";
import { stepScalars } from "../../../shared/optimizer/step-scalars.ts";
import { numbers } from "../../support/compile-cases.ts";
import { D, SAMPLES, type Sample, typesOf, valuesOf } from "../../support/op-samples.ts";

/** A rank's rows of a microbatch are a microbatch of its rows: the union is the same only over all microbatches. */
const notPerCall = ["takeRows", "accumulate"];

/** Sizes of the mesh axes. On two axes a row is used on both, so that they split the same dims. */
const MESHES = [[2], [3], [4], [2, 2]];

describe("strategy rows", () => {
  it("have a sample for every op that has rows", () => {
    const missing = opNames().filter(
      (op) => SAMPLES[op] === undefined && !notPerCall.includes(op) && hasRows(op),
    );
    expect(missing).to.deep.equal([]);
  });

  for (const [op, samples] of Object.entries(SAMPLES)) {
    for (const sizes of MESHES) {
      it(`of ${op} give one device's result on ${sizes.join(" x ")} ranks`, () => {
        const left = new Set<string>();
        const run = new Set<string>();
        for (const sample of samples) {
          for (const row of rowsOf(op, sample)) {
            if (!unitsDivide(op, sample, row, sizes)) {
              left.add(textOf(row));
              continue;
            }
            run.add(textOf(row));
            check(op, sample, row, sizes);
          }
        }
        expect(
          [...left].filter((row) => !run.has(row)),
          "rows that no sample's units allow",
        ).to.deep.equal([]);
        expect(run).not.to.have.lengthOf(0);
      });
    }
  }

  it("would fail if a partial result were taken for a whole one", () => {
    const [sample] = SAMPLES["linear"] ?? [];
    if (sample === undefined) throw new Error("no sample");
    expect(() => check("linear", sample, { inputs: ["S1", "S1"], output: "R" }, [2])).to.throw(
      /linear/,
    );
  });
});

const textOf = (row: StrategyRow): string => `${row.inputs.join(", ")} -> ${row.output}`;

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

function outputShape(op: string, sample: Sample): readonly number[] {
  return sample.output ?? opDefinition(op).infer(typesOf(sample), sample.attrs ?? {}).shape;
}

const outputType = (op: string, sample: Sample): ValueType => ({
  shape: outputShape(op, sample),
  dtype: "float32",
});

function rowsOf(op: string, sample: Sample): readonly StrategyRow[] {
  return opDefinition(op).strategies(typesOf(sample), outputType(op, sample), sample.attrs ?? {});
}

/** Whether every split falls between units (heads). Single elements always divide: samples are made so. */
function unitsDivide(
  op: string,
  sample: Sample,
  row: StrategyRow,
  sizes: readonly number[],
): boolean {
  const parts = sizes.reduce((product, size) => product * size, 1);
  const shapes = [...sample.inputs, outputShape(op, sample)];
  return [...row.inputs, row.output].every((placement, i) => {
    if (!isShard(placement)) return true;
    const dim = shardDim(placement);
    const k = i === row.inputs.length ? -1 : i;
    const unit = opDefinition(op).unit?.(k, dim, sample.attrs ?? {});
    return unit === undefined || ((shapes[i]?.[dim] ?? 0) / unit.size) % parts === 0;
  });
}

/** The sample's attributes, with those that tell which part a rank holds as lowering sets them. */
function placedAttrs(op: string, sample: Sample, row: StrategyRow, mesh: Mesh): Attrs {
  const attrs = sample.attrs ?? {};
  const axes = 2 ** mesh.axes.length - 1;
  const wanted = opDefinition(op).positions?.(typesOf(sample), outputType(op, sample), attrs) ?? [];
  return {
    ...attrs,
    ...Object.fromEntries(
      wanted.map(({ attr, operand, dim }) => {
        const placement = operand < 0 ? row.output : row.inputs[operand];
        return [attr, placement === `S${dim}` ? axes : 0];
      }),
    ),
  };
}

function check(op: string, sample: Sample, row: StrategyRow, sizes: readonly number[]): void {
  const mesh: Mesh = { axes: sizes.map((size, i) => ({ name: `axis${i}`, size })) };
  const ranks = worldSize(mesh);
  const layoutOf = (placement: Placement): Placement[] => sizes.map(() => placement);
  const globals = sample.inputs.map((_, i) => valuesOf(sample, i, numbers));
  const shape = outputShape(op, sample);
  const want = call(
    op,
    sample.attrs ?? {},
    globals.map((data, i) => ({ data: data.slice(), shape: sample.inputs[i] ?? [] })),
    shape,
    { mesh: { axes: [] }, rank: 0 },
  );
  const attrs = placedAttrs(op, sample, row, mesh);
  const parts = Array.from({ length: ranks }, (_, rank) => {
    const inputs = globals.map((data, i): ReferenceTensor => {
      const globalShape = sample.inputs[i] ?? [];
      const placement = row.inputs[i] ?? "R";
      return {
        data: part(data, globalShape, placement, rank),
        shape: localShape(globalShape, layoutOf(placement), mesh),
      };
    });
    return call(op, attrs, inputs, localShape(shape, layoutOf(row.output), mesh), { mesh, rank });
  });
  const text = `${op} (${textOf(row)}) of ${sample.inputs.map((s) => `[${s.join(", ")}]`).join(" ")} on ${sizes.join(" x ")} ranks`;
  const got = row.output === "L" ? merged() : gathered();
  const wrong = want.findIndex(
    (x, i) => !(Math.abs((got[i] ?? Number.NaN) - x) <= 1e-9 * Math.max(1, Math.abs(x))),
  );
  if (wrong >= 0)
    expect.fail(`${text}: element ${wrong} is ${got[wrong]}, one device has ${want[wrong]}`);

  function gathered(): Float64Array {
    const whole = new Float64Array(want.length);
    for (const [rank, local] of parts.entries()) {
      if (row.output === "P") {
        for (const [i, x] of local.entries()) whole[i] = (whole[i] ?? 0) + x;
        continue;
      }
      const box = shardIntervals(shape, layoutOf(row.output), mesh, rank);
      // Replicas must agree with one another, not only the last of them with one device.
      if (row.output === "R" && rank > 0) expect([...local], text).to.deep.equal([...whole]);
      copyBox(whole, shape, box, local, true);
    }
    return whole;
  }

  /** Statistics of the ranks' classes, merged as redistribution to R does. */
  function merged(): Float64Array {
    const blocks = new Float64Array(ranks * want.length);
    for (const [rank, local] of parts.entries()) blocks.set(local, rank * want.length);
    const input = { data: blocks, shape: [ranks, ...shape] };
    return call("ceMerge", attrs, [input], shape, { mesh, rank: 0 });
  }

  /** A rank's part of a tensor; a partial one is cut into unlike summands. */
  function part(
    data: Float64Array,
    globalShape: readonly number[],
    placement: Placement,
    rank: number,
  ): Float64Array {
    if (placement === "P") return data.map((x) => (x * (2 * rank + 1)) / ranks ** 2);
    const layout = layoutOf(placement);
    const local = new Float64Array(elements(localShape(globalShape, layout, mesh)));
    copyBox(data, globalShape, shardIntervals(globalShape, layout, mesh, rank), local, false);
    return local;
  }
}

function call(
  op: string,
  attrs: Attrs,
  inputs: readonly ReferenceTensor[],
  shape: readonly number[],
  { mesh, rank }: { mesh: Mesh; rank: number },
): Float64Array {
  const definition = opDefinition(op);
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
    mesh,
    coordinates: mesh.axes.length === 0 ? [] : coordinates(mesh, rank),
  });
  return output;
}
