import { expect } from "chai";
import { CudaBackend } from "../../../../../worker/backend/cuda/cuda-backend.ts";
import { describeBackend } from "../../../../support/backend-suite.ts";
import { precisionOf } from "../../../../support/conformance.ts";
import { lookAlike } from "../../../../support/look-alike.ts";

/** Ops whose kernels for bfloat16 run on tensor cores. */
const ON_TENSOR_CORES = /^attention(?!Cached)|FromFactors$/;

// The look-alike is a Hopper; kernels for Turing run on it as on any newer chip.
process.env["RANKMESH_LOOKALIKE_CC"] = "9.0";
const driver = lookAlike();

describeBackend(
  "cuda on the look-alike, plain kernels",
  () => new CudaBackend({ maxCapability: 75 }),
);

describeBackend(
  "cuda on the look-alike, tensor cores",
  () => new CudaBackend(),
  (cases) => cases.filter((c) => precisionOf(c) === "bfloat16" && ON_TENSOR_CORES.test(c.op)),
);

describe("the cuda backend on the look-alike", () => {
  it("has given back everything after all of that", () => {
    expect(driver.leaks()).to.deep.equal([]);
  });
});
