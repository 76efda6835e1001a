import { dtypeBytes } from "../../../shared/program/program.ts";
import { type Address, NULL } from "../kernels.ts";
import { type BindContext, type Binder, partAt, perStep } from "./binder.ts";
import type { Operand, Operands } from "./operands.ts";

// Legend: V local rows of a table, from global row `start` on; D features; M tokens.

const embedding: Binder = (o, context) => {
  const { kernels } = context;
  const w = o.input(1);
  const [V, D] = tableDims(o, w.shape);
  const ids = o.input(0, undefined, "int32");
  const y = o.output(0, ids.n * D);
  const start = partAt(o, context, "rowAxes").index * V;
  return () => kernels.embedding(ids.address, w.address, y.address, ids.n, V, D, start);
};

const embeddingDw: Binder = (o, context) => {
  const { kernels } = context;
  const dw = o.output(0);
  const { dy, ids, M, V, D, start } = tokens(o, context, dw.shape);
  return () => kernels.embeddingDw(dy.address, ids.address, dw.address, M, V, D, start);
};

const adamwFromRows: Binder = (o, context) => {
  const { kernels, scalars: block } = context;
  const w = o.updated(2, 0);
  const { dy, ids, M, V, D, start } = tokens(o, context, w.shape);
  const [m, v] = [o.updated(3, 1, w.n), o.updated(4, 2, w.n)];
  const { factor, scratch } = behind(o, 5, V + 1 + M);
  return () => {
    kernels.adamwFromRows(
      dy.address,
      ids.address,
      w.address,
      m.address,
      v.address,
      M,
      V,
      D,
      start,
      factor,
      block.address,
      scratch,
    );
  };
};

const sgdFromRows: Binder = (o, context) => {
  const { kernels, scalars: block } = context;
  const w = o.updated(2, 0);
  const { dy, ids, M, V, D, start } = tokens(o, context, w.shape);
  const hasMomentum = o.attr("hasMomentum") === 1;
  const m = hasMomentum ? o.updated(3, 1, w.n).address : NULL;
  const { factor, scratch } = behind(o, hasMomentum ? 4 : 3, V + 1 + M);
  return () => {
    kernels.sgdFromRows(
      dy.address,
      ids.address,
      w.address,
      m,
      M,
      V,
      D,
      start,
      factor,
      block.address,
      scratch,
    );
  };
};

const sumSquaresFromRows: Binder = (o, context) => {
  const { kernels } = context;
  const scratch = o.input(2, undefined, "int32");
  const rows = scratch.n - 1 - o.input(1, undefined, "int32").n;
  if (rows < 0) o.fail("the scratch is too small for the tokens");
  const { dy, ids, M, V, D, start } = tokens(o, context, [rows, o.rows(o.input(0)).K]);
  const s = o.output(0, 1, "float64");
  return () =>
    kernels.sumSquaresFromRows(dy.address, ids.address, M, V, D, start, scratch.address, s.address);
};

/** To a kernel a batch of sequences is rows of positions x features, and the table's rows of these positions a bias. */
const addPosition: Binder = (o, context) => {
  const { kernels } = context;
  const [x, p] = [o.activation(0), o.input(1)];
  const y = o.result(0, x.n);
  const { B, length, skip } = sequences(o, context, x, p);
  const rowBytes = length * dtypeBytes("float32");
  const period = o.attrs["context"];
  if (period !== undefined) {
    if (!Number.isSafeInteger(period) || period < 1 || period * length > p.n) {
      o.fail(`a context of ${period} positions and a table of ${p.n / length}`);
    }
    return perStep(({ step }) => {
      const from = p.address + (step % period) * rowBytes;
      kernels.bias(x.address, from, y.address, B, length);
    });
  }
  const from = p.address + skip * dtypeBytes("float32");
  return () => kernels.bias(x.address, from, y.address, B, length);
};

const addPositionDp: Binder = (o, context) => {
  const { kernels } = context;
  const [dy, dp] = [o.activation(0), o.output(0)];
  const { B, length, skip } = sequences(o, context, dy, dp);
  const [before, after] = [skip * dtypeBytes("float32"), (skip + length) * dtypeBytes("float32")];
  const rest = dp.n * dtypeBytes("float32") - after;
  return () => {
    if (before > 0) kernels.zero(dp.address, before);
    kernels.biasDb(dy.address, dp.address + before, B, length);
    if (rest > 0) kernels.zero(dp.address + after, rest);
  };
};

export const EMBEDDING_BINDERS: readonly (readonly [op: string, binder: Binder])[] = [
  ["embedding", embedding],
  ["embeddingDw", embeddingDw],
  ["adamwFromRows", adamwFromRows],
  ["sgdFromRows", sgdFromRows],
  ["sumSquaresFromRows", sumSquaresFromRows],
  ["addPosition", addPosition],
  ["addPositionDp", addPositionDp],
];

function tableDims(o: Operands, shape: readonly number[]): [rows: number, features: number] {
  const [rows, features] = shape;
  if (shape.length !== 2 || rows === undefined || features === undefined) {
    return o.fail(`a table of ${shape.length} dims`);
  }
  return [rows, features];
}

/** dy(M, D) and ids(M), inputs 0 and 1, of the gradient of a table of this local shape. */
function tokens(o: Operands, context: BindContext, table: readonly number[]) {
  const [V, D] = tableDims(o, table);
  const ids = o.input(1, undefined, "int32");
  const dy = o.input(0, ids.n * D);
  if (dy.shape.at(-1) !== D) o.fail(`features differ: ${dy.shape.at(-1)} and ${D}`);
  return { dy, ids, M: ids.n, V, D, start: partAt(o, context, "rowAxes").index * V };
}

/** The factor of the gradient, input `index` where there is one, and the scratch behind it. */
function behind(
  o: Operands,
  index: number,
  scratchLength: number,
): { factor: Address; scratch: Address } {
  const hasFactor = o.attr("hasFactor") === 1;
  return {
    factor: hasFactor ? o.input(index, 1).address : NULL,
    scratch: o.input(index + (hasFactor ? 1 : 0), scratchLength, "int32").address,
  };
}

/** B sequences [positions, features] of `length` elements, which lie at element `skip` of the table. */
function sequences(
  o: Operands,
  context: BindContext,
  { shape }: Operand,
  table: Operand,
): { B: number; length: number; skip: number } {
  const [B, T, D] = shape;
  if (shape.length !== 3 || B === undefined || T === undefined || D === undefined) {
    return o.fail(`sequences of ${shape.length} dims`);
  }
  const [rows, features] = tableDims(o, table.shape);
  const { index, parts } = partAt(o, context, "sequenceAxes");
  if (features !== D || T * parts > rows) {
    return o.fail(`${T * parts} positions of ${D} features and a table of ${rows} x ${features}`);
  }
  return { B, length: T * D, skip: index * T * D };
}
