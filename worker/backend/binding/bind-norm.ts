import { NULL } from "../kernels.ts";
import type { Binder } from "./binder.ts";
import type { Operand, Operands } from "./operands.ts";

const norm =
  (hasBias: boolean): Binder =>
  (o, { kernels }) => {
    const x = o.activation(0);
    const { M, K: D } = o.rows(x);
    const [g, b] = [o.input(1, D), hasBias ? o.input(2, D).address : NULL];
    const [y, eps] = [o.result(0, x.n), o.attr("eps")];
    return () => kernels.norm(x.address, g.address, b, y.address, M, D, eps);
  };

/** Which of dx and dg are outputs, in that order. */
interface Wanted {
  readonly dx: boolean;
  readonly dg: boolean;
}

const normGrad =
  (layer: boolean, wanted: Wanted): Binder =>
  (o, { kernels }) => {
    const { dy, x, M, D } = rowsOf(o);
    const g = wanted.dx ? o.input(2, D).address : NULL;
    const dx = wanted.dx ? o.result(0, x.n).address : NULL;
    const dg = wanted.dg ? o.output(wanted.dx ? 1 : 0, D).address : NULL;
    const [code, eps] = [layer ? 1 : 0, o.attr("eps")];
    return () => kernels.normGrad(code, dy.address, x.address, g, dx, dg, M, D, eps);
  };

function rowsOf(o: Operands): { dy: Operand; x: Operand; M: number; D: number } {
  const x = o.activation(1);
  const { M, K: D } = o.rows(x);
  return { dy: o.activation(0, x.n), x, M, D };
}

export const NORM_BINDERS: readonly (readonly [op: string, binder: Binder])[] = (
  [
    ["rmsNorm", false],
    ["layerNorm", true],
  ] as const
).flatMap(([name, layer]): [string, Binder][] => [
  [name, norm(layer)],
  [`${name}Dx`, normGrad(layer, { dx: true, dg: false })],
  [`${name}Dg`, normGrad(layer, { dx: false, dg: true })],
  [`${name}Grad`, normGrad(layer, { dx: true, dg: true })],
]);
