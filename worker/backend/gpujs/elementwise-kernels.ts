import { InternalError } from "../../../shared/errors.ts";
import type { Address, Kernels } from "../kernels.ts";
import { BINARY, type ElementwiseName, UNARY, UNARY_GRAD } from "./elementwise.ts";

/** Computes y[0..n) by a kernel of the table, from addresses and numbers in the order of its operands. */
export type RunElementwise = (
  name: ElementwiseName,
  operands: readonly (Address | number)[],
  y: Address,
  n: number,
) => void;

type ElementwiseMethods =
  | "unary"
  | "unaryGrad"
  | "binary"
  | "scale"
  | "broadcast"
  | "mseGrad"
  | "swiglu"
  | "swigluDa"
  | "swigluDb";

/** The backend's kernels that gpu.js computes, in either of its modes. */
export function elementwiseKernels(run: RunElementwise): Pick<Kernels, ElementwiseMethods> {
  return {
    unary: (op, x, y, n) => run(named(UNARY, op), [x], y, n),
    unaryGrad: (op, dy, x, dx, n) => run(named(UNARY_GRAD, op), [dy, x], dx, n),
    binary: (op, a, b, y, n) => run(named(BINARY, op), [a, b], y, n),
    scale: (x, y, n, factor) => run("scale", [x, factor], y, n),
    broadcast: (s, y, n, factor) => run("broadcast", [s, factor], y, n),
    mseGrad: (ds, x, y, dx, n, count) => run("mseGrad", [ds, x, y, 2 / count], dx, n),
    swiglu: (a, b, y, n) => run("swiglu", [a, b], y, n),
    swigluDa: (dy, a, b, da, n) => run("swigluDa", [dy, a, b], da, n),
    swigluDb: (dy, a, db, n) => run("swigluDb", [dy, a], db, n),
  };
}

function named(names: readonly ElementwiseName[], code: number): ElementwiseName {
  const name = names[code];
  if (name === undefined) throw new InternalError(`elementwise kernel ${code} of ${names.length}`);
  return name;
}
