import { expect } from "chai";
import { FailedPreconditionError } from "../../../../../shared/errors.ts";
import { WebGpuBackend } from "../../../../../worker/backend/gpujs/webgpu/webgpu-backend.ts";
import { precisionOf, programOf, scalarsOf } from "../../../../support/conformance.ts";
import { OP_CASES } from "../../../../support/op-cases.ts";

/** A device that checks shaders, bindings and dispatches against WebGPU's least limits, and computes nothing: it needs no GPU. */
function open(): WebGpuBackend | string {
  try {
    return new WebGpuBackend(["backend=null"]);
  } catch (error) {
    if (error instanceof FailedPreconditionError) return error.message;
    throw error;
  }
}

describe("WebGPU's validation", function () {
  this.timeout(120_000);
  const backend = open();
  if (typeof backend === "string") {
    it(`needs the package webgpu (${backend})`, function () {
      this.skip();
    });
    return;
  }
  after(() => backend.close());

  const cases = OP_CASES.filter((c) => precisionOf(c) === "float32");
  for (const op of new Set(cases.map((c) => c.op))) {
    it(`finds nothing to object to in what ${op} launches`, () => {
      for (const alignment of [undefined, 256]) {
        for (const c of cases.filter((candidate) => candidate.op === op)) {
          const { program } = programOf(alignment === undefined ? c : { ...c, alignment });
          const loaded = backend.load(program, c.rank ?? 0);
          const instructions = program.body.filter(({ kind }) => kind === "compute");
          expect(instructions).to.have.length(1);
          loaded.run(instructions as Parameters<typeof loaded.run>[0], scalarsOf(c));
          loaded.synchronize();
          loaded.dispose();
        }
      }
    });
  }
});
