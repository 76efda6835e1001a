import { expect } from "chai";
import { InternalError } from "../../../../shared/errors.ts";
import type { Collective } from "../../../../shared/program/program.ts";
import type { Backend } from "../../../../worker/backend/backend.ts";
import { CpuBackend } from "../../../../worker/backend/cpu/cpu-backend.ts";
import { WebAssemblyBackend } from "../../../../worker/backend/gpujs/webassembly-backend.ts";
import { ReferenceBackend } from "../../../../worker/backend/reference/reference-backend.ts";
import { type OpCase, programOf } from "../../../support/conformance.ts";
import { ADD, describeLoadedProgram } from "../../../support/loaded-program-suite.ts";

const BACKENDS: readonly (readonly [string, () => Backend])[] = [
  ["reference", () => new ReferenceBackend()],
  ["cpu", () => new CpuBackend({ threads: 2 })],
  ["gpujs in WebAssembly mode", () => new WebAssemblyBackend({ threads: 2 })],
];

for (const [title, make] of BACKENDS) describeLoadedProgram(title, make);

describe("the cpu backend", () => {
  const faults: readonly (readonly [string, OpCase])[] = [
    ["operands of different sizes", { ...ADD, inputs: [{ shape: [6] }, { shape: [7] }] }],
    ["an output too short", { ...ADD, outputs: [{ shape: [5] }] }],
    ["a missing operand", { ...ADD, inputs: [{ shape: [6] }] }],
    ["a wrong dtype", { ...ADD, inputs: [{ shape: [6] }, { shape: [6], dtype: "float64" }] }],
    ["a missing attribute", { ...ADD, op: "scale", inputs: [{ shape: [6] }] }],
    ["no such op", { ...ADD, op: "conv" }],
    [
      "a mesh axis that is not there",
      { ...ADD, op: "mask", inputs: [{ shape: [6] }], attrs: { axis: 3 } },
    ],
    [
      "factors whose rows differ",
      {
        ...ADD,
        op: "linearDw",
        inputs: [{ shape: [2, 3] }, { shape: [3, 2] }],
        outputs: [{ shape: [3, 2] }],
      },
    ],
    [
      "an update that is not in place",
      {
        ...ADD,
        op: "sgd",
        attrs: { hasFactor: 0, hasMomentum: 0 },
      },
    ],
    [
      "a scratch smaller than its tile",
      {
        ...ADD,
        op: "sgdFromFactors",
        inputs: [{ shape: [2, 3] }, { shape: [2, 2] }, { shape: [3, 2] }, { shape: [1, 2] }],
        outputs: [2],
        attrs: { hasFactor: 0, hasMomentum: 0, tileRows: 2 },
      },
    ],
  ];
  for (const [fault, op] of faults) {
    it(`refuses a program with ${fault} when it loads, and keeps no memory`, () => {
      const backend = new CpuBackend({ threads: 1 });
      expect(() => backend.load(programOf(op).program, 0)).to.throw(InternalError, op.op);
      expect(backend.memory.currentBytes).to.equal(0);
      backend.load(programOf(ADD).program, 0).dispose();
    });
  }

  it("holds one program at a time", () => {
    const backend = new CpuBackend({ threads: 1 });
    const loaded = backend.load(programOf(ADD).program, 0);
    expect(() => backend.load(programOf(ADD).program, 0)).to.throw(
      InternalError,
      "dispose it first",
    );
    loaded.dispose();
    backend.load(programOf(ADD).program, 0).dispose();
  });

  it("says threads, vectors and matrix product in its device and fingerprint", () => {
    const own = new CpuBackend({ threads: 1, blas: false });
    expect(own.device).to.match(/^own matrix product, no BLAS, 1 thread, .* with \d+-bit vectors$/);
    expect(own.fingerprint).to.not.equal(new CpuBackend({ threads: 2, blas: false }).fingerprint);
    expect(own.fingerprint).to.equal(new CpuBackend({ threads: 1, blas: false }).fingerprint);
  });

  it("lets collectives work on the arena itself", () => {
    const { program, instruction } = programOf(ADD);
    const [inputSlot = -1, outputSlot = -1] = instruction.inputs;
    const collective: Collective = {
      op: "allReduce",
      axes: [0],
      inputSlot,
      outputSlot,
      dtype: "float32",
      outer: 1,
      chunkElements: 6,
      algorithm: "direct",
      segmentBytes: 1024,
      payloadBytes: 24,
      wireBytes: 24,
      sameInputs: true,
      label: "x",
      from: "P",
      to: "R",
      phase: "forward",
    };
    const loaded = new CpuBackend({ threads: 1 }).load(
      { ...program, collectives: [collective] },
      0,
    );
    const { input, output } = loaded.collectiveOperands(0);
    const offset = (slot: number): number => program.slots[slot]?.offsetBytes ?? 0;
    expect(output - input).to.equal(BigInt(offset(outputSlot) - offset(inputSlot)));
    loaded.dispose();
  });
});
