import { InvalidArgumentError } from "../../shared/errors.ts";
import { nameHash, philox4x32 } from "../../shared/random/philox.ts";
import { finiteNumber, wholeNumber } from "./attributes.ts";
import type { Attrs, NumberArray, OpDefinition } from "./op.ts";
import { registerOps } from "./registry.ts";
import {
  at,
  attr,
  elements,
  inputOf,
  lastDim,
  operand,
  outputOf,
  row,
  scalar,
  show,
} from "./shapes.ts";

/** Ids up to this are exact in float32. */
const MAX_IDS = 2 ** 24;

/** Keeps the draws apart from other streams of the seed. */
const STREAM = nameHash("sampleToken");

/**
 * The id of the next token, drawn from logits [..., V] of one token; a scalar, so that it can stand where a step's loss
 * does. attrs: temperature (0: the likeliest id, the lowest of several), topK (0: all ids; else only the likeliest so
 * many, the lower ids first where logits are equal), seedLow and seedHigh. NaN where the logits make no distribution.
 */
const sampleToken: OpDefinition = {
  name: "sampleToken",
  infer([logits], attrs) {
    const { shape, dtype } = operand([logits], 0) ?? scalar();
    finiteNumber("sampleToken", attrs, "temperature", 0);
    wholeNumber("sampleToken", attrs, "topK", { min: 0 });
    if (dtype !== "float32" || shape.length < 1 || elements(shape) !== lastDim(shape)) {
      throw new InvalidArgumentError(
        `sampleToken: needs float32 logits of one token, got ${dtype} ${show(shape)}`,
      );
    }
    if (lastDim(shape) < 1 || lastDim(shape) > MAX_IDS) {
      throw new InvalidArgumentError(
        `sampleToken: ${lastDim(shape)} ids to choose from; a model may have 1 to ${MAX_IDS}`,
      );
    }
    return scalar();
  },
  strategies: () => [row(["R"], "R")],
  flops: ([logits]) => 10 * elements(logits?.shape ?? []),
  reference(call) {
    const logits = inputOf(call, 0).data;
    outputOf(call).data[0] = sample(
      logits,
      call.attrs,
      sampleUniform(call.attrs, call.scalars.step),
    );
  },
};

/** The id that `u` draws; NaN where the logits make no distribution. attrs: temperature, topK. */
export function sample(logits: NumberArray, attrs: Attrs, u: number): number {
  const temperature = attr(attrs, "temperature");
  const topK = attr(attrs, "topK") || logits.length;
  const byLikelihood = Array.from(logits, (_, id) => id).sort(
    (a, b) => at(logits, b) - at(logits, a) || a - b,
  );
  const best = byLikelihood[0] ?? 0;
  const max = at(logits, best);
  if (!Number.isFinite(max) || logits.some(Number.isNaN)) return Number.NaN;
  if (temperature === 0) return best;
  const ids = byLikelihood.slice(0, topK).sort((a, b) => a - b);
  const weights = ids.map((id) => Math.exp((at(logits, id) - max) / temperature));
  const target = u * weights.reduce((a, b) => a + b, 0);
  let sum = 0;
  for (const [i, id] of ids.entries()) {
    sum += weights[i] ?? 0;
    if (sum > target) return id;
  }
  // Only rounding leads here: the last id that could be drawn.
  return ids.findLast((_, i) => (weights[i] ?? 0) > 0) ?? best;
}

/** A number in [0, 1) with 53 random bits, a function of seed and step: all ranks and meshes draw the same. */
export function sampleUniform(attrs: Attrs, step: number): number {
  const words = Uint32Array.of(step, 0, STREAM.low, STREAM.high);
  philox4x32(words, words, attr(attrs, "seedLow"), attr(attrs, "seedHigh"));
  const [high = 0, low = 0] = words;
  return ((high >>> 5) * 2 ** 26 + (low >>> 6)) / 2 ** 53;
}

registerOps(sampleToken);
