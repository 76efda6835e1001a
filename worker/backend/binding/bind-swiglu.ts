import type { Binder } from "./binder.ts";

const swiglu: Binder = (o, { kernels }) => {
  const a = o.activation(0);
  const [b, y] = [o.activation(1, a.n), o.result(0, a.n)];
  return () => kernels.swiglu(a.address, b.address, y.address, a.n);
};

const swigluDa: Binder = (o, { kernels }) => {
  const dy = o.activation(0);
  const [a, b, da] = [o.activation(1, dy.n), o.activation(2, dy.n), o.result(0, dy.n)];
  return () => kernels.swigluDa(dy.address, a.address, b.address, da.address, dy.n);
};

const swigluDb: Binder = (o, { kernels }) => {
  const dy = o.activation(0);
  const [a, db] = [o.activation(1, dy.n), o.result(0, dy.n)];
  return () => kernels.swigluDb(dy.address, a.address, db.address, dy.n);
};

const swigluGrad: Binder = (o, { kernels }) => {
  const dy = o.activation(0);
  const [a, b] = [o.activation(1, dy.n), o.activation(2, dy.n)];
  const [da, db] = [o.result(0, dy.n), o.result(1, dy.n)];
  if (da.n > 0 && da.address === db.address) o.fail("both outputs are the same bytes");
  return () => kernels.swigluGrad(dy.address, a.address, b.address, da.address, db.address, dy.n);
};

export const SWIGLU_BINDERS: readonly (readonly [op: string, binder: Binder])[] = [
  ["swiglu", swiglu],
  ["swigluDa", swigluDa],
  ["swigluDb", swigluDb],
  ["swigluGrad", swigluGrad],
];
