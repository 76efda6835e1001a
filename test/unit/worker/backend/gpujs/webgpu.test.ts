import { expect } from "chai";
import { DeviceError, FailedPreconditionError } from "../../../../../shared/errors.ts";
import { DeviceLink } from "../../../../../worker/backend/gpujs/webgpu/device-link.ts";
import { WebGpuBackend } from "../../../../../worker/backend/gpujs/webgpu/webgpu-backend.ts";
import { describeBackend } from "../../../../support/backend-suite.ts";
import { describeLoadedProgram } from "../../../../support/loaded-program-suite.ts";

/** Holds the device, so that shaders are built once for all tests; or says why there is none. */
function open(): WebGpuBackend | string {
  try {
    return new WebGpuBackend();
  } catch (error) {
    if (error instanceof FailedPreconditionError) return error.message;
    throw error;
  }
}

const held = open();

if (typeof held === "string") {
  describe("backend gpujs on WebGPU", () => {
    it(`runs where an adapter answers (${held})`, function () {
      this.skip();
    });
  });
} else {
  describeBackend("gpujs on WebGPU", () => new WebGpuBackend());
  describeLoadedProgram("gpujs on WebGPU", () => new WebGpuBackend());

  describe("a WebGPU device", () => {
    after(() => held.close());

    it("is named with its mode and adapter", () => {
      expect(held.device).to.equal(
        `gpu.js WebGPU on ${held.adapter.name}${held.adapter.software ? ", which computes on the processor" : ""}`,
      );
      expect(held.fingerprint).to.match(/^gpu\.js [\d.]+ webgpu [\d.]+; /);
    });

    it("fails with the shader's name and fault, and stays failed", () => {
      const link = new DeviceLink();
      link.addPipeline("broken", "fn main() { nothing(); }", 0);
      expect(() => link.wait()).to.throw(DeviceError, /nothing.*broken/s);
      expect(() => link.flush()).to.throw(DeviceError, "broken");
      link.close();
    });

    it("gives back what a buffer took, and refuses one that is larger than it can be", () => {
      const link = new DeviceLink();
      link.destroyBuffer(link.addBuffer("small", 64));
      const bytes = 4 * Math.ceil(link.adapter.maxBufferBytes / 4) + 4;
      expect(() => link.addBuffer("large", bytes)).to.throw(/large|exceeds|maximum/);
      link.close();
    });
  });
}
