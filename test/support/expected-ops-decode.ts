// What a decoder's ops compute, by plain loops in float64, written apart from the op registry.
import { partOf } from "../../shared/mesh/placement.ts";
import { nameHash, philox4x32 } from "../../shared/random/philox.ts";
import { type Expected, get, type OpOperands, range, sum } from "./expected-math.ts";

const partIndex = (o: OpOperands, name: string): number =>
  partOf(o.attrs[name] ?? 0, o.mesh, o.coordinates).index;

/** The caches with the token's row in place, and the softmax over rows 0 to the step. */
const attentionCached: Expected = (o) => {
  const { heads = 0, kvHeads = 0, headDim: n = 0 } = o.attrs;
  const step = o.scalars.step % (o.shapes[3]?.[0] ?? 1);
  const [q, k, v, oldKeys = [], oldValues = []] = o.inputs;
  const [H, width] = [(q?.length ?? 0) / n, k?.length ?? 0];
  const withRow = (cache: readonly number[], row: readonly number[] | undefined): number[] =>
    cache.map((x, i) => (Math.floor(i / width) === step ? get(row, i % width) : x));
  const [keys, values] = [withRow(oldKeys, k), withRow(oldValues, v)];
  const output = range(H).flatMap((h) => {
    const global = Math.floor((partIndex(o, "headAxes") * H + h) / (heads / kvHeads));
    const head = (global - (partIndex(o, "kvHeadAxes") * width) / n) * n;
    const scores = range(step + 1).map(
      (s) => sum(n, (d) => get(q, h * n + d) * get(keys, s * width + head + d)) / Math.sqrt(n),
    );
    const max = Math.max(...scores);
    const weights = scores.map((score) => Math.exp(score - max));
    const total = sum(weights.length, (s) => get(weights, s));
    return range(n).map(
      (d) => sum(step + 1, (s) => get(weights, s) * get(values, s * width + head + d)) / total,
    );
  });
  return [output, keys, values];
};

/** The first id at which the distribution function of those allowed passes a uniform number. */
const sampleToken: Expected = ({ inputs, attrs, scalars }) => {
  const logits = inputs[0] ?? [];
  const { temperature = 0, topK = 0, seedLow = 0, seedHigh = 0 } = attrs;
  const max = Math.max(...logits);
  if (!Number.isFinite(max)) return [[Number.NaN]];
  if (temperature === 0) return [[logits.indexOf(max)]];
  const sorted = [...logits].sort((a, b) => b - a);
  const least = topK === 0 ? Number.NEGATIVE_INFINITY : (sorted[topK - 1] ?? sorted.at(-1) ?? 0);
  let equals = topK - logits.filter((z) => z > least).length;
  const weights = logits.map((z) => {
    const isAllowed = topK === 0 || z > least || (z === least && equals-- > 0);
    return isAllowed ? Math.exp((z - max) / temperature) : 0;
  });
  const { low, high } = nameHash("sampleToken");
  const words = Uint32Array.of(scalars.step, 0, low, high);
  philox4x32(words, words, seedLow, seedHigh);
  const u = ((get([...words], 0) >>> 5) * 2 ** 26 + (get([...words], 1) >>> 6)) / 2 ** 53;
  const target = u * sum(weights.length, (id) => get(weights, id));
  let total = 0;
  return [
    [
      weights.findIndex((weight) => {
        total += weight;
        return total > target;
      }),
    ],
  ];
};

export const DECODE_EXPECTED: Readonly<Record<string, Expected>> = {
  attentionCached,
  sampleToken,
};
