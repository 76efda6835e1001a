import { PhiloxStream } from "./philox.ts";

/**
 * Fills `target` with standard normal values start, start + 1, ... of the stream (seed, name), by Box-Muller:
 * values 2j and 2j+1 come from words 2j and 2j+1. Any part of the sequence can be made alone.
 */
export function fillStandardNormals(
  target: Float32Array,
  from: { readonly seed: number; readonly name: string; readonly start?: number },
): void {
  const stream = new PhiloxStream(from.seed, from.name);
  const start = from.start ?? 0;
  for (let i = 0; i < target.length; i++) {
    const index = start + i;
    const even = index - (index % 2);
    const u1 = (stream.word(even) + 1) * 2 ** -32; // (0, 1]: its logarithm is finite
    const angle = 2 * Math.PI * stream.word(even + 1) * 2 ** -32;
    const radius = Math.sqrt(-2 * Math.log(u1));
    target[i] = radius * (index === even ? Math.cos(angle) : Math.sin(angle));
  }
}
