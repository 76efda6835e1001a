import { InvalidArgumentError } from "../../shared/errors.ts";
import { philox4x32 } from "../../shared/random/philox.ts";
import { finiteNumber, wholeNumber } from "./attributes.ts";
import type { Attrs, OpDefinition, ReferenceCall, ValueType } from "./op.ts";
import { registerOps } from "./registry.ts";
import {
  allDims,
  at,
  attr,
  checkFloats,
  elements,
  inputOf,
  operand,
  outputOf,
  placeOf,
  row,
  show,
  splitTogether,
} from "./shapes.ts";

const MOST_DIMS = 8;
/** Elements of one step, over all microbatches: the block number is one 32-bit word of the counter. */
const MOST_ELEMENTS = 2 ** 34;

/**
 * Zeros a share `rate` of the elements and scales the others by 1 / (1 - rate). Which ones is a function of seed, step,
 * name and the element's index in the step's global tensor alone, so it does not change with mesh or microbatches, and
 * the gradient draws the same ones again: nothing is kept. Elements 4c .. 4c + 3 take the words of Philox counter
 * [c, step, nameLow, nameHigh] under the seed.
 */
const dropout: OpDefinition = {
  name: "dropout",
  evaluationAttrs: { rate: 0 },
  numInputs: 1,
  halfInputs: [0],
  // A traced model leaves seed and microbatches at what they are before a job says them.
  modelAttrs: ["rate", "nameLow", "nameHigh", "seedLow", "seedHigh", "microbatches"],
  infer([x], attrs) {
    const type = operand([x], 0) as ValueType;
    checkFloats("dropout", [type]);
    const rate = finiteNumber("dropout", attrs, "rate", 0);
    if (rate >= 1) {
      throw new InvalidArgumentError(
        `dropout: attribute rate must be a share of at least 0 and below 1, got ${rate}`,
      );
    }
    for (const name of ["nameLow", "nameHigh", "seedLow", "seedHigh"]) {
      if (attrs[name] !== undefined)
        wholeNumber("dropout", attrs, name, { min: 0, max: 2 ** 32 - 1 });
    }
    if (attrs["microbatches"] !== undefined)
      wholeNumber("dropout", attrs, "microbatches", { min: 1 });
    const { shape } = type;
    if (shape.length < 1 || shape.length > MOST_DIMS) {
      throw new InvalidArgumentError(
        `dropout: ${show(shape)} has ${shape.length} dims; it must have 1 to ${MOST_DIMS}`,
      );
    }
    const all = elements(shape) * (attrs["microbatches"] ?? 1);
    if (all > MOST_ELEMENTS) {
      throw new InvalidArgumentError(
        `dropout: ${all} elements a step of ${show(shape)}; at most ${MOST_ELEMENTS} have numbers of their own, so use a smaller batch`,
      );
    }
    // Without a name of their own, two dropouts would drop the same elements.
    for (const name of ["nameLow", "nameHigh"])
      wholeNumber("dropout", attrs, name, { min: 0, max: 2 ** 32 - 1 });
    return type;
  },
  gradient: (g) => [g.needs(0) ? g.emit("dropout", [g.outputGradient], g.attrs) : undefined],
  strategies: (_inputs, y) => [row(["R"], "R"), ...splitTogether(1, allDims(y)), row(["P"], "P")],
  positions: ([x]) =>
    allDims(operand([x], 0) as ValueType).map((dim) => ({ attr: `axes${dim}`, operand: 0, dim })),
  drawsRandom: true,
  flops: (_inputs, y) => 12 * elements(y.shape),
  mayOverwrite: 0,
  reference(call) {
    const [x, y] = [inputOf(call, 0), outputOf(call)];
    const { threshold, scale } = dropoutNumbers(attr(call.attrs, "rate"));
    const words = wordReader(call.attrs, call.scalars.step);
    const indexOf = globalIndex(call);
    for (let i = 0; i < elements(x.shape); i++)
      y.data[i] = words(indexOf(i)) >= threshold ? at(x.data, i) * scale : 0;
  },
};

/** An element is kept when its word is at least `threshold`, and is multiplied by `scale` then. */
export function dropoutNumbers(rate: number): {
  readonly threshold: number;
  readonly scale: number;
} {
  return { threshold: Math.floor(rate * 2 ** 32), scale: Math.fround(1 / (1 - rate)) };
}

function wordReader(attrs: Attrs, step: number): (element: number) => number {
  const [counter, block] = [new Uint32Array(4), new Uint32Array(4)];
  const [low, high] = [attrs["seedLow"] ?? 0, attrs["seedHigh"] ?? 0];
  let held = -1;
  return (element) => {
    const wanted = Math.floor(element / 4);
    if (wanted !== held) {
      counter.set([wanted, step, attrs["nameLow"] ?? 0, attrs["nameHigh"] ?? 0]);
      philox4x32(block, counter, low, high);
      held = wanted;
    }
    return block[element - 4 * wanted] ?? 0;
  };
}

/** Index in the step's global tensor of local element i. Dim 0 counts the rows of all microbatches. */
function globalIndex(call: ReferenceCall): (i: number) => number {
  const { shape } = inputOf(call, 0);
  const dims = shape.map((size, dim) => {
    const { index, parts } = placeOf(call, `axes${dim}`);
    const held = dim === 0 ? size * (call.attrs["microbatches"] ?? 1) : size;
    const start = index * held + (dim === 0 ? call.scalars.microbatch * size : 0);
    return { size, start, whole: held * parts };
  });
  return (i) => {
    let [rest, global, stride] = [i, 0, 1];
    for (const { size, start, whole } of dims.toReversed()) {
      global += (start + (rest % size)) * stride;
      rest = Math.floor(rest / size);
      stride *= whole;
    }
    return global;
  };
}

registerOps(dropout);
