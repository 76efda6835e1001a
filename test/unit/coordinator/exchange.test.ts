import { expect } from "chai";
import { chooseExchange } from "../../../coordinator/gang/exchange.ts";
import type { WorkerInfo } from "../../../coordinator/gang/worker-registry.ts";

function worker(name: string, more: Partial<WorkerInfo> = {}): WorkerInfo {
  return {
    name,
    address: "127.0.0.1:1",
    httpAddress: "",
    backend: "cuda",
    device: "a GPU",
    backendReason: "",
    version: "0.1.0",
    fingerprint: "f",
    memoryLimitBytes: 0,
    workspaceBytes: 0,
    precisions: ["float32"],
    ncclVersion: "2.27.3",
    deviceUuid: `GPU-${name}`,
    ...more,
  };
}

describe("chooseExchange", () => {
  it("takes NCCL where all ranks have the same and a device each, and says so", () => {
    const { ncclVersion, note } = chooseExchange([worker("a"), worker("b")]);
    expect(ncclVersion).to.equal("2.27.3");
    expect(note).to.include("over NCCL 2.27.3");
  });

  it("says nothing where there is nothing to choose: one rank, or no rank with NCCL", () => {
    const none = { ncclVersion: undefined, deviceUuid: undefined };
    for (const workers of [[], [worker("a")], [worker("a", none), worker("b", none)]]) {
      expect(chooseExchange(workers)).to.deep.equal({ ncclVersion: undefined, note: undefined });
    }
  });

  for (const [title, more, why] of [
    ["two ranks share a device", { deviceUuid: "GPU-a" }, "ranks 0 and 1 share GPU-a"],
    [
      "a rank has none",
      { ncclVersion: undefined, backend: "cpu" },
      "rank 1 (worker b, cpu) has none",
    ],
    ["versions differ", { ncclVersion: "2.26.0" }, "has version 2.26.0, rank 0 has 2.27.3"],
    ["a rank does not name its device", { deviceUuid: undefined }, "does not name its device"],
    ["backends differ", { backend: "other" }, "is unlike rank 0 (cuda)"],
  ] as const) {
    it(`takes gRPC and says why where ${title}`, () => {
      const { ncclVersion, note } = chooseExchange([worker("a"), worker("b", more)]);
      expect(ncclVersion).to.equal(undefined);
      expect(note).to.include(why).and.include("over gRPC, not NCCL");
    });
  }
});
