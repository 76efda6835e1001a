import { expect } from "chai";
import { InternalError } from "../../../../shared/errors.ts";
import type { Mesh } from "../../../../shared/mesh/mesh.ts";
import { CpuBackend } from "../../../../worker/backend/cpu/cpu-backend.ts";
import { type OpCase, programOf, type Tensor } from "../../../support/conformance.ts";

const t = (...shape: number[]): Tensor => ({ shape });
const i32 = (...shape: number[]): Tensor => ({ shape, dtype: "int32" });
const MESH: Mesh = { axes: [{ name: "tensorParallel", size: 2 }] };
const words = { nameLow: 0, nameHigh: 0, seedLow: 0, seedHigh: 0 };

type Fault = readonly [title: string, op: Omit<OpCase, "title" | "tolerance">, message: string];

const update = {
  op: "adamwFromRows",
  inputs: [t(3, 4), i32(3), t(5, 4), t(5, 4), t(5, 4), i32(9)],
  outputs: [2, 3, 4],
  attrs: { rowAxes: 0, hasFactor: 0 },
} as const;

/** What a kernel would read or write outside of its operands, or get wrong. */
const FAULTS: readonly Fault[] = [
  [
    "ids that are floats",
    { op: "embedding", inputs: [t(3), t(5, 4)], outputs: [t(3, 4)], attrs: { rowAxes: 0 } },
    "input 0 is not int32",
  ],
  [
    "an embedding of too few rows",
    { op: "embedding", inputs: [i32(3), t(5, 4)], outputs: [t(2, 4)], attrs: { rowAxes: 0 } },
    "output 0 has 8 elements where 12 are needed",
  ],
  [
    "rows split by an axis that is not there",
    { op: "embedding", inputs: [i32(3), t(5, 4)], outputs: [t(3, 4)], attrs: { rowAxes: 2 } },
    "attribute rowAxes is 2, no set of the mesh's 1 axes",
  ],
  [
    "a table's gradient of other features than its tokens'",
    { op: "embeddingDw", inputs: [t(3, 4), i32(3)], outputs: [t(5, 3)], attrs: { rowAxes: 0 } },
    "input 0 has 12 elements where 9 are needed",
  ],
  [
    "a scratch too small to sort its tokens",
    { ...update, inputs: [...update.inputs.slice(0, 5), i32(8)] },
    "input 5 has 8 elements where 9 are needed",
  ],
  [
    "a scratch of floats",
    { ...update, inputs: [...update.inputs.slice(0, 5), t(9)] },
    "input 5 is not int32",
  ],
  ["a table that is not updated in place", { ...update, outputs: [t(5, 4), 3, 4] }, "same bytes"],
  [
    "a norm's scratch smaller than its tokens",
    {
      op: "sumSquaresFromRows",
      inputs: [t(3, 4), i32(3), i32(2)],
      outputs: [{ shape: [], dtype: "float64" }],
      attrs: { rowAxes: 0 },
    },
    "too small",
  ],
  [
    "more positions than their table",
    {
      op: "addPosition",
      inputs: [t(2, 3, 4), t(5, 4)],
      outputs: [0],
      attrs: { sequenceAxes: 1 },
      mesh: MESH,
    },
    "6 positions of 4 features and a table of 5 x 4",
  ],
  [
    "a gain of other features",
    { op: "rmsNorm", inputs: [t(2, 4), t(3)], outputs: [0], attrs: { eps: 1 } },
    "input 1 has 3 elements where 4 are needed",
  ],
  [
    "a gain's gradient too short",
    {
      op: "layerNormGrad",
      inputs: [t(2, 4), t(2, 4), t(4)],
      outputs: [0, t(3)],
      attrs: { eps: 1 },
    },
    "output 1 has 3 elements",
  ],
  [
    "both gradients of a gate in the same bytes",
    { op: "swigluGrad", inputs: [t(4), t(4), t(4)], outputs: [0, 0] },
    "both outputs are the same bytes",
  ],
  [
    "a transpose in place",
    { op: "transpose", inputs: [t(2, 3, 3)], outputs: [0], attrs: { a: 1, b: 2 } },
    "cannot be transposed in place",
  ],
  [
    "a dim that is not there",
    { op: "transpose", inputs: [t(2, 3, 3)], outputs: [t(2, 3, 3)], attrs: { a: 1, b: 1.5 } },
    "not both there",
  ],
  [
    "a dropout rate of 1",
    {
      op: "dropout",
      inputs: [t(4)],
      outputs: [0],
      attrs: { rate: 1, ...words, microbatches: 1, axes0: 0 },
    },
    "a rate of 1",
  ],
  [
    "a seed that is no 32-bit word",
    {
      op: "dropout",
      inputs: [t(4)],
      outputs: [0],
      attrs: { rate: 0.5, ...words, seedLow: -1, microbatches: 1, axes0: 0 },
    },
    "attribute seedLow is -1",
  ],
  [
    "no microbatch",
    {
      op: "dropout",
      inputs: [t(4)],
      outputs: [0],
      attrs: { rate: 0.5, ...words, microbatches: 0, axes0: 0 },
    },
    "0 microbatches",
  ],
];

describe("the cpu backend refuses, when a program loads,", () => {
  for (const [title, op, message] of FAULTS) {
    it(`${title}, and keeps no memory`, () => {
      const backend = new CpuBackend({ threads: 1 });
      const { program } = programOf({ ...op, title, tolerance: 0 });
      expect(() => backend.load(program, 0)).to.throw(InternalError, message);
      expect(backend.memory.currentBytes).to.equal(0);
    });
  }
});
