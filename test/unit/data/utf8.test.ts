import { isUtf8 } from "node:buffer";
import { expect } from "chai";
import fc from "fast-check";
import { brokenUtf8, openCharacterBytes } from "../../../coordinator/data/utf8.ts";

const bytes = (...values: number[]): Uint8Array => Uint8Array.from(values);

describe("broken UTF-8", () => {
  for (const [what, text, at] of [
    ["a byte that begins nothing", bytes(0x61, 0xff, 0x62), 1],
    ["a continuation without a beginning", bytes(0x61, 0x62, 0x80), 2],
    ["a character that another one cuts off", bytes(0xe2, 0x82, 0x61), 0],
    ["an overlong form", bytes(0x61, 0xc0, 0xaf), 1],
    ["an overlong form of three bytes", bytes(0xe0, 0x80, 0xaf), 0],
    ["a surrogate", bytes(0x61, 0xed, 0xa0, 0x80), 1],
    ["a code point past the last", bytes(0xf4, 0x90, 0x80, 0x80), 0],
  ] as const) {
    it(`is found at the first byte of ${what}`, () => {
      expect(brokenUtf8(text, true)).to.equal(at);
      expect(brokenUtf8(text, false)).to.equal(at);
    });
  }

  it("is a character cut off at the end only where the text ends there", () => {
    const text = bytes(0x61, 0xe2, 0x82);
    expect(brokenUtf8(text, true)).to.equal(-1);
    expect(brokenUtf8(text, false)).to.equal(1);
    expect(openCharacterBytes(text)).to.equal(2);
    expect(openCharacterBytes(bytes(0xe2, 0x82, 0xac))).to.equal(0);
  });

  it("is found where the runtime finds it, in any bytes", () => {
    const byte = fc.oneof(fc.nat(255), fc.constantFrom(0x80, 0xbf, 0xc2, 0xe0, 0xed, 0xf0, 0xf4));
    fc.assert(
      fc.property(fc.array(byte, { maxLength: 12 }), (values) => {
        const text = Uint8Array.from(values);
        const at = brokenUtf8(text, false);
        expect(at < 0).to.equal(isUtf8(text));
        if (at >= 0) expect(isUtf8(text.subarray(0, at))).to.equal(true);
        // Cut anywhere, a sound text has no fault in its first part.
        if (at < 0) {
          for (let end = 0; end <= text.length; end++) {
            expect(brokenUtf8(text.subarray(0, end), true)).to.equal(-1);
          }
        }
      }),
    );
  });
});
