import { type DType, dtypeBytes } from "../../../shared/program/program.ts";
import { elementCount } from "../arena-layout.ts";
import { type Binder, copyAll, sameType } from "./binder.ts";

/** A transposition moves words: as large as all elements are whole multiples of. */
const wordBytes = (dtype: DType): number => Math.min(4, dtypeBytes(dtype));

const reshape: Binder = (o, { kernels }) => {
  const x = o.anyInput(0);
  return copyAll(kernels, x, sameType(o, x.n));
};

/** x(outer, A, between, B, inner) to y(outer, B, between, A, inner), in words of 4 bytes, of 2 for bfloat16. */
const transpose: Binder = (o, { kernels }) => {
  const x = o.anyInput(0);
  const y = sameType(o, x.n);
  const [a, b] = [Math.min(o.attr("a"), o.attr("b")), Math.max(o.attr("a"), o.attr("b"))];
  const [A, B] = [x.shape[a], x.shape[b]];
  if (A === undefined || B === undefined) return o.fail(`dims ${a} and ${b} are not both there`);
  if (a === b) return copyAll(kernels, x, y);
  if (x.n > 0 && x.address === y.address) o.fail("a tensor cannot be transposed in place");
  const outer = elementCount(x.shape.slice(0, a));
  const between = elementCount(x.shape.slice(a + 1, b));
  const inner = elementCount(x.shape.slice(b + 1)) * (dtypeBytes(x.dtype) / wordBytes(x.dtype));
  return () => kernels.transpose(x.address, y.address, outer, A, between, B, inner);
};

export const VIEW_BINDERS: readonly (readonly [op: string, binder: Binder])[] = [
  ["reshape", reshape],
  ["transpose", transpose],
];
