/**
 * Which row of the data is row j of step s: (s * batchSize + j) mod rows, or with a shuffle the image of that row
 * under a permutation drawn anew for each pass. Pure, stateless and the same on every mesh; nothing is stored.
 */
export interface RowOrder {
  readonly rows: number;
  readonly batchSize: number;
  /** Seed of the permutations; undefined: rows in order. */
  readonly shuffleSeed: number | undefined;
}

/** Rows of the data for rows [start, end) of the batch of `step`. */
export function rowsOfBatch(order: RowOrder, step: number, start: number, end: number): number[] {
  const { rows, batchSize, shuffleSeed } = order;
  // step * batchSize may pass 2^53.
  const first = BigInt(step) * BigInt(batchSize) + BigInt(start);
  let pass = first / BigInt(rows);
  let index = Number(first % BigInt(rows));
  let permute = permutation(rows, shuffleSeed, pass);
  const result = new Array<number>(end - start);
  for (let j = 0; j < result.length; j++) {
    result[j] = permute(index);
    index += 1;
    if (index === rows) {
      index = 0;
      pass += 1n;
      permute = permutation(rows, shuffleSeed, pass);
    }
  }
  return result;
}

const ROUNDS = 8;

/**
 * A permutation of [0, rows), keyed by seed and pass: a Feistel network over the smallest even number of bits that
 * holds `rows`, walked until it lands inside (fewer than four turns on average).
 */
export function permutation(
  rows: number,
  seed: number | undefined,
  pass: bigint,
): (index: number) => number {
  if (seed === undefined || rows === 1) return (index) => index;
  const halfBits = Math.max(1, Math.ceil(Math.ceil(Math.log2(rows)) / 2));
  const half = 2 ** halfBits;
  const keys = roundKeys(seed, pass);
  return (index) => {
    let value = index;
    do {
      let left = Math.floor(value / half);
      let right = value % half;
      for (const key of keys) {
        const mixed = (mix((right ^ key) >>> 0) >>> (32 - halfBits)) ^ left;
        left = right;
        right = mixed >>> 0;
      }
      value = left * half + right;
    } while (value >= rows);
    return value;
  };
}

function roundKeys(seed: number, pass: bigint): number[] {
  const words = [
    seed >>> 0,
    Math.floor(seed / 2 ** 32) >>> 0,
    Number(pass & 0xffffffffn),
    Number((pass >> 32n) & 0xffffffffn),
  ];
  const keys: number[] = [];
  for (let round = 0; round < ROUNDS; round++) {
    keys.push(words.reduce((hash, word) => mix((hash ^ word) >>> 0), mix(round + 1)));
  }
  return keys;
}

/** The finaliser of MurmurHash3 after an odd offset: every bit of the word moves every bit of the result. */
function mix(word: number): number {
  let h = (word + 0x9e3779b9) >>> 0;
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return (h ^ (h >>> 16)) >>> 0;
}
