import { expect } from "chai";
import { formatHostPort, isLoopback, parseHostPort } from "../../../../shared/rpc/address.ts";

describe("host:port addresses", () => {
  for (const [text, host, port] of [
    ["127.0.0.1:0", "127.0.0.1", 0],
    ["worker-1.local:50051", "worker-1.local", 50051],
    ["[::1]:8080", "::1", 8080],
    ["0.0.0.0:65535", "0.0.0.0", 65535],
  ] as const) {
    it(`reads and writes ${text}`, () => {
      expect(parseHostPort(text)).to.deep.equal({ host, port });
      expect(formatHostPort({ host, port })).to.equal(text);
    });
  }

  for (const text of [
    "",
    "localhost",
    ":50051",
    "::1:50051",
    "host:65536",
    "host:-1",
    "http://host:1",
    "a b:1",
  ]) {
    it(`refuses ${JSON.stringify(text)} and says what to write`, () => {
      expect(() => parseHostPort(text, "--listen")).to.throw(
        `--listen: ${JSON.stringify(text)} is not host:port; write for example 127.0.0.1:50051`,
      );
    });
  }

  it("knows which hosts only this machine reaches", () => {
    expect(["localhost", "127.0.0.1", "127.8.9.10", "::1"].map(isLoopback)).to.deep.equal([
      true,
      true,
      true,
      true,
    ]);
    expect(["0.0.0.0", "::", "10.0.0.1", "127.evil.com"].map(isLoopback)).to.deep.equal([
      false,
      false,
      false,
      false,
    ]);
  });
});
