import { type Binder, copyAll, partAt } from "./binder.ts";
import { fillShape } from "./fill-shape.ts";
import type { Operands } from "./operands.ts";

/** Elements of a step that have numbers of their own: four to each 32-bit block number. */
const MOST_ELEMENTS = 2 ** 34;

const dropout: Binder = (o, context) => {
  const { kernels } = context;
  const [x, rate] = [o.activation(0), o.attr("rate")];
  const y = o.result(0, x.n);
  if (!(rate >= 0 && rate < 1)) o.fail(`a rate of ${rate}`);
  if (rate === 0) return copyAll(kernels, x, y);

  const microbatches = o.attr("microbatches");
  if (!Number.isSafeInteger(microbatches) || microbatches < 1)
    o.fail(`${microbatches} microbatches`);
  const dims = x.shape.map((size, dim) => {
    const { index, parts } = partAt(o, context, `axes${dim}`);
    const held = dim === 0 ? size * microbatches : size;
    return { size, start: index * held, whole: held * parts };
  });
  const globalShape = dims.map(({ whole }) => whole);
  if (globalShape.reduce((n, size) => n * size, 1) > MOST_ELEMENTS)
    o.fail(`more than ${MOST_ELEMENTS} elements a step`);

  const [seed, name] = [pair(o, "seed"), pair(o, "name")];
  const [threshold, scale] = [Math.floor(rate * 2 ** 32), 1 / (1 - rate)];
  const shapes = new Map<number, ReturnType<typeof fillShape>>();
  return ({ step, microbatch }) => {
    if (x.n === 0) return;
    let shape = shapes.get(microbatch);
    if (shape === undefined) {
      const intervals = dims.map(({ size, start }, dim) => {
        const first = dim === 0 ? start + microbatch * size : start;
        return { start: first, end: first + size };
      });
      shape = fillShape(globalShape, intervals);
      shapes.set(microbatch, shape);
    }
    kernels.dropout(
      x.address,
      y.address,
      shape.values,
      shape.dims,
      seed,
      name,
      step,
      threshold,
      scale,
    );
  };
};

/** The 64-bit number whose halves are attributes `<name>Low` and `<name>High`. */
function pair(o: Operands, name: string): bigint {
  const half = (end: string): bigint => {
    const value = o.attr(`${name}${end}`);
    if (!Number.isInteger(value) || value < 0 || value >= 2 ** 32)
      o.fail(`attribute ${name}${end} is ${value}, no 32-bit word`);
    return BigInt(value);
  };
  return (half("High") << 32n) | half("Low");
}

export const DROPOUT_BINDERS: readonly (readonly [op: string, binder: Binder])[] = [
  ["dropout", dropout],
];
