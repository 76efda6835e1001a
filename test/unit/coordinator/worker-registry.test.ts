import { expect } from "chai";
import { type WorkerInfo, WorkerRegistry } from "../../../coordinator/gang/worker-registry.ts";

const info = (name: string): WorkerInfo => ({
  name,
  address: `127.0.0.1:${name.length}`,
  httpAddress: "",
  backend: "cpu",
  device: "cpu",
  memoryLimitBytes: 1,
  workspaceBytes: 0,
  precisions: ["float32"],
  backendReason: "asked for by name",
  fingerprint: "cpu",
  version: "0.1.0",
});

describe("worker registry", () => {
  const make = () => new WorkerRegistry({ leaseMs: 5_000, rememberLostMs: 60_000 });
  const gang = { jobId: "j", generation: 1, rank: 0 };

  it("refuses a second live worker of the same name, naming the first one's address", () => {
    const registry = make();
    registry.register(info("w"), 1, 0);
    expect(() => registry.register(info("w"), 2, 0)).to.throw(
      '"w" is taken by the worker at 127.0.0.1:1',
    );
  });

  it("takes the name again once its worker is lost, and ignores the old session from then on", () => {
    const registry = make();
    registry.register(info("w"), 1, 0);
    registry.lose("w", 1, 10, "it broke");
    registry.register(info("w"), 2, 20);
    expect(registry.lose("w", 1, 30, "it broke")).to.equal(undefined);
    registry.heartbeat("w", 1, 40);
    expect(registry.list(40)[0]).to.include({ state: "idle", heartbeatAgeMs: 20 });
  });

  it("gives nothing more to a worker that is about to leave", () => {
    const registry = make();
    registry.register(info("w"), 1, 0);
    registry.assign("w", gang);
    expect(registry.retire("w", 2)).to.equal(undefined);
    expect(registry.retire("w", 1)).to.deep.equal(gang);
    expect(registry.idle()).to.deep.equal([]);
    expect(registry.registered()).to.deep.equal([]);
    expect(registry.assign("w", gang)).to.equal(false);
    expect(registry.list(0)[0]?.state).to.equal("busy");
    expect(registry.leave("w", 1)).to.equal(undefined);
    expect(registry.list(0)).to.deep.equal([]);
  });

  it("counts a lease from the last heartbeat and expires it after its length, not at it", () => {
    const registry = make();
    registry.register(info("w"), 1, 0);
    registry.heartbeat("w", 1, 1_000);
    expect(registry.expired(6_000)).to.deep.equal([]);
    expect(registry.expired(6_001)).to.deep.equal([{ name: "w", sessionId: 1, silentMs: 5_001 }]);
    registry.lose("w", 1, 6_001, "it broke");
    expect(registry.expired(99_000)).to.deep.equal([]);
  });

  it("gives a worker to one rank at a time, and frees it only from that one", () => {
    const registry = make();
    registry.register(info("w"), 1, 0);
    expect(registry.assign("w", gang)).to.equal(true);
    expect(registry.assign("w", { ...gang, jobId: "k" })).to.equal(false);
    expect(registry.idle()).to.deep.equal([]);
    expect(registry.free("w", "j", 2)).to.equal(false);
    expect(registry.free("w", "k", 1)).to.equal(false);
    expect(registry.list(0)[0]?.state).to.equal("busy");
    expect(registry.free("w", "j", 1)).to.equal(true);
    expect(registry.idle().map((w) => w.name)).to.deep.equal(["w"]);
  });

  it("tells what a lost worker was serving, once", () => {
    const registry = make();
    registry.register(info("w"), 1, 0);
    registry.assign("w", gang);
    expect(registry.lose("w", 1, 5, "it broke")).to.deep.equal(gang);
    expect(registry.lose("w", 1, 6, "it broke")).to.equal(undefined);
    expect(registry.registered()).to.deep.equal([]);
    expect(registry.list(7)[0]).to.include({ state: "lost", lostReason: "it broke" });
    registry.register(info("w"), 2, 8);
    expect(registry.list(8)[0]).to.include({ state: "idle", lostReason: undefined });
  });

  it("forgets lost workers after a while, and those that left in order at once", () => {
    const registry = make();
    registry.register(info("gone"), 1, 0);
    registry.register(info("left"), 2, 0);
    registry.lose("gone", 1, 0, "it broke");
    registry.leave("left", 2);
    expect(registry.list(1).map((w) => w.name)).to.deep.equal(["gone"]);
    expect(registry.forgetLost(60_000)).to.deep.equal([]);
    expect(registry.forgetLost(60_001)).to.deep.equal(["gone"]);
    expect(registry.list(60_001)).to.deep.equal([]);
  });
});
