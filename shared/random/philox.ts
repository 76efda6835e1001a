/**
 * Philox4x32-10 (Salmon et al. 2011): random words as a function of a key and a counter, without state, so that
 * each rank makes exactly its slice of a tensor. The kernels of the cpu backend repeat these lines in C, bit for bit.
 */

const MULTIPLIER_0 = 0xd2511f53;
const MULTIPLIER_1 = 0xcd9e8d57;
const WEYL_0 = 0x9e3779b9;
const WEYL_1 = 0xbb67ae85;
const ROUNDS = 10;

/** Four 32-bit words. */
export type Words4 = Uint32Array;

/** High 32 bits of the product of two unsigned 32-bit integers. */
function multiplyHigh(a: number, b: number): number {
  const aLow = a & 0xffff;
  const aHigh = a >>> 16;
  const bLow = b & 0xffff;
  const bHigh = b >>> 16;
  const cross = aHigh * bLow + ((aLow * bLow) >>> 16); // < 2^32: exact
  const middle = aLow * bHigh + (cross & 0xffff); // < 2^32: exact
  return (aHigh * bHigh + Math.floor(cross / 65536) + Math.floor(middle / 65536)) >>> 0;
}

/** Writes the block of `counter` (four words) under the key into `out`, which may be `counter` itself. */
export function philox4x32(out: Words4, counter: Words4, keyLow: number, keyHigh: number): void {
  let c0 = counter[0] ?? 0;
  let c1 = counter[1] ?? 0;
  let c2 = counter[2] ?? 0;
  let c3 = counter[3] ?? 0;
  let k0 = keyLow;
  let k1 = keyHigh;
  for (let round = 0; round < ROUNDS; round++) {
    const high0 = multiplyHigh(MULTIPLIER_0, c0);
    const low0 = Math.imul(MULTIPLIER_0, c0) >>> 0;
    const high1 = multiplyHigh(MULTIPLIER_1, c2);
    const low1 = Math.imul(MULTIPLIER_1, c2) >>> 0;
    c0 = (high1 ^ c1 ^ k0) >>> 0;
    c1 = low1;
    c2 = (high0 ^ c3 ^ k1) >>> 0;
    c3 = low0;
    k0 = (k0 + WEYL_0) >>> 0;
    k1 = (k1 + WEYL_1) >>> 0;
  }
  out[0] = c0;
  out[1] = c1;
  out[2] = c2;
  out[3] = c3;
}

/** FNV-1a, 64 bits, of the name's UTF-8 bytes, as two 32-bit words: streams of unlike names are independent. */
export function nameHash(name: string): { readonly low: number; readonly high: number } {
  let hash = 0xcbf29ce484222325n;
  for (const byte of new TextEncoder().encode(name)) {
    hash = ((hash ^ BigInt(byte)) * 0x100000001b3n) & 0xffffffffffffffffn;
  }
  return { low: Number(hash & 0xffffffffn), high: Number(hash >> 32n) };
}

/** An endless sequence of random 32-bit words that any place of can be read at once. */
export class PhiloxStream {
  readonly #keyLow: number;
  readonly #keyHigh: number;
  readonly #hash: { readonly low: number; readonly high: number };
  readonly #counter: Words4 = new Uint32Array(4);
  readonly #block: Words4 = new Uint32Array(4);
  #blockIndex = -1;

  /**
   * @param seed integer in [0, 2^53]
   * @param name keeps streams of one seed apart
   */
  constructor(seed: number, name: string) {
    this.#keyLow = seed >>> 0;
    this.#keyHigh = Math.floor(seed / 2 ** 32) >>> 0;
    this.#hash = nameHash(name);
  }

  /** Word `index` of the stream: lane index % 4 of block floor(index / 4). */
  word(index: number): number {
    const block = Math.floor(index / 4);
    if (block !== this.#blockIndex) {
      const counter = this.#counter;
      counter[0] = block >>> 0;
      counter[1] = Math.floor(block / 2 ** 32) >>> 0;
      counter[2] = this.#hash.low;
      counter[3] = this.#hash.high;
      philox4x32(this.#block, counter, this.#keyLow, this.#keyHigh);
      this.#blockIndex = block;
    }
    return this.#block[index - block * 4] ?? 0;
  }
}
