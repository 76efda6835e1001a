import { expect } from "chai";
import { InternalError, RankmeshError } from "../../shared/errors.ts";
import type { Program } from "../../shared/program/program.ts";
import type { Backend } from "../../worker/backend/backend.ts";
import { type OpCase, programOf, scalarsOf } from "./conformance.ts";

/** A small op, for programs of which what they compute is not the matter. */
export const ADD: OpCase = {
  op: "add",
  title: "",
  inputs: [{ shape: [6] }, { shape: [6] }],
  outputs: [{ shape: [6] }],
  tolerance: 0,
};

const MIB = 1 << 20;

/** What a program does on any backend from load to dispose. */
export function describeLoadedProgram(title: string, make: () => Backend): void {
  describe(`a program loaded on the ${title} backend`, () => {
    let backend: Backend;
    beforeEach(() => {
      backend = make();
    });
    afterEach(() => backend.close());

    it("takes exactly its arena, by kind, and gives it back", () => {
      const { program } = programOf(ADD);
      const total = program.arenaBytes;
      const parts = { ...program, memoryByKind: { weights: 16, activations: total - 16 } };
      const loaded = backend.load(parts, 0);
      const { workspaceBytes } = backend;
      expect(backend.memory.currentBytes).to.equal(total + workspaceBytes);
      expect(backend.memory.byKind()).to.deep.include({ weights: 16, activations: total - 16 });
      loaded.dispose();
      expect(backend.memory.currentBytes).to.equal(workspaceBytes);
      backend.close();
      expect(backend.memory.currentBytes).to.equal(0);
      expect(backend.memory.peakBytes).to.equal(total + workspaceBytes);
    });

    it("shows 1 MiB that the backend takes beside the arena in the peak", () => {
      const { program } = programOf(ADD);
      const loaded = backend.load(program, 0);
      backend.memory.allocate("workspace", MIB);
      expect(backend.memory.peakBytes).to.equal(program.arenaBytes + backend.workspaceBytes + MIB);
      loaded.dispose();
    });

    it("is refused when its kinds of memory do not add up to its arena", () => {
      const { program } = programOf(ADD);
      const wrong = { ...program, memoryByKind: { weights: program.arenaBytes - 8 } };
      expect(() => backend.load(wrong, 0)).to.throw(InternalError, "add up to");
    });

    it("is refused with its size when the system has no such memory", () => {
      const { program } = programOf(ADD);
      const arenaBytes = 2 ** 47;
      const huge = { ...program, arenaBytes, memoryByKind: { weights: arenaBytes } };
      // A driver's calls show long numbers as it does itself.
      const size = new RegExp(`${arenaBytes}|0x${arenaBytes.toString(16)}`);
      expect(() => backend.load(huge, 0))
        .to.throw(RankmeshError, size)
        .with.property("code", "RESOURCE_EXHAUSTED");
      expect(backend.memory.peakBytes).to.equal(backend.workspaceBytes);
    });

    it("reads what was written, at offsets, and nothing past a slot", () => {
      const { program, instruction } = programOf(ADD);
      const loaded = backend.load(program, 0);
      const [slot = -1] = instruction.inputs;
      loaded.write(slot, new Uint8Array(24));
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
      const loaded = backend.load(program, 0);
      expect(() => loaded.run([{ ...instruction }], scalarsOf(ADD))).to.throw(
        InternalError,
        "no instruction",
      );
      loaded.dispose();
    });

    it("throws on every use after dispose", () => {
      const { program, instruction } = programOf(ADD);
      const loaded = backend.load(program, 0);
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
        expect(() => backend.load({ ...program, slots }, 0)).to.throw(InternalError, "slot");
        backend.close();
        expect(backend.memory.currentBytes).to.equal(0);
      });
    }
  });
}
