import type { DataInput } from "./data-source.ts";

/** Ids that kernels index with: 32 bits with a sign. */
const MAX_IDS = 2 ** 31;

/** Index of the first value that is no id of `input`; -1 when all are, or when it holds no ids. */
export function firstOutside(values: ArrayLike<number>, input: Pick<DataInput, "ids">): number {
  const ids = input.ids ?? MAX_IDS;
  for (let i = 0; i < values.length; i++) {
    const id = values[i] ?? 0;
    if (id >= ids || (id < 0 && input.ids !== undefined)) return i;
  }
  return -1;
}

/** `id 99 is outside the model's vocabulary of 96`. */
export function outsideText(id: number, input: Pick<DataInput, "ids" | "dims">): string {
  const ids = input.ids ?? MAX_IDS;
  // One id a row says what the row is; a sequence of them is a text.
  const what = input.dims.length === 0 ? `${ids} classes` : `vocabulary of ${ids}`;
  return `id ${id} is outside the model's ${what}`;
}

/** The int32 values of little-endian bytes, which may lie at any address. */
export function int32Values(bytes: Uint8Array): Int32Array {
  if (bytes.byteOffset % 4 === 0) {
    return new Int32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4);
  }
  // Not bytes.slice(): of a Buffer, which a decoded message holds, it is a view of the same memory.
  return new Int32Array(new Uint8Array(bytes).buffer);
}
