import { expect } from "chai";
import { opDefinition } from "../../../../compiler/ops/index.ts";
import type { Attrs } from "../../../../compiler/ops/op.ts";
import { elements } from "../../../../compiler/ops/shapes.ts";
import { coordinates, type Mesh, worldSize } from "../../../../shared/mesh/mesh.ts";
import { stepScalars } from "../../../../shared/optimizer/step-scalars.ts";

const ATTRS: Attrs = { rate: 0.25, nameLow: 11, nameHigh: 12, seedLow: 13, seedHigh: 14 };
const ONE: Mesh = { axes: [] };

interface Call {
  readonly shape: readonly number[];
  readonly attrs?: Attrs;
  readonly step?: number;
  readonly microbatch?: number;
  readonly mesh?: Mesh;
  readonly rank?: number;
}

/** Dropout of ones. */
function drop({ shape, attrs, step, microbatch, mesh, rank }: Call): number[] {
  const [x, y] = [new Float64Array(elements(shape)).fill(1), new Float64Array(elements(shape))];
  const optimizer = { kind: "sgd", lr: 1, momentum: 0 } as const;
  opDefinition("dropout").reference({
    inputs: [{ data: x, shape }],
    outputs: [{ data: y, shape }],
    attrs: { ...ATTRS, ...attrs },
    scalars: stepScalars(optimizer, { kind: "constant" }, step ?? 0, microbatch ?? 0),
    mesh: mesh ?? ONE,
    coordinates: mesh === undefined ? [] : coordinates(mesh, rank ?? 0),
  });
  return [...y];
}

describe("dropout", () => {
  it("drops its share of the elements and keeps the mean", () => {
    const y = drop({ shape: [100, 1000] });
    const dropped = y.filter((x) => x === 0).length;
    // Five standard deviations of 100000 draws.
    expect(dropped / y.length).to.be.closeTo(0.25, 5 * Math.sqrt((0.25 * 0.75) / y.length));
    expect(new Set(y)).to.deep.equal(new Set([0, Math.fround(1 / 0.75)]));
  });

  it("drops other elements in another step, under another seed and in another layer", () => {
    const shape = [4, 50];
    const first = drop({ shape });
    for (const other of [
      { step: 1 },
      { attrs: { seedLow: 0 } },
      { attrs: { seedHigh: 0 } },
      { attrs: { nameLow: 0 } },
      { attrs: { nameHigh: 0 } },
    ]) {
      expect(drop({ shape, ...other }), JSON.stringify(other)).not.to.deep.equal(first);
    }
    expect(drop({ shape })).to.deep.equal(first);
  });

  for (const microbatches of [2, 3]) {
    for (const ranks of [1, 2]) {
      it(`drops the same elements in ${microbatches} microbatches on ${ranks} ranks as at once`, () => {
        const [rows, features] = [12, 7];
        const mesh: Mesh = { axes: [{ name: "dataParallel", size: ranks }] };
        const shape = [rows / ranks / microbatches, features];
        const attrs = { microbatches, axes0: ranks === 1 ? 0 : 1 };
        // A rank's rows are consecutive, and so are a microbatch's among them.
        const parts = Array.from({ length: worldSize(mesh) }, (_, rank) =>
          Array.from({ length: microbatches }, (__, microbatch) =>
            drop({ shape, attrs, microbatch, mesh, rank }),
          ),
        );
        expect(parts.flat(2)).to.deep.equal(drop({ shape: [rows, features] }));
      });
    }
  }

  it("copies at rate 0", () => {
    expect(drop({ shape: [3, 5], attrs: { rate: 0 } })).to.deep.equal(new Array(15).fill(1));
  });
});
