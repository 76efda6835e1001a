import { expect } from "chai";
import { localMachine } from "../../../cli/local-machine.ts";
import { FailedPreconditionError, InvalidArgumentError } from "../../../shared/errors.ts";
import type { LocalDevice } from "../../../worker/backend/local-devices.ts";
import { caught } from "../../support/caught.ts";

const HOST = { available: 1000, total: 4000 };

function gpu(ordinal: number): LocalDevice {
  const facts = { uuid: `GPU-${ordinal}`, computeCapability: "9.0", driver: "13.0" };
  return {
    ordinal,
    name: `G${ordinal}`,
    ...facts,
    memoryBytes: 300 * (ordinal + 1),
    workspaceBytes: 7,
  };
}

/** A host with some GPUs, which it knows by their ordinals and by `GPU-<ordinal>`. */
function machine(options: { backends: string[]; devices?: string[]; gpus?: number }) {
  const { backends, devices = [], gpus = 0 } = options;
  const all = Array.from({ length: gpus }, (_, ordinal) => gpu(ordinal));
  return localMachine({
    backends,
    devices,
    hostMemory: HOST,
    findDevices: (choices) => {
      if (gpus === 0) throw new FailedPreconditionError("cuda backend: no libcuda.so.1");
      if (choices.length === 0) return all;
      return choices.map((choice) => {
        const found = all[Number(choice.replace("GPU-", ""))];
        if (found === undefined) throw new InvalidArgumentError(`no device ${choice}`);
        return found;
      });
    },
  });
}

/** Backend, device and memory limit of every rank. */
async function placed(
  options: Parameters<typeof machine>[0] & { readonly ranks: number },
): Promise<(readonly [string, string, number])[]> {
  return (await machine(options))
    .place(options.ranks)
    .map(({ backend, device, memoryLimitBytes }) => [backend, device, memoryLimitBytes]);
}

describe("ranks on this machine", () => {
  it("share the host's memory where they compute on it", async () => {
    expect(await placed({ backends: ["cpu"], ranks: 3 })).to.deep.equal([
      ["cpu", "", 333],
      ["cpu", "", 333],
      ["cpu", "", 333],
    ]);
  });

  it("take the backends in turn", async () => {
    const ranks = await placed({ backends: ["cpu", "reference"], ranks: 3 });
    expect(ranks.map(([backend]) => backend)).to.deep.equal(["cpu", "reference", "cpu"]);
  });

  it("take the GPUs in turn, and share the memory of each", async () => {
    expect(await placed({ backends: ["cuda"], gpus: 2, ranks: 3 })).to.deep.equal([
      ["cuda", "0", 150],
      ["cuda", "1", 600],
      ["cuda", "0", 150],
    ]);
  });

  it("share one GPU where it was asked for", async () => {
    expect(
      await placed({ backends: ["cuda"], devices: ["GPU-1"], gpus: 2, ranks: 3 }),
    ).to.deep.equal([
      ["cuda", "1", 200],
      ["cuda", "1", 200],
      ["cuda", "1", 200],
    ]);
  });

  it("take the GPUs where the backend is auto and they are there", async () => {
    expect(await placed({ backends: ["auto"], gpus: 2, ranks: 2 })).to.deep.equal([
      ["auto", "0", 300],
      ["auto", "1", 600],
    ]);
    expect(await placed({ backends: ["auto"], ranks: 2 })).to.deep.equal([
      ["auto", "", 500],
      ["auto", "", 500],
    ]);
  });

  it("share each memory with those that take it, in a mixed mesh", async () => {
    expect(
      await placed({ backends: ["cpu", "cuda", "cuda", "gpujs"], gpus: 1, ranks: 4 }),
    ).to.deep.equal([
      ["cpu", "", 500],
      ["cuda", "0", 150],
      ["cuda", "0", 150],
      ["gpujs", "", 500],
    ]);
  });

  it("pass devices by where a backend has none", async () => {
    expect(
      await placed({
        backends: ["cpu", "cuda", "gpujs", "cuda"],
        devices: ["GPU-1", "webassembly", "0"],
        gpus: 2,
        ranks: 4,
      }),
    ).to.deep.equal([
      ["cpu", "", 500],
      ["cuda", "1", 600],
      ["gpujs", "webassembly", 500],
      ["cuda", "0", 300],
    ]);
  });

  it("leave a device that nothing can take to the backend, for its error", async () => {
    expect(await placed({ backends: ["cpu"], devices: ["3"], ranks: 1 })).to.deep.equal([
      ["cpu", "3", 1000],
    ]);
    expect(await placed({ backends: ["auto"], devices: ["3"], ranks: 1 })).to.deep.equal([
      ["auto", "3", 1000],
    ]);
  });

  it("count what cuda takes for itself", async () => {
    const ranks = (await machine({ backends: ["cpu", "cuda"], gpus: 1 })).place(2);
    expect(ranks.map(({ workspaceBytes }) => workspaceBytes)).to.deep.equal([0, 7]);
  });

  for (const [what, backends, gpus, numWorkers] of [
    ["GPUs of the host", ["cuda"], 3, 3],
    ["GPUs of the host", ["auto"], 2, 2],
    ["backends named", ["cpu", "reference", "cpu"], 0, 3],
  ] as const) {
    it(`are as many as there are ${what} for ${backends.join()}, where the mesh leaves it open`, async () => {
      const found = await machine({ backends: [...backends], gpus });
      expect(found.numWorkers).to.equal(numWorkers);
    });
  }

  it("are refused where cuda cannot run, or a device is not there", async () => {
    expect(String(await caught(machine({ backends: ["cpu", "cuda"] })))).to.contain(
      "no libcuda.so.1",
    );
    const missing = machine({ backends: ["cuda"], devices: ["5"], gpus: 1 });
    expect(String(await caught(missing))).to.contain("no device 5");
  });

  it("are refused where more backends are named than there are ranks", async () => {
    const found = await machine({ backends: ["cpu", "reference"] });
    expect(() => found.place(1)).to.throw(
      "--backend names 2 backends for 1 rank; name one for all, or one for each",
    );
  });
});
