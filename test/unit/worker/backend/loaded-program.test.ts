import { expect } from "chai";
import { InternalError, ResourceExhaustedError } from "../../../../shared/errors.ts";
import type { Collective, Program } from "../../../../shared/program/program.ts";
import type { Backend } from "../../../../worker/backend/backend.ts";
import { CpuBackend } from "../../../../worker/backend/cpu/cpu-backend.ts";
import { WebAssemblyBackend } from "../../../../worker/backend/gpujs/webassembly-backend.ts";
import { ReferenceBackend } from "../../../../worker/backend/reference/reference-backend.ts";
import { type OpCase, programOf, scalarsOf } from "../../../support/conformance.ts";

const BACKENDS: readonly (readonly [string, () => Backend])[] = [
  ["reference", () => new ReferenceBackend()],
  ["cpu", () => new CpuBackend({ threads: 2 })],
  ["gpujs in WebAssembly mode", () => new WebAssemblyBackend({ threads: 2 })],
];

const ADD: OpCase = {
  op: "add",
  title: "",
  inputs: [{ shape: [6] }, { shape: [6] }],
  outputs: [{ shape: [6] }],
  tolerance: 0,
};

const MIB = 1 << 20;

for (const [title, make] of BACKENDS) {
  describe(`a program loaded on the ${title} backend`, () => {
    it("takes exactly its arena, by kind, and gives it back", () => {
      const backend = make();
      const { program } = programOf(ADD);
      const total = program.arenaBytes;
      const parts = { ...program, memoryByKind: { weights: 16, activations: total - 16 } };
      const loaded = backend.load(parts, 0);
      expect(backend.memory.currentBytes).to.equal(total);
      expect(backend.memory.byKind()).to.deep.equal({ weights: 16, activations: total - 16 });
      loaded.dispose();
      expect(backend.memory.currentBytes).to.equal(0);
      expect(backend.memory.peakBytes).to.equal(total);
    });

    it("shows 1 MiB that the backend takes beside the arena in the peak", () => {
      const backend = make();
      const { program } = programOf(ADD);
      const loaded = backend.load(program, 0);
      backend.memory.allocate("workspace", MIB);
      expect(backend.memory.peakBytes).to.equal(program.arenaBytes + MIB);
      loaded.dispose();
    });

    it("is refused when its kinds of memory do not add up to its arena", () => {
      const { program } = programOf(ADD);
      const wrong = { ...program, memoryByKind: { weights: program.arenaBytes - 8 } };
      expect(() => make().load(wrong, 0)).to.throw(InternalError, "add up to");
    });

    it("is refused with its size when the system has no such memory", () => {
      const { program } = programOf(ADD);
      const arenaBytes = 2 ** 47;
      const huge = { ...program, arenaBytes, memoryByKind: { weights: arenaBytes } };
      const backend = make();
      expect(() => backend.load(huge, 0)).to.throw(ResourceExhaustedError, String(arenaBytes));
      expect(backend.memory.peakBytes).to.equal(0);
    });

    it("reads what was written, at offsets, and nothing past a slot", () => {
      const { program, instruction } = programOf(ADD);
      const loaded = make().load(program, 0);
      const [slot = -1] = instruction.inputs;
      loaded.write(slot, new Uint8Array([1, 2, 3, 4]), 8);
      const seen = new Uint8Array(4);
      loaded.read(slot, seen, 9);
      expect([...seen]).to.deep.equal([2, 3, 4, 0]);
      expect(() => loaded.write(slot, seen, 21)).to.throw(
        InternalError,
        "bytes [21, 25) of a slot of 24",
      );
      expect(() => loaded.read(slot, seen, -1)).to.throw(InternalError);
      expect(() => loaded.read(99, seen)).to.throw(InternalError, "no slot 99");
      loaded.dispose();
    });

    it("runs only instructions of its own", () => {
      const { program, instruction } = programOf(ADD);
      const loaded = make().load(program, 0);
      expect(() => loaded.run([{ ...instruction }], scalarsOf(ADD))).to.throw(
        InternalError,
        "no instruction",
      );
      loaded.dispose();
    });

    it("throws on every use after dispose", () => {
      const { program, instruction } = programOf(ADD);
      const loaded = make().load(program, 0);
      loaded.dispose();
      const uses: (() => unknown)[] = [
        () => loaded.run([instruction], scalarsOf(ADD)),
        () => loaded.read(0, new Uint8Array(4)),
        () => loaded.write(0, new Uint8Array(4)),
        () => loaded.startCollective(0),
        () => loaded.synchronize(),
        () => loaded.dispose(),
      ];
      for (const use of uses) expect(use).to.throw(InternalError, "after dispose");
    });

    const slotFaults: readonly (readonly [string, Partial<Program["slots"][number]>])[] = [
      ["outside of the arena", { offsetBytes: 1 << 20 }],
      ["too small for its shape", { sizeBytes: 4 }],
      ["not aligned to its element", { offsetBytes: 2 }],
    ];
    for (const [fault, change] of slotFaults) {
      it(`is refused with a slot that is ${fault}`, () => {
        const { program, instruction } = programOf(ADD);
        const slots = program.slots.map((slot, i) =>
          i === instruction.inputs[0] ? { ...slot, ...change } : slot,
        );
        const backend = make();
        expect(() => backend.load({ ...program, slots }, 0)).to.throw(InternalError, "slot");
        expect(backend.memory.currentBytes).to.equal(0);
      });
    }
  });
}

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
