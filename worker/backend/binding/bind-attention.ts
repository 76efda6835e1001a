import { firstPosition } from "../../../compiler/ops/first-position.ts";
import { MAX_HEAD_DIM, ropeFrequencies } from "../../../compiler/ops/rope-frequencies.ts";
import { type Address, type HeadSizes, hostTable, NULL } from "../kernels.ts";
import { type BindContext, type Binder, type BoundInstruction, partAt, perStep } from "./binder.ts";
import type { Operand, Operands } from "./operands.ts";

const rope: Binder = (o, context) => {
  const x = o.activation(0);
  const [B, T, F] = threeDims(o, x);
  const y = o.result(0, x.n);
  const frequencies = hostTable(ropeFrequencies(o.attrs));
  const headDim = 2 * frequencies.values.length;
  if (F % headDim !== 0) o.fail(`${F} features are no whole heads of ${headDim}`);
  const part = partAt(o, context, "sequenceAxes");
  const direction = o.attr("inverse") === 1 ? -1 : 1;
  const { kernels } = context;
  const run: BoundInstruction = (scalars) => {
    const first = firstPosition(o.attrs, scalars, part, T);
    kernels.rope(x.address, frequencies, y.address, B, T, F, headDim, first, direction);
  };
  return o.attrs["context"] === undefined ? run : perStep(run);
};

/** q, k (, v) of inputs from `first` on, checked against the heads of the attributes. */
export function attentionOperands(
  o: Operands,
  context: BindContext,
  first: number,
  hasValues: boolean,
): { q: Operand; k: Operand; v: Address; sizes: HeadSizes; lseLength: number } {
  const q = o.activation(first);
  const k = o.activation(first + 1);
  const v = hasValues ? o.activation(first + 2, k.n).address : NULL;
  const [B, T, features] = threeDims(o, q);
  const [keyB, keyT, keyFeatures] = threeDims(o, k);
  const headDim = o.attr("headDim");
  const [heads, kvHeads] = [o.attr("heads"), o.attr("kvHeads")];
  if (keyB !== B || keyT !== T) o.fail("batch or tokens of queries and keys differ");
  if (!Number.isInteger(headDim) || headDim < 1 || headDim > MAX_HEAD_DIM) {
    o.fail(`headDim ${headDim} is none of 1 to ${MAX_HEAD_DIM}`);
  }
  const [H, KV, group] = [features / headDim, keyFeatures / headDim, heads / kvHeads];
  if (![H, KV, group].every((n) => Number.isSafeInteger(n) && n > 0)) {
    o.fail(`${H} heads and ${KV} kvHeads of ${heads} and ${kvHeads}`);
  }
  const shift =
    H * partAt(o, context, "headAxes").index - KV * group * partAt(o, context, "kvHeadAxes").index;
  if (shift < 0 || Math.floor((shift + H - 1) / group) >= KV) {
    o.fail(`heads from ${shift} on, ${group} to a key-value head, lie outside of ${KV}`);
  }
  const causal = o.attr("causal") === 1 ? 1 : 0;
  return { q, k, v, sizes: [B, T, H, KV, headDim, group, shift, causal], lseLength: B * T * H };
}

const attention =
  (outputs: { readonly o?: number; readonly lse?: number }): Binder =>
  (o, context) => {
    const hasOutput = outputs.o !== undefined;
    const { q, k, v, sizes, lseLength } = attentionOperands(o, context, 0, hasOutput);
    const out = outputs.o === undefined ? NULL : o.result(outputs.o, q.n).address;
    const lse = outputs.lse === undefined ? NULL : o.output(outputs.lse, lseLength).address;
    const { kernels } = context;
    return () => kernels.attention(q.address, k.address, v, out, lse, ...sizes);
  };

/** Gradients of q, k and v are the outputs named; the others are not formed. */
const attentionGrad =
  (outputs: readonly ("dq" | "dk" | "dv")[]): Binder =>
  (o, context) => {
    const { q, k, v, sizes, lseLength } = attentionOperands(o, context, 1, true);
    const [dOut, out, lse] = [o.activation(0, q.n), o.activation(4, q.n), o.input(5, lseLength)];
    const gradient = (name: (typeof outputs)[number], n: number): Address => {
      const index = outputs.indexOf(name);
      return index < 0 ? NULL : o.result(index, n).address;
    };
    const [dq, dk, dv] = [gradient("dq", q.n), gradient("dk", k.n), gradient("dv", k.n)];
    const { kernels } = context;
    return () =>
      kernels.attentionGrad(
        dOut.address,
        q.address,
        k.address,
        v,
        out.address,
        lse.address,
        dq,
        dk,
        dv,
        ...sizes,
      );
  };

function threeDims(o: Operands, { shape }: Operand): [B: number, T: number, F: number] {
  const [B, T, F] = shape;
  if (shape.length !== 3 || B === undefined || T === undefined || F === undefined) {
    return o.fail(`an operand of ${shape.length} dims where [batch, tokens, features] is needed`);
  }
  return [B, T, F];
}

export const ATTENTION_BINDERS: readonly (readonly [op: string, binder: Binder])[] = [
  ["rope", rope],
  ["attention", attention({ o: 0 })],
  ["attentionStats", attention({ lse: 0 })],
  ["attentionWithStats", attention({ o: 0, lse: 1 })],
  ["attentionDq", attentionGrad(["dq"])],
  ["attentionDk", attentionGrad(["dk"])],
  ["attentionDv", attentionGrad(["dv"])],
  ["attentionGrad", attentionGrad(["dq", "dk", "dv"])],
];
