import { expect } from "chai";
import koffi from "koffi";
import { DeviceError, FailedPreconditionError } from "../../../../../shared/errors.ts";
import type { Collective } from "../../../../../shared/program/program.ts";
import type { LoadedProgram } from "../../../../../worker/backend/backend.ts";
import { DeviceLink } from "../../../../../worker/backend/gpujs/webgpu/device-link.ts";
import { WebGpuBackend } from "../../../../../worker/backend/gpujs/webgpu/webgpu-backend.ts";
import { describeBackend } from "../../../../support/backend-suite.ts";
import { programOf } from "../../../../support/conformance.ts";
import { ADD, describeLoadedProgram } from "../../../../support/loaded-program-suite.ts";

const ALL_REDUCE: Omit<Collective, "inputSlot" | "outputSlot"> = {
  op: "allReduce",
  axes: [0],
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

/** A backend with a program, which holds the device so that shaders are built once for all tests; or why there is none. */
function open(): { backend: WebGpuBackend; loaded: LoadedProgram } | string {
  try {
    const backend = new WebGpuBackend();
    return { backend, loaded: backend.load(programOf(ADD).program, 0) };
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
    const { backend: named, loaded: program } = held;
    after(() => {
      program.dispose();
      named.close();
    });

    it("is named with its mode and adapter", () => {
      const { name, software } = named.adapter;
      expect(named.device).to.equal(
        `gpu.js WebGPU on ${name}${software ? ", which computes on the processor" : ""}`,
      );
      expect(named.fingerprint).to.match(/^gpu\.js [\d.]+ webgpu [\d.]+; /);
    });

    it("fails with the shader's name and fault, and stays failed", () => {
      const link = new DeviceLink();
      link.addPipeline("broken", "fn main() { nothing(); }", 0);
      expect(() => link.wait()).to.throw(DeviceError, /nothing.*broken/s);
      expect(() => link.flush()).to.throw(DeviceError, "broken");
      link.close();
    });

    it("brings a collective's input to the host, and its output back", () => {
      const { program, instruction } = programOf(ADD);
      const [inputSlot = -1, outputSlot = -1] = instruction.inputs;
      const collective: Collective = { ...ALL_REDUCE, inputSlot, outputSlot };
      const [start, wait] = (["start", "wait"] as const).map((kind) => ({ kind, collective: 0 }));
      if (start === undefined || wait === undefined) throw new Error("no instructions");
      const body = [start, wait, ...program.body];
      const backend = new WebGpuBackend();
      const loaded = backend.load({ ...program, body, collectives: [collective] }, 0);
      const sent = Float32Array.of(1, 2, 3, 4, 5, 6);
      loaded.write(inputSlot, new Uint8Array(sent.buffer));
      loaded.startCollective(0);
      expect(loaded.collectiveReady(0, true)).to.equal(true);
      const { input, output } = loaded.collectiveOperands(0);
      expect([...new Float32Array(koffi.view(input, 24))]).to.deep.equal([...sent]);
      new Float32Array(koffi.view(output, 24)).set(sent.map((x) => 10 * x));
      loaded.finishCollective(0);
      const seen = new Float32Array(6);
      loaded.read(outputSlot, new Uint8Array(seen.buffer));
      expect([...seen]).to.deep.equal([10, 20, 30, 40, 50, 60]);
      loaded.dispose();
      backend.close();
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
