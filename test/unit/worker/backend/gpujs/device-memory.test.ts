import { expect } from "chai";
import { ResourceExhaustedError } from "../../../../../shared/errors.ts";
import type { Slot } from "../../../../../shared/program/program.ts";
import { cutArena } from "../../../../../worker/backend/gpujs/webgpu/device-memory.ts";

const slot = (offsetBytes: number, sizeBytes: number): Slot => ({
  name: `slot at ${offsetBytes}`,
  dtype: "float32",
  shape: [sizeBytes / 4],
  offsetBytes,
  sizeBytes,
});
const program = (arenaBytes: number, ...slots: Slot[]) => ({ name: "p", arenaBytes, slots });

describe("an arena in several buffers", () => {
  it("is one buffer where that holds it", () => {
    expect(cutArena(program(4096, slot(0, 4096)), 4096)).to.deep.equal([4096]);
  });

  it("is cut where no slot is cut, as late as can be", () => {
    const slots = [slot(0, 1024), slot(1024, 2048), slot(3072, 1024), slot(4096, 512)];
    expect(cutArena(program(4608, ...slots), 2048)).to.deep.equal([1024, 3072, 4608]);
    expect(cutArena(program(4608, ...slots), 3500)).to.deep.equal([3072, 4608]);
  });

  it("is cut at multiples of 256 bytes where nothing lies", () => {
    expect(cutArena(program(3000), 1300)).to.deep.equal([1280, 2560, 3000]);
  });

  it("is cut before slots that overlay one another", () => {
    const slots = [slot(0, 512), slot(512, 1024), slot(1024, 1024)];
    expect(cutArena(program(2048, ...slots), 1536)).to.deep.equal([512, 2048]);
  });

  it("is refused where overlaid slots leave no place to cut, and where it takes too many buffers", () => {
    const slots = [slot(0, 1024), slot(512, 1024), slot(1024, 1024)];
    expect(() => cutArena(program(2048, ...slots), 1280)).to.throw(
      ResourceExhaustedError,
      "1280 bytes from 0 on cannot be cut off; use more ranks",
    );
    expect(() => cutArena(program(2 ** 40), 2 ** 32)).to.throw(
      ResourceExhaustedError,
      `needs ${2 ** 40} bytes, 16 buffers hold ${2 ** 32} each`,
    );
  });
});
