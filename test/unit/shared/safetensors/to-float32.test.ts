import { expect } from "chai";
import { toFloat32 } from "../../../../shared/safetensors/to-float32.ts";

function converted(halves: Uint16Array, dtype: "F16" | "BF16"): Float32Array {
  const bytes = new Uint8Array(halves.buffer, halves.byteOffset, halves.byteLength);
  return new Float32Array(toFloat32(bytes, dtype).buffer);
}

const ALL = Uint16Array.from({ length: 1 << 16 }, (_, bits) => bits);

/** The number of a binary float of 16 bits, from its definition. */
function numberOf(bits: number, fractionBits: number, bias: number): number {
  const exponentBits = 15 - fractionBits;
  const sign = bits >> 15 === 1 ? -1 : 1;
  const exponent = (bits >> fractionBits) & ((1 << exponentBits) - 1);
  const fraction = (bits & ((1 << fractionBits) - 1)) / 2 ** fractionBits;
  if (exponent === (1 << exponentBits) - 1)
    return fraction === 0 ? sign * Number.POSITIVE_INFINITY : Number.NaN;
  return exponent === 0
    ? sign * fraction * 2 ** (1 - bias)
    : sign * (1 + fraction) * 2 ** (exponent - bias);
}

describe("conversion to float32", () => {
  it("gives the number of each of the 65536 float16", () => {
    const wanted = Float32Array.from(ALL, (bits) => numberOf(bits, 10, 15));
    expect(firstDifference(converted(ALL, "F16"), wanted)).to.equal(undefined);
  });

  it("gives the number of each of the 65536 bfloat16", () => {
    const wanted = Float32Array.from(ALL, (bits) => numberOf(bits, 7, 127));
    expect(firstDifference(converted(ALL, "BF16"), wanted)).to.equal(undefined);
  });

  it("takes bytes that begin at an odd place", () => {
    const bytes = Uint8Array.of(9, 0x00, 0x3c, 0x00, 0xc0).subarray(1);
    for (const piece of [bytes, Buffer.from(bytes.buffer, 1)])
      expect([...new Float32Array(toFloat32(piece, "F16").buffer)]).to.deep.equal([1, -2]);
  });

  it("leaves float32 alone", () => {
    const bytes = Uint8Array.of(1, 2, 3, 4);
    expect(toFloat32(bytes, "F32")).to.equal(bytes);
  });
});

/** By Object.is, so that zeros differ by sign and NaN equals itself. */
function firstDifference(got: Float32Array, wanted: Float32Array): string | undefined {
  const index = wanted.findIndex((value, i) => !Object.is(got[i], value));
  return index < 0 ? undefined : `${index}: ${got[index]}, expected ${wanted[index]}`;
}
