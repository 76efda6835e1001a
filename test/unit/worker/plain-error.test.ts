import { expect } from "chai";
import {
  DataLossError,
  DeviceError,
  FailedPreconditionError,
  InternalError,
  InvalidArgumentError,
  PeerError,
  ResourceExhaustedError,
  UnavailableError,
} from "../../../shared/errors.ts";
import { fromPlainError, toPlainError } from "../../../worker/compute/plain-error.ts";

/** As it comes out at the other thread. */
function crossed(error: unknown): Error {
  return fromPlainError(structuredClone(toPlainError(error)));
}

describe("an error that crosses threads", () => {
  for (const error of [
    new InvalidArgumentError("a"),
    new FailedPreconditionError("b"),
    new ResourceExhaustedError("c"),
    new DataLossError("d"),
    new UnavailableError("e"),
    new InternalError("f"),
  ]) {
    it(`is a ${error.name} on the other side, with its text and stack`, () => {
      const other = crossed(error);
      expect(other).to.be.instanceOf(error.constructor);
      expect([other.message, other.stack]).to.deep.equal([error.message, error.stack]);
    });
  }

  for (const [code, fatal] of [
    ["UNAVAILABLE", true],
    ["UNAVAILABLE", false],
    ["RESOURCE_EXHAUSTED", false],
  ] as const) {
    it(`keeps call and status of a device's ${code}, ${fatal ? "fatal" : "not fatal"}`, () => {
      const error = new DeviceError("cuMemAlloc_v2(...) failed", {
        code,
        call: "cuMemAlloc_v2",
        status: "CUDA_ERROR_X",
        fatal,
      });
      const other = crossed(error);
      expect(other).to.be.instanceOf(DeviceError);
      expect(other).to.include({
        message: error.message,
        code,
        call: "cuMemAlloc_v2",
        status: "CUDA_ERROR_X",
        fatal,
      });
    });
  }

  it("keeps which rank blames which, and the step", () => {
    const error = new PeerError("no end", { code: "DEADLINE_EXCEEDED", rank: 1, peer: 3 });
    const other = fromPlainError(structuredClone(toPlainError(error, 7)));
    expect(other).to.be.instanceOf(PeerError);
    const { code, rank, peer, step, message } = error;
    expect(other).to.deep.include({ code, rank, peer, message }).and.not.include({ step });
    expect(other).to.have.property("step", 7);
  });

  it("is our fault where it is none of ours", () => {
    expect(crossed(new TypeError("x"))).to.be.instanceOf(InternalError);
    expect(crossed("text").message).to.equal("internal: text");
  });
});
