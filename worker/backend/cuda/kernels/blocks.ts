/** Threads of a block of the kernels that stream: STREAM_THREADS in native/vectors.cuh. */
export const STREAM_THREADS = 256;

/** Blocks of kernels whose threads each work on `perThread` elements. */
export function blocksOf(n: number, perThread: number): number {
  return Math.ceil(n / (STREAM_THREADS * perThread));
}

/** log2 of the neighbouring threads that work along a row of `words` words, and so how many rows a block has at once. */
export function laneBits(words: number): number {
  let bits = 0;
  while (bits < 8 && 1 << bits < words) bits++;
  return bits;
}

/** Blocks over `rows` rows of `words` words, each thread with `rowsPerThread` of them; as `place_of` in native/vectors.cuh. */
export function rowBlocks(words: number, rows: number, rowsPerThread: number): number {
  const bits = laneBits(words);
  const perBlock = 2 ** (8 - bits) * rowsPerThread;
  return Math.ceil(words / 2 ** bits) * Math.ceil(rows / perBlock);
}

/** The widest of 16, 8, 4, 2 or 1 bytes that divides all of these addresses and sizes. */
export function wordBytes(...values: readonly number[]): number {
  // Bits of numbers over 2^32 are those of the number modulo 2^32: the low ones are right.
  const bits = values.reduce((all, value) => all | value, 16);
  return bits & -bits;
}
