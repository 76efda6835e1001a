import { type Binder, partAt } from "./binder.ts";
import type { Operand, Operands } from "./operands.ts";

/** Fields of a token's statistics: largest logit, sum of exponentials, target's logit. */
const STATISTICS = 3;

const ceStats: Binder = (o, context) => {
  const z = o.activation(0);
  const { M, V } = logits(o, z);
  const [t, s] = [o.input(1, M, "int32"), o.output(0, STATISTICS * M)];
  const first = partAt(o, context, "classAxes").index * V;
  const { kernels } = context;
  return () => kernels.ceStats(z.address, t.address, s.address, M, V, first);
};

const ceMerge: Binder = (o, { kernels }) => {
  const [blocks, s] = [o.input(0), o.output(0)];
  const parts = blocks.shape[0] ?? o.fail("blocks without dims");
  if (s.shape.at(-1) !== STATISTICS || blocks.n !== parts * s.n) {
    o.fail(`${parts} blocks of ${STATISTICS} statistics a token are needed`);
  }
  const M = s.n / STATISTICS;
  return () => kernels.ceMerge(blocks.address, s.address, parts, M);
};

const ceLoss: Binder = (o, { kernels }) => {
  const s = o.input(0);
  if (s.shape.at(-1) !== STATISTICS) o.fail(`${STATISTICS} statistics a token are needed`);
  const [loss, count] = [o.output(0, 1), o.attr("count")];
  const M = s.n / STATISTICS;
  return () => kernels.ceLoss(s.address, loss.address, M, count);
};

const ceGrad: Binder = (o, context) => {
  const [ds, z] = [o.input(0, 1), o.activation(1)];
  const { M, V } = logits(o, z);
  const [t, s, dz] = [o.input(2, M, "int32"), o.input(3, STATISTICS * M), o.result(0, z.n)];
  const first = partAt(o, context, "classAxes").index * V;
  const { kernels } = context;
  const count = o.attr("count");
  return () =>
    kernels.ceGrad(ds.address, z.address, t.address, s.address, dz.address, M, V, first, count);
};

function logits(o: Operands, z: Operand): { M: number; V: number } {
  const { M, K: V } = o.rows(z);
  if (V < 1) o.fail("logits of no class");
  return { M, V };
}

export const CROSS_ENTROPY_BINDERS: readonly (readonly [op: string, binder: Binder])[] = [
  ["ceStats", ceStats],
  ["ceMerge", ceMerge],
  ["ceLoss", ceLoss],
  ["ceGrad", ceGrad],
];
