import { expect } from "chai";
import { InvalidArgumentError } from "../../../../shared/errors.ts";
import { createBackend } from "../../../../worker/backend/create-backend.ts";

const choice = { backend: "auto", device: "", threads: 1 };

describe("createBackend", () => {
  // Other tests of this process may have named a library of CUDA.
  let named: string | undefined;
  before(() => {
    named = process.env["RANKMESH_CUDA_LIBRARY"];
    process.env["RANKMESH_CUDA_LIBRARY"] = "libcuda-missing.so.1";
  });
  after(() => {
    if (named === undefined) delete process.env["RANKMESH_CUDA_LIBRARY"];
    else process.env["RANKMESH_CUDA_LIBRARY"] = named;
  });

  it("takes cpu for auto, and says why", () => {
    const backend = createBackend(choice);
    expect(backend.name).to.equal("cpu");
    expect(backend.reason).to.match(/^auto: .*no cuda: libcuda-missing.so.1 could not be loaded/);
  });

  for (const name of ["cpu", "reference"]) {
    it(`makes ${name} when asked for by name`, () => {
      const backend = createBackend({ ...choice, backend: name });
      expect(backend.name).to.equal(name);
      expect(backend.reason).to.equal("asked for by name");
      expect(backend.fingerprint).to.contain(name);
    });
  }

  it("names the nearest backend for a typo", () => {
    expect(() => createBackend({ ...choice, backend: "cpuu" })).to.throw(
      InvalidArgumentError,
      'backend "cpuu" is not one of auto, cuda, cpu, gpujs, reference; did you mean cpu?',
    );
  });

  it("refuses a device that it does not have", () => {
    expect(() => createBackend({ ...choice, device: "cuda:0" })).to.throw(
      InvalidArgumentError,
      '"cuda:0"',
    );
  });

  for (const threads of [0, -1, 1.5, Number.NaN]) {
    it(`refuses ${threads} threads`, () => {
      expect(() => createBackend({ ...choice, threads })).to.throw(
        InvalidArgumentError,
        `${threads}`,
      );
    });
  }

  it("takes the number of threads it is given", () => {
    expect(createBackend({ ...choice, threads: 2 }).device).to.contain("2 threads");
  });
});
