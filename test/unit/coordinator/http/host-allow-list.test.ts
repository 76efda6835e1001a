import { expect } from "chai";
import { HostAllowList } from "../../../../coordinator/http/host-allow-list.ts";

describe("host allow-list", () => {
  const hosts = new HostAllowList(["gpu-1", "Train.Example.org"]);

  for (const host of [
    "127.0.0.1",
    "127.0.0.1:8080",
    "10.1.2.3:8080",
    "[::1]:8080",
    "[fe80::1]",
    "localhost:8080",
    "LOCALHOST",
    "x.localhost:1",
    "gpu-1:8080",
    "train.example.org",
    "TRAIN.example.org.:80",
  ]) {
    it(`allows ${host}`, () => expect(hosts.allows(host)).to.equal(true));
  }

  for (const host of [
    undefined,
    "",
    ":8080",
    "evil.example",
    "evil.example:8080",
    "gpu-1.evil.example",
    "localhost.evil.example",
    "127.0.0.1.evil.example",
    "127.0.0.1@evil.example",
    "0x7f000001",
    "2130706433",
    "[evil.example]",
    "[127.0.0.1]",
    "::1",
    "gpu-1:8080:x",
    "gpu-1:x",
    "gpu-1 ",
  ]) {
    it(`refuses ${JSON.stringify(host)}`, () => expect(hosts.allows(host)).to.equal(false));
  }
});
