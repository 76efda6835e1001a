import { InternalError } from "../../../shared/errors.ts";
import { axisSize } from "../../../shared/mesh/mesh.ts";
import { dtypeBytes } from "../../../shared/program/program.ts";
import { elementCount } from "../arena-layout.ts";
import { type Address, hostTable, type Kernels, NULL } from "../kernels.ts";
import { ATTENTION_BINDERS } from "./bind-attention.ts";
import { CROSS_ENTROPY_BINDERS } from "./bind-cross-entropy.ts";
import { DECODE_BINDERS } from "./bind-decode.ts";
import { DROPOUT_BINDERS } from "./bind-dropout.ts";
import { EMBEDDING_BINDERS } from "./bind-embedding.ts";
import { NORM_BINDERS } from "./bind-norm.ts";
import { SWIGLU_BINDERS } from "./bind-swiglu.ts";
import { VIEW_BINDERS } from "./bind-view.ts";
import {
  type BindContext,
  type Binder,
  type BoundInstruction,
  copyAll,
  sameType,
} from "./binder.ts";
import type { Operand, Operands } from "./operands.ts";

const nothing: BoundInstruction = () => undefined;

/** Rows of dy and x up to which an update may form its gradient element by element; RM_FEW_ROWS in C. */
export const MAX_FACTOR_ROWS = 48;

/** @throws InternalError when no kernel runs the op, or its operands do not fit. */
export function bindInstruction(
  op: string,
  operands: Operands,
  context: BindContext,
): BoundInstruction {
  const binder = BINDERS.get(op);
  if (binder === undefined) throw new InternalError(`no kernel for op ${op}`);
  return binder(operands, context);
}

/** Ops that have kernels. */
export function boundOps(): string[] {
  return [...BINDERS.keys()];
}

const linear: Binder = (o, { kernels }) => {
  const [x, w] = [o.activation(0), o.activation(1)];
  const [O, I] = weightDims(o, w);
  const { M, K } = o.rows(x);
  if (K !== I) o.fail(`in-features differ: ${K} and ${I}`);
  const y = o.result(0, M * O);
  return () => kernels.linear(x.address, w.address, y.address, M, O, I);
};

const linearDx: Binder = (o, { kernels }) => {
  const [dy, w] = [o.activation(0), o.activation(1)];
  const [O, I] = weightDims(o, w);
  const { M, K } = o.rows(dy);
  if (K !== O) o.fail(`out-features differ: ${K} and ${O}`);
  const dx = o.result(0, M * I);
  return () => kernels.linearDx(dy.address, w.address, dx.address, M, O, I);
};

const linearDw: Binder = (o, { kernels }) => {
  const { dy, x, M, O, I } = factors(o);
  const dw = o.output(0, O * I);
  return () => kernels.linearDw(dy.address, x.address, dw.address, M, O, I);
};

const bias: Binder = (o, { kernels }) => {
  const x = o.activation(0);
  const { M, K } = o.rows(x);
  const [b, y] = [o.input(1, K), o.result(0, x.n)];
  return () => kernels.bias(x.address, b.address, y.address, M, K);
};

const biasDb: Binder = (o, { kernels }) => {
  const dy = o.activation(0);
  const { M, K } = o.rows(dy);
  const db = o.output(0, K);
  return () => kernels.biasDb(dy.address, db.address, M, K);
};

/** Codes as in elementwise.c. */
const ACTIVATIONS = ["silu", "relu", "gelu", "tanh", "sigmoid", "geluTanh"];
const BINARY = ["mul", "add", "sub"];

const activation =
  (code: number): Binder =>
  (o, { kernels }) => {
    const x = o.activation(0);
    const y = o.result(0, x.n);
    return () => kernels.unary(code, x.address, y.address, x.n);
  };

const activationGrad =
  (code: number): Binder =>
  (o, { kernels }) => {
    const x = o.activation(1);
    const [dy, dx] = [o.activation(0, x.n), o.result(0, x.n)];
    return () => kernels.unaryGrad(code, dy.address, x.address, dx.address, x.n);
  };

const binary =
  (code: number): Binder =>
  (o, { kernels }) => {
    const a = o.activation(0);
    const [b, y] = [o.activation(1, a.n), o.result(0, a.n)];
    return () => kernels.binary(code, a.address, b.address, y.address, a.n);
  };

const addN: Binder = (o, { kernels }) => {
  const y = o.anyOutput(0);
  if (y.dtype === "int32") o.fail("int32 is not summed");
  if (o.numInputs === 0) o.fail("nothing to sum");
  const addresses = Array.from({ length: o.numInputs }, (_, i) => o.input(i, y.n, y.dtype).address);
  const operands = hostTable(BigUint64Array.from(addresses, BigInt));
  const sum = y.dtype === "float64" ? kernels.addNDouble : kernels.addN;
  return () => sum(operands, y.address, y.n);
};

const accumulate: Binder = (o, { kernels }) => {
  const [acc, g, y] = [o.anyInput(0), o.anyInput(1), o.anyOutput(0)];
  if (acc.address !== y.address) o.fail("input 0 and output 0 must be the same bytes");
  if (acc.n !== g.n || y.n !== g.n || acc.dtype !== g.dtype || y.dtype !== g.dtype) {
    o.fail("operands differ in size or dtype");
  }
  if (y.dtype === "int32") o.fail("int32 is not accumulated");
  const copy = copyAll(kernels, g, y);
  const operands = hostTable(BigUint64Array.of(BigInt(acc.address), BigInt(g.address)));
  const sum = y.dtype === "float64" ? kernels.addNDouble : kernels.addN;
  return ({ microbatch }) => {
    if (microbatch === 0) copy();
    else sum(operands, y.address, y.n);
  };
};

const scale: Binder = (o, { kernels }) => {
  const x = o.activation(0);
  const [y, factor] = [o.result(0, x.n), o.attr("factor")];
  return () => kernels.scale(x.address, y.address, x.n, factor);
};

const sum =
  (divisor: (o: Operands) => number): Binder =>
  (o, { kernels }) => {
    const [x, s, by] = [o.input(0), o.output(0, 1), divisor(o)];
    return () => kernels.sum(x.address, x.n, by, s.address);
  };

const mseLoss: Binder = (o, { kernels }) => {
  const x = o.input(0);
  const [y, s, count] = [o.input(1, x.n), o.output(0, 1), o.attr("count")];
  return () => kernels.mse(x.address, y.address, x.n, count, s.address);
};

const mseLossGrad: Binder = (o, { kernels }) => {
  const [ds, x] = [o.input(0, 1), o.input(1)];
  const [y, dx, count] = [o.input(2, x.n), o.output(0, x.n), o.attr("count")];
  return () => kernels.mseGrad(ds.address, x.address, y.address, dx.address, x.n, count);
};

const broadcast: Binder = (o, { kernels }) => {
  const [s, y, factor] = [o.input(0, 1), o.output(0), o.attr("factor")];
  return () => kernels.broadcast(s.address, y.address, y.n, factor);
};

const fill: Binder = (o, { kernels }) => {
  const [y, value] = [o.output(0), o.attr("value")];
  return () => kernels.fill(y.address, y.n, value);
};

const identity: Binder = (o, { kernels }) => {
  const [x, y] = [o.anyInput(0), sameType(o, o.anyInput(0).n)];
  return copyAll(kernels, x, y);
};

const slice: Binder = (o, { kernels, mesh, coordinates }) => {
  const axis = o.attr("axis");
  const parts = axisSize(mesh, axis);
  return takePart(
    o,
    kernels,
    o.attr("dim"),
    parts,
  )(coordinates[axis] ?? o.fail(`mesh has no axis ${axis}`));
};

/** Parts of dim attrs.dim, one after another as dense blocks; or, with `join`, back. */
const blocks =
  (join: boolean): Binder =>
  (o, { kernels }) => {
    const x = o.anyInput(0);
    const y = sameType(o, x.n);
    const [dim, parts, whole] = [o.attr("dim"), o.attr("parts"), join ? y.shape : x.shape];
    const size = whole[dim];
    if (size === undefined || parts < 1 || size % parts !== 0) {
      o.fail(`dim ${dim} does not divide into ${parts} parts`);
    }
    const rows = elementCount(whole.slice(0, dim));
    // With one row the blocks already lie one after another.
    if (rows === 1) return copyAll(kernels, x, y);
    if (x.address === y.address) o.fail("blocks cannot be moved in place");
    const bytes = (elementCount(whole.slice(dim)) / parts) * dtypeBytes(x.dtype);
    const [dense, strided] = [bytes, bytes * parts];
    return () => {
      for (let part = 0; part < parts; part++) {
        const [inBlocks, inWhole] = [part * rows * bytes, part * bytes];
        if (join) {
          kernels.copy(y.address + inWhole, strided, x.address + inBlocks, dense, bytes, rows);
        } else {
          kernels.copy(y.address + inBlocks, dense, x.address + inWhole, strided, bytes, rows);
        }
      }
    };
  };

/** Every input's bytes one after another in the output. */
const pack: Binder = (o, { kernels }) => {
  const y = o.anyOutput(0);
  let end = y.address;
  const copies = Array.from({ length: o.numInputs }, (_, i) => {
    const x = o.anyInput(i);
    const [bytes, target] = [x.n * dtypeBytes(x.dtype), end];
    if (x.dtype !== y.dtype) o.fail(`input ${i} is of another dtype`);
    end += bytes;
    return () => kernels.copy(target, bytes, x.address, bytes, bytes, 1);
  });
  if (end !== y.address + y.n * dtypeBytes(y.dtype)) o.fail("inputs do not fill the output");
  return () => {
    for (const copy of copies) copy();
  };
};

const unpack: Binder = (o, { kernels }) => {
  const [x, y, offset] = [o.anyInput(0), o.anyOutput(0), o.attr("offset")];
  if (x.dtype !== y.dtype) o.fail("operands differ in dtype");
  if (!(Number.isInteger(offset) && offset >= 0 && offset + y.n <= x.n)) {
    o.fail(`elements ${offset} to ${offset + y.n} are not in the input`);
  }
  const bytes = y.n * dtypeBytes(y.dtype);
  const source = x.address + offset * dtypeBytes(x.dtype);
  return () => kernels.copy(y.address, bytes, source, bytes, bytes, 1);
};

const takeRows: Binder = (o, { kernels }) => {
  const parts = o.attr("parts");
  const take = takePart(o, kernels, 0, parts);
  const copies = Array.from({ length: parts }, (_, part) => take(part));
  return (scalars) => {
    const copy = copies[scalars.microbatch];
    if (copy === undefined) o.fail(`microbatch ${scalars.microbatch} of ${parts}`);
    else copy(scalars);
  };
};

const mask: Binder = (o, { kernels, coordinates }) => {
  const x = o.anyInput(0);
  const y = sameType(o, x.n);
  const axis = o.attr("axis");
  const coordinate = coordinates[axis] ?? o.fail(`mesh has no axis ${axis}`);
  if (coordinate === 0) return copyAll(kernels, x, y);
  const bytes = y.n * dtypeBytes(y.dtype);
  return () => kernels.zero(y.address, bytes);
};

const sumSquares: Binder = (o, { kernels }) => {
  const [x, s] = [o.input(0), o.output(0, 1, "float64")];
  return () => kernels.sumSquares(x.address, x.n, s.address);
};

const sumSquaresFromFactors: Binder = (o, { kernels }) => {
  const { dy, x, M, O, I } = factors(o);
  const s = o.output(0, 1, "float64");
  return () => kernels.sumSquaresFromFactors(dy.address, x.address, M, O, I, s.address);
};

const sqrt: Binder = (o, { kernels }) => {
  const [x, y] = [o.input(0, 1, "float64"), o.output(0, 1, "float64")];
  return () => kernels.sqrt(x.address, y.address);
};

const clipFactor: Binder = (o, { kernels }) => {
  const [norm, f, maxNorm] = [o.input(0, 1, "float64"), o.output(0, 1), o.attr("maxNorm")];
  return () => kernels.clipFactor(norm.address, f.address, maxNorm);
};

const adamw: Binder = (o, { kernels, scalars: block }) => {
  const w = o.updated(0, 0);
  const [g, m, v] = [o.input(1, w.n), o.updated(2, 1, w.n), o.updated(3, 2, w.n)];
  const factor = gradientFactor(o, 4);
  return () => {
    kernels.adamw(w.address, g.address, m.address, v.address, w.n, factor, block.address);
  };
};

const sgd: Binder = (o, { kernels, scalars: block }) => {
  const w = o.updated(0, 0);
  const g = o.input(1, w.n);
  const hasMomentum = o.attr("hasMomentum") === 1;
  const m = hasMomentum ? o.updated(2, 1, w.n).address : NULL;
  const factor = gradientFactor(o, hasMomentum ? 3 : 2);
  return () => {
    kernels.sgd(w.address, g.address, m, w.n, factor, block.address);
  };
};

const adamwFromFactors: Binder = (o, { kernels, scalars: block }) => {
  const { dy, x, M, O, I } = factors(o);
  const w = o.updated(2, 0, O * I);
  const [m, v] = [o.updated(3, 1, w.n), o.updated(4, 2, w.n)];
  const factor = gradientFactor(o, 5);
  const { scratch, tileRows } = gradientTile(o, 5, M, I);
  return () => {
    kernels.adamwFromFactors(
      dy.address,
      x.address,
      w.address,
      m.address,
      v.address,
      M,
      O,
      I,
      factor,
      block.address,
      scratch,
      tileRows,
    );
  };
};

const sgdFromFactors: Binder = (o, { kernels, scalars: block }) => {
  const { dy, x, M, O, I } = factors(o);
  const w = o.updated(2, 0, O * I);
  const hasMomentum = o.attr("hasMomentum") === 1;
  const m = hasMomentum ? o.updated(3, 1, w.n).address : NULL;
  const next = hasMomentum ? 4 : 3;
  const factor = gradientFactor(o, next);
  const { scratch, tileRows } = gradientTile(o, next, M, I);
  return () => {
    kernels.sgdFromFactors(
      dy.address,
      x.address,
      w.address,
      m,
      M,
      O,
      I,
      factor,
      block.address,
      scratch,
      tileRows,
    );
  };
};

const cast: Binder = (o, { kernels }) => {
  const x = o.anyInput(0);
  const y = o.output(0, x.n, x.dtype === "bfloat16" ? "float32" : "bfloat16");
  if (x.dtype === "bfloat16") return () => kernels.widen(x.address, y.address, x.n);
  if (x.dtype !== "float32") o.fail("only float32 and bfloat16 are cast");
  return () => kernels.round(x.address, y.address, x.n);
};

const BINDERS: ReadonlyMap<string, Binder> = new Map<string, Binder>([
  ["linear", linear],
  ["linearDx", linearDx],
  ["linearDw", linearDw],
  ["bias", bias],
  ["biasDb", biasDb],
  ...ACTIVATIONS.map((name, code): [string, Binder] => [name, activation(code)]),
  ...ACTIVATIONS.map((name, code): [string, Binder] => [`${name}Grad`, activationGrad(code)]),
  ...BINARY.map((name, code): [string, Binder] => [name, binary(code)]),
  ["addN", addN],
  ["accumulate", accumulate],
  ["scale", scale],
  ["sum", sum(() => 1)],
  ["mean", sum((o) => o.attr("count"))],
  ["mseLoss", mseLoss],
  ["mseLossGrad", mseLossGrad],
  ["broadcast", broadcast],
  ["fill", fill],
  ["identity", identity],
  ["cast", cast],
  ["slice", slice],
  ["splitBlocks", blocks(false)],
  ["joinBlocks", blocks(true)],
  ["takeRows", takeRows],
  ["pack", pack],
  ["unpack", unpack],
  ["mask", mask],
  ["sumSquares", sumSquares],
  ["sumSquaresFromFactors", sumSquaresFromFactors],
  ["sqrt", sqrt],
  ["clipFactor", clipFactor],
  ["adamw", adamw],
  ["sgd", sgd],
  ["adamwFromFactors", adamwFromFactors],
  ["sgdFromFactors", sgdFromFactors],
  ...EMBEDDING_BINDERS,
  ...NORM_BINDERS,
  ...SWIGLU_BINDERS,
  ...DROPOUT_BINDERS,
  ...VIEW_BINDERS,
  ...ATTENTION_BINDERS,
  ...CROSS_ENTROPY_BINDERS,
  ...DECODE_BINDERS,
]);

function weightDims(o: Operands, { shape }: Operand): [O: number, I: number] {
  const [O, I] = shape;
  if (shape.length !== 2 || O === undefined || I === undefined) {
    return o.fail(`a weight of ${shape.length} dims`);
  }
  return [O, I];
}

/** The factors dy(M, O) and x(M, I) of a weight's gradient: inputs 0 and 1. */
function factors(o: Operands): { dy: Operand; x: Operand; M: number; O: number; I: number } {
  const [dy, x] = [o.activation(0), o.activation(1)];
  const { M, K: O } = o.rows(dy);
  const { M: rowsOfX, K: I } = o.rows(x);
  if (M !== rowsOfX) o.fail(`rows differ: ${M} and ${rowsOfX}`);
  return { dy, x, M, O, I };
}

/** Address of the scalar that multiplies the gradient, input `index`, or NULL. */
function gradientFactor(o: Operands, index: number): Address {
  return o.attr("hasFactor") === 1 ? o.input(index, 1).address : NULL;
}

/** The scratch slot, behind the factor (input `index`) if there is one, and how many weight rows it holds. */
function gradientTile(
  o: Operands,
  index: number,
  M: number,
  I: number,
): { scratch: Address; tileRows: number } {
  const tileRows = o.attr("tileRows");
  if (tileRows === 0) {
    if (M > MAX_FACTOR_ROWS)
      o.fail(`${M} rows without tiles; at most ${MAX_FACTOR_ROWS} go directly`);
    return { scratch: NULL, tileRows };
  }
  if (!Number.isSafeInteger(tileRows) || tileRows < 0) o.fail(`tiles of ${tileRows} rows`);
  return { scratch: o.input(index + o.attr("hasFactor"), tileRows * I).address, tileRows };
}

/** Copies part `part` of `parts` equal parts of input 0's dim `dim` to output 0. */
function takePart(
  o: Operands,
  kernels: Kernels,
  dim: number,
  parts: number,
): (part: number) => BoundInstruction {
  const x = o.anyInput(0);
  const size = x.shape[dim];
  if (size === undefined || parts < 1 || size % parts !== 0) {
    o.fail(`dim ${dim} does not divide into ${parts} parts`);
  }
  const y = sameType(o, x.n / parts);
  const rows = elementCount(x.shape.slice(0, dim));
  const stride = elementCount(x.shape.slice(dim)) * dtypeBytes(x.dtype);
  const bytes = stride / parts;
  return (part) => {
    const from = x.address + part * bytes;
    if (from === y.address && (rows === 1 || parts === 1)) return nothing;
    return () => kernels.copy(y.address, bytes, from, stride, bytes, rows);
  };
}
