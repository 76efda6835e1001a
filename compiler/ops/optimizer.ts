import type { Placement } from "../../shared/mesh/placement.ts";
import { shard } from "../../shared/mesh/placement.ts";
import { forEachWeightGradient } from "./linear.ts";
import type { OpDefinition, ReferenceCall, StrategyRow, ValueType } from "./op.ts";
import { registerOps } from "./registry.ts";
import { allDims, at, attr, elements, inputOf, operand, outputOf, row } from "./shapes.ts";

/**
 * AdamW as PyTorch: decay, moments, update, eps outside the root (Loshchilov and Hutter 2019, arXiv:1711.05101).
 * Inputs [w, g, m, v] and, with attrs.hasFactor, a scalar that multiplies the gradient; updates w, m, v in place.
 */
const adamw: OpDefinition = {
  name: "adamw",
  infer: ([w]) => operand([w], 0) as ValueType,
  strategies: (inputs, w) => updateRows(inputs.length, 4, w),
  flops: (_inputs, w) => 15 * elements(w.shape),
  inPlace: 0,
  alsoWrites: () => [2, 3],
  reference(call) {
    const factor = factorOf(call, 4);
    const g = inputOf(call, 1);
    for (let i = 0; i < elements(g.shape); i++) adamwElement(call, i, at(g.data, i) * factor);
  },
};

/** The same update with g = dy^T x formed on the fly: inputs [dy, x, w, m, v], factor, scratch. */
const adamwFromFactors: OpDefinition = {
  name: "adamwFromFactors",
  infer: ([, , w]) => operand([w], 0) as ValueType,
  strategies: () => [],
  flops: ([dy], w) =>
    (15 + 2 * (elements(dy?.shape ?? []) / (w.shape[0] ?? 1))) * elements(w.shape),
  inPlace: 2,
  alsoWrites: () => [3, 4],
  reference(call) {
    const factor = factorOf(call, 5);
    forEachWeightGradient(call, (o, i, I, gradient) =>
      adamwElement(call, o * I + i, gradient * factor),
    );
  },
};

/** Plain SGD, with momentum as PyTorch (the buffer starts as the first gradient). Inputs [w, g] or [w, g, m], factor. */
const sgd: OpDefinition = {
  name: "sgd",
  infer: ([w]) => operand([w], 0) as ValueType,
  strategies: (inputs, w, attrs) => updateRows(inputs.length, 2 + attr(attrs, "hasMomentum"), w),
  flops: (_inputs, w) => 4 * elements(w.shape),
  inPlace: 0,
  alsoWrites: (attrs) => (attr(attrs, "hasMomentum") === 1 ? [2] : []),
  reference(call) {
    const factor = factorOf(call, 2 + attr(call.attrs, "hasMomentum"));
    const g = inputOf(call, 1);
    for (let i = 0; i < elements(g.shape); i++) sgdElement(call, i, at(g.data, i) * factor);
  },
};

const sgdFromFactors: OpDefinition = {
  name: "sgdFromFactors",
  infer: ([, , w]) => operand([w], 0) as ValueType,
  strategies: () => [],
  flops: ([dy], w) => (4 + 2 * (elements(dy?.shape ?? []) / (w.shape[0] ?? 1))) * elements(w.shape),
  inPlace: 2,
  alsoWrites: (attrs) => (attr(attrs, "hasMomentum") === 1 ? [3] : []),
  reference(call) {
    const factor = factorOf(call, 3 + attr(call.attrs, "hasMomentum"));
    forEachWeightGradient(call, (o, i, I, gradient) =>
      sgdElement(call, o * I + i, gradient * factor),
    );
  },
};

/** All tensors of an update lie alike; the scalar factor, if any, is replicated. */
function updateRows(numInputs: number, numTensors: number, w: ValueType): StrategyRow[] {
  const together = (p: Placement): StrategyRow =>
    row(
      Array.from({ length: numInputs }, (_, i): Placement => (i < numTensors ? p : "R")),
      p,
    );
  return [together("R"), ...allDims(w).map((d) => together(shard(d)))];
}

/** What the gradient is multiplied by: input `index`, where the op has one. */
export function factorOf(call: ReferenceCall, index: number): number {
  return attr(call.attrs, "hasFactor") === 1 ? at(inputOf(call, index).data, 0) : 1;
}

/** Updates element `i` of outputs w, m and v. */
export function adamwElement(call: ReferenceCall, i: number, g: number): void {
  const { decay, oneMinusBeta1, beta2, oneMinusBeta2, stepSize, rootScale, eps } = call.scalars;
  const [w, m, v] = [outputOf(call, 0).data, outputOf(call, 1).data, outputOf(call, 2).data];
  const m1 = at(m, i) + (g - at(m, i)) * oneMinusBeta1;
  const v1 = beta2 * at(v, i) + oneMinusBeta2 * g * g;
  m[i] = m1;
  v[i] = v1;
  w[i] = at(w, i) * decay - (stepSize * m1) / (Math.sqrt(v1) * rootScale + eps);
}

/** Updates element `i` of outputs w and, with momentum, m. */
export function sgdElement(call: ReferenceCall, i: number, g: number): void {
  const { stepSize, momentum } = call.scalars;
  const w = outputOf(call, 0).data;
  let direction = g;
  if (attr(call.attrs, "hasMomentum") === 1) {
    const m = outputOf(call, 1).data;
    direction = momentum * at(m, i) + g;
    m[i] = direction;
  }
  w[i] = at(w, i) - stepSize * direction;
}

registerOps(adamw, adamwFromFactors, sgd, sgdFromFactors);
