const cell = new DataView(new ArrayBuffer(4));

/** The number whose bits are `bits`. */
export function fromBfloat16(bits: number): number {
  cell.setUint32(0, bits << 16);
  return cell.getFloat32(0);
}

/** Bits of the bfloat16 nearest to `value` as a float32, ties to even. NaN stays NaN. */
export function toBfloat16(value: number): number {
  cell.setFloat32(0, value);
  const bits = cell.getUint32(0);
  if ((bits & 0x7fffffff) > 0x7f800000) return (bits >>> 16) | 0x40;
  return ((bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16) & 0xffff;
}
