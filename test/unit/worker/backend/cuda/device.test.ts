import { expect } from "chai";
import {
  DeviceError,
  FailedPreconditionError,
  InvalidArgumentError,
} from "../../../../../shared/errors.ts";
import { CudaBackend } from "../../../../../worker/backend/cuda/cuda-backend.ts";
import { programOf, scalarsOf } from "../../../../support/conformance.ts";
import { lookAlike } from "../../../../support/look-alike.ts";

const driver = lookAlike();
const add = programOf({
  op: "add",
  title: "",
  inputs: [{ shape: [6] }, { shape: [6] }],
  outputs: [{ shape: [6] }],
  tolerance: 0,
});

function caught(run: () => unknown): unknown {
  try {
    run();
  } catch (error) {
    return error;
  }
  return undefined;
}

describe("the cuda backend's device", () => {
  it("is chosen by index, by UUID and by the beginning of one", () => {
    const { device } = new CudaBackend();
    const [uuid = ""] = /GPU-[0-9a-f]+/.exec(device) ?? [];
    for (const choice of ["0", uuid, uuid.toUpperCase(), uuid.slice(0, 8)]) {
      expect(new CudaBackend({ device: choice }).device).to.equal(device);
    }
  });

  for (const choice of ["7", "GPU-ffff", "cuda:0", "-1"]) {
    it(`is refused as ${choice}, with those that are there`, () => {
      expect(() => new CudaBackend({ device: choice })).to.throw(
        InvalidArgumentError,
        /give an index or a UUID of 0 \(.*GPU-/,
      );
    });
  }

  it("takes nothing on the device before the first program, and says its workspace beforehand", () => {
    const backend = new CudaBackend();
    expect(driver.leaks()).to.deep.equal([]);
    expect(backend.memory.currentBytes).to.equal(0);
    const loaded = backend.load(add.program, 0);
    expect(backend.memory.currentBytes).to.equal(add.program.arenaBytes + backend.workspaceBytes);
    expect(backend.memory.byKind()).to.include.keys("workspace", "context");
    loaded.dispose();
    backend.close();
    expect(backend.memory.currentBytes).to.equal(0);
    expect(driver.leaks()).to.deep.equal([]);
  });
});

describe("a library of CUDA that is missing", () => {
  for (const [variable, library, advice] of [
    ["RANKMESH_CUDA_LIBRARY", "libcuda-missing.so.1", "NVIDIA's driver"],
    ["RANKMESH_CUBLAS_LIBRARY", "libcublas-missing.so.13", "cuBLAS of CUDA 12 or 13"],
  ] as const) {
    it(`is named with what to install: ${library}`, () => {
      const known = process.env[variable];
      process.env[variable] = library;
      try {
        const error = caught(() => new CudaBackend());
        expect(error).to.be.instanceOf(FailedPreconditionError);
        expect((error as Error).message).to.include(`${library} could not be loaded`);
        expect((error as Error).message).to.include(advice);
      } finally {
        process.env[variable] = known;
      }
    });
  }
});

describe("a library of CUDA that does not do", () => {
  afterEach(() => driver.clear());

  for (const [variable, advice] of [
    ["RANKMESH_CUDA_LIBRARY", "has no cuGetErrorName; install a driver of CUDA 12 or newer"],
    ["RANKMESH_CUBLAS_LIBRARY", "has no cublasGetVersion_v2; install cuBLAS of CUDA 12 or 13"],
  ] as const) {
    it(`is told by the function that it lacks: ${variable}`, () => {
      const known = process.env[variable];
      process.env[variable] = "libm.so.6";
      try {
        expect(() => new CudaBackend()).to.throw(FailedPreconditionError, advice);
      } finally {
        process.env[variable] = known;
      }
    });
  }

  it("is a driver that sees no GPU: what to look at is said", () => {
    driver.fault("cuInit", 1, 100);
    expect(() => new CudaBackend()).to.throw(
      FailedPreconditionError,
      "cuda backend: cuInit(0) failed: CUDA_ERROR_NO_DEVICE (100); check that nvidia-smi shows a GPU here, and CUDA_VISIBLE_DEVICES",
    );
  });
});

describe("a call of the driver that fails", () => {
  afterEach(() => driver.clear());

  // [call, its CUresult, what it is called, whether the device is lost]
  const faults = [
    ["cuDevicePrimaryCtxRetain", 101, "CUDA_ERROR_INVALID_DEVICE", true],
    ["cuMemAlloc_v2", 2, "CUDA_ERROR_OUT_OF_MEMORY", false],
    ["cuMemHostAlloc", 2, "CUDA_ERROR_OUT_OF_MEMORY", false],
    ["cuStreamCreate", 2, "CUDA_ERROR_OUT_OF_MEMORY", false],
    ["cuEventCreate", 2, "CUDA_ERROR_OUT_OF_MEMORY", false],
    ["cuModuleLoadDataEx", 218, "CUDA_ERROR_INVALID_PTX", false],
    ["cuLaunchKernel", 701, "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES", false],
    ["cuLaunchKernel", 719, "CUDA_ERROR_LAUNCH_FAILED", true],
    ["cuMemcpyHtoDAsync_v2", 700, "CUDA_ERROR_ILLEGAL_ADDRESS", true],
    ["cuStreamSynchronize", 999, "CUDA_ERROR_UNKNOWN", true],
  ] as const;
  for (const [call, status, name, fatal] of faults) {
    it(`is told by its name, arguments and code: ${call}, ${name}`, () => {
      const backend = new CudaBackend();
      driver.fault(call, 1, status);
      const error = caught(() => {
        const loaded = backend.load(add.program, 0);
        try {
          loaded.write(add.instruction.inputs[0] ?? -1, new Uint8Array(24));
          loaded.run([add.instruction], scalarsOf({}));
          loaded.synchronize();
        } finally {
          loaded.dispose();
        }
      });
      expect(error).to.be.instanceOf(DeviceError);
      const { message, code, ...rest } = error as DeviceError;
      expect(message).to.include(`${call}(`).and.include(`${name} (${status})`);
      expect(rest).to.include({ call, status: name, fatal });
      expect(code).to.equal(status === 2 ? "RESOURCE_EXHAUSTED" : "UNAVAILABLE");
      // A device that is lost says so once more; the first call found none, and took nothing.
      const last = caught(() => backend.close());
      if (fatal && call !== "cuDevicePrimaryCtxRetain") {
        expect(last).to.be.instanceOf(DeviceError).with.property("fatal", true);
      } else expect(last).to.equal(undefined);
      driver.clear();
      expect(backend.memory.currentBytes).to.equal(0);
      expect(driver.leaks()).to.deep.equal([]);
    });
  }
});
