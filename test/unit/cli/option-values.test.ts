import { expect } from "chai";
import {
  byteCount,
  hostNames,
  hostPort,
  wholeNumber,
  wholeNumbers,
} from "../../../cli/option-values.ts";

describe("flag values", () => {
  for (const [text, bytes] of [
    ["1", 1],
    ["2500000000", 2_500_000_000],
    ["2.5GB", 2_500_000_000],
    ["512MiB", 536_870_912],
    ["1 kib", 1024],
  ] as const) {
    it(`reads ${text} as ${bytes} bytes`, () => {
      expect(byteCount(text)).to.equal(bytes);
    });
  }

  for (const text of ["", "0", "-1", "1e9", "5 pounds", "GB", "NaN", "1e400"]) {
    it(`refuses ${JSON.stringify(text)} as bytes`, () => {
      expect(() => byteCount(text)).to.throw(/number of bytes, for example/);
    });
  }

  it("reads whole numbers inside their bounds alone", () => {
    expect(wholeNumber(1, 8)("8")).to.equal(8);
    for (const text of ["0", "9", "1.5", "1e0", "", "x"]) {
      expect(() => wholeNumber(1, 8)(text), text).to.throw("Write a whole number from 1 to 8.");
    }
    expect(wholeNumbers(1, 8)("1,2, 4")).to.deep.equal([1, 2, 4]);
    expect(() => wholeNumbers(1, 8)("1,,2")).to.throw("whole number");
  });

  it("takes host:port as it is and refuses other text", () => {
    expect(hostPort("worker-1:0")).to.equal("worker-1:0");
    for (const text of ["worker-1", "worker-1:99999", ":1", "http://x:1"]) {
      expect(() => hostPort(text), text).to.throw("Write host:port");
    }
  });

  it("takes names of hosts, several times or by commas, and none where a variable is empty", () => {
    expect(hostNames("c.example", hostNames("a, b"))).to.deep.equal(["a", "b", "c.example"]);
    expect(hostNames("")).to.deep.equal([]);
    for (const text of ["a,,b", "http://a", "a:80", "a b", "[::1]"]) {
      expect(() => hostNames(text), text).to.throw("Write a host name without port");
    }
  });
});
