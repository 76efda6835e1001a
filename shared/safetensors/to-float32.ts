/** Pure: elements of narrower floating-point types as float32, exactly. Little-endian, as safetensors and this machine are. */
import type { SafetensorsDtype } from "./dtype.ts";

export type FloatDtype = "F32" | "F16" | "BF16";

export function isFloatDtype(dtype: SafetensorsDtype): dtype is FloatDtype {
  return dtype === "F32" || dtype === "F16" || dtype === "BF16";
}

/** The same numbers as float32; of F32 the bytes themselves. */
export function toFloat32(bytes: Uint8Array, dtype: FloatDtype): Uint8Array {
  if (dtype === "F32") return bytes;
  const count = bytes.byteLength / 2;
  // A piece of a file or message may begin at any byte. (A Buffer's own slice would be no copy.)
  const halves =
    bytes.byteOffset % 2 === 0
      ? new Uint16Array(bytes.buffer, bytes.byteOffset, count)
      : new Uint16Array(new Uint8Array(bytes).buffer);
  const words = new Uint32Array(count);
  if (dtype === "BF16") {
    for (let i = 0; i < count; i++) words[i] = (halves[i] ?? 0) << 16;
  } else {
    halfWords ??= Uint32Array.from({ length: 1 << 16 }, (_, half) => halfToWord(half));
    for (let i = 0; i < count; i++) words[i] = halfWords[halves[i] ?? 0] ?? 0;
  }
  return new Uint8Array(words.buffer);
}

/** Bits of the float32 equal to each float16; made when first needed. */
let halfWords: Uint32Array | undefined;

/** Bits of the float32 that equals the float16 of bits `half`. NaNs keep their payload. */
function halfToWord(half: number): number {
  const sign = (half & 0x8000) << 16;
  const exponent = (half >> 10) & 0x1f;
  const fraction = half & 0x3ff;
  if (exponent === 0x1f) return sign | 0x7f800000 | (fraction << 13);
  if (exponent !== 0) return sign | ((exponent + 112) << 23) | (fraction << 13);
  if (fraction === 0) return sign;
  // Subnormal: fraction * 2^-24, a normal float32 once its leading one is out of the fraction.
  const shift = Math.clz32(fraction) - 21;
  return sign | ((113 - shift) << 23) | (((fraction << shift) & 0x3ff) << 13);
}
