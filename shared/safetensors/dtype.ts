/** Bytes of one element of each dtype that the format knows; those of less than a byte are left out. */
const DTYPE_BYTES = {
  BOOL: 1,
  U8: 1,
  I8: 1,
  F8_E4M3: 1,
  F8_E5M2: 1,
  F8_E8M0: 1,
  U16: 2,
  I16: 2,
  F16: 2,
  BF16: 2,
  U32: 4,
  I32: 4,
  F32: 4,
  U64: 8,
  I64: 8,
  F64: 8,
  C64: 8,
} as const;

export type SafetensorsDtype = keyof typeof DTYPE_BYTES;

export const SAFETENSORS_DTYPES = Object.keys(DTYPE_BYTES) as readonly SafetensorsDtype[];

export function isSafetensorsDtype(value: unknown): value is SafetensorsDtype {
  return typeof value === "string" && Object.hasOwn(DTYPE_BYTES, value);
}

export function safetensorsDtypeBytes(dtype: SafetensorsDtype): number {
  return DTYPE_BYTES[dtype];
}
