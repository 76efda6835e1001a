import { PhiloxStream } from "./philox.ts";

/**
 * A permutation of 0 .. length-1, uniform over all, the same for the same seed and name (Fisher-Yates).
 * @param length at most 2^32 - 1
 */
export function seededPermutation(length: number, seed: number, name: string): Uint32Array {
  const order = new Uint32Array(length);
  for (let i = 0; i < length; i++) order[i] = i;
  const stream = new PhiloxStream(seed, name);
  let word = 0;
  for (let i = length - 1; i > 0; i--) {
    const size = i + 1;
    // Words past the last whole multiple of `size` would make low numbers likelier.
    const limit = 2 ** 32 - (2 ** 32 % size);
    let value = stream.word(word++);
    while (value >= limit) value = stream.word(word++);
    const other = value % size;
    const swapped = order[i] ?? 0;
    order[i] = order[other] ?? 0;
    order[other] = swapped;
  }
  return order;
}
