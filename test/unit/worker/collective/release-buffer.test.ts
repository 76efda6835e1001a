import { expect } from "chai";
import { releaseBuffer } from "../../../../worker/collective/release-buffer.ts";

/** Buffers that hold memory now, as V8 counts them. */
function heldBytes(): number {
  return process.memoryUsage().arrayBuffers;
}

describe("release of buffers", () => {
  it("frees memory before any garbage collection", async () => {
    releaseBuffer(Buffer.allocUnsafe(1 << 20)); // the first waits for its port to close
    await new Promise((resolve) => setTimeout(resolve, 20));
    const kept: Buffer[] = [];
    const before = heldBytes();
    for (let i = 0; i < 20; i++) {
      const buffer = Buffer.allocUnsafe(1 << 20);
      releaseBuffer(buffer);
      kept.push(buffer);
    }
    expect(heldBytes() - before).to.be.below(1 << 20);
    expect(kept.every((buffer) => buffer.length === 0)).to.equal(true);
  });

  it("frees a message by the view of its payload behind the header", () => {
    const message = new Uint8Array((1 << 20) + 56);
    releaseBuffer(message.subarray(56));
    expect(message.length).to.equal(0);
  });

  const spared: readonly [string, Uint8Array][] = [
    ["a small buffer", new Uint8Array(1000)],
    ["the middle of a larger one", new Uint8Array(1 << 20).subarray(0, 1 << 19)],
    ["its second half", new Uint8Array(1 << 20).subarray(1 << 19)],
    ["shared memory", new Uint8Array(new SharedArrayBuffer(1 << 20))],
  ];
  for (const [name, bytes] of spared) {
    it(`leaves ${name} alone`, () => {
      const { length } = bytes;
      releaseBuffer(bytes);
      expect(bytes.length).to.equal(length);
    });
  }
});
