import { InvalidArgumentError } from "../shared/errors.ts";
import type { RopeScaling } from "../shared/job/job-spec.ts";
import { apply, describe, type Parameter, positiveInteger, type SymbolicTensor } from "./trace.ts";

// Legend: B batch, T tokens, F features. Dims of a tensor are counted with the batch as dim 0.

/** x w^T + b for x [..., in], weight [out, in] and bias [out]: what Linear runs, on parameters of your own. */
export function linear(x: SymbolicTensor, weight: Parameter, bias?: Parameter): SymbolicTensor {
  const y = apply("linear", [x, weight]);
  return bias === undefined ? y : apply("bias", [y, bias]);
}

export const silu = (x: SymbolicTensor): SymbolicTensor => apply("silu", [x]);
export const relu = (x: SymbolicTensor): SymbolicTensor => apply("relu", [x]);
/** x * Phi(x), the exact form. */
export const gelu = (x: SymbolicTensor): SymbolicTensor => apply("gelu", [x]);
/** The tanh approximation of gelu that GPT-2 is trained with. */
export const geluTanh = (x: SymbolicTensor): SymbolicTensor => apply("geluTanh", [x]);
export const tanh = (x: SymbolicTensor): SymbolicTensor => apply("tanh", [x]);
export const sigmoid = (x: SymbolicTensor): SymbolicTensor => apply("sigmoid", [x]);
/** silu(a) * b, in one pass. */
export const swiglu = (a: SymbolicTensor, b: SymbolicTensor): SymbolicTensor =>
  apply("swiglu", [a, b]);
/** Elementwise; shapes must be equal. */
export const add = (a: SymbolicTensor, b: SymbolicTensor): SymbolicTensor => apply("add", [a, b]);
export const sub = (a: SymbolicTensor, b: SymbolicTensor): SymbolicTensor => apply("sub", [a, b]);
export const mul = (a: SymbolicTensor, b: SymbolicTensor): SymbolicTensor => apply("mul", [a, b]);

export const scale = (x: SymbolicTensor, factor: number): SymbolicTensor => {
  if (!Number.isFinite(factor))
    throw new InvalidArgumentError(
      `scale: factor must be a finite number, got ${describe(factor)}`,
    );
  return apply("scale", [x], { factor });
};

/** x [B, T, F] plus row t of table [positions, F] at every token t. */
export const addPosition = (x: SymbolicTensor, table: Parameter): SymbolicTensor =>
  apply("addPosition", [x, table]);

/** The same numbers with other dims after the batch; one dim may be -1: what is left over. */
export function reshape(x: SymbolicTensor, dims: readonly number[]): SymbolicTensor {
  // Whatever a user's JavaScript hands in; a boolean, so that the check does not turn the type into any[].
  const isList: boolean = Array.isArray(dims);
  if (!isList || dims.length > 7) {
    throw new InvalidArgumentError(
      `reshape: dims must be a list of at most 7 sizes after the batch, got ${describe(dims)}`,
    );
  }
  const known = dims.filter((dim) => dim !== -1);
  for (const dim of known) positiveInteger(dim, "reshape", "every dim");
  const elements = x.dims.reduce((product, dim) => product * dim, 1);
  const rest = elements / known.reduce((product, dim) => product * dim, 1);
  const given = `[batch, ${x.dims.join(", ")}] to [batch, ${dims.join(", ")}]`;
  const open = dims.length - known.length;
  if (open > 1) throw new InvalidArgumentError(`reshape: ${given} leaves more than one dim open`);
  if (open === 0 ? rest !== 1 : !Number.isInteger(rest)) {
    throw new InvalidArgumentError(
      `reshape: ${given}: ${elements} numbers a row do not fit; the batch stays as it is`,
    );
  }
  const attrs: Record<string, number> = { rank: dims.length + 1 };
  dims.forEach((dim, i) => {
    attrs[`d${i + 1}`] = dim === -1 ? rest : dim;
  });
  return apply("reshape", [x], attrs);
}

/** Swaps two dims, neither of them the batch (dim 0); negative ones count from the end. */
export function transpose(x: SymbolicTensor, first: number, second: number): SymbolicTensor {
  const rank = x.dims.length + 1;
  const [a = 0, b = 0] = [first, second].map((dim) => {
    const index = dim < 0 ? dim + rank : dim;
    if (!Number.isInteger(index) || index < 1 || index >= rank) {
      throw new InvalidArgumentError(
        `transpose: dim ${describe(dim)} of [batch, ${x.dims.join(", ")}] can't be swapped; use 1 to ${rank - 1}`,
      );
    }
    return index;
  });
  return a === b ? x : apply("transpose", [x], { a, b });
}

export interface RopeOptions {
  /** Features of a head; even. */
  readonly headDim: number;
  /** Defaults to 500000, Llama 3's. */
  readonly theta?: number;
  readonly scaling?: RopeScaling | undefined;
}

/** Rotary position embedding of x [B, T, heads * headDim]: turns adjacent pairs of features by an angle that grows with t. */
export function rope(x: SymbolicTensor, options: RopeOptions): SymbolicTensor {
  const { headDim, theta = 500000, scaling } = options;
  positiveInteger(headDim, "rope", "headDim");
  return apply("rope", [x], { headDim, theta, inverse: 0, ...scaling });
}

export interface AttentionOptions {
  readonly heads: number;
  /** Heads of k and v, each shared by heads / kvHeads of q. Defaults to heads. */
  readonly kvHeads?: number;
  /** Whether a token sees only itself and those before it. Defaults to true. */
  readonly causal?: boolean;
}

/** softmax(q k^T / sqrt(headDim)) v for q [B, T, heads * headDim] and k, v [B, T, kvHeads * headDim]. */
export function attention(
  q: SymbolicTensor,
  k: SymbolicTensor,
  v: SymbolicTensor,
  options: AttentionOptions,
): SymbolicTensor {
  const { heads, kvHeads = heads, causal = true } = options;
  positiveInteger(heads, "attention", "heads");
  positiveInteger(kvHeads, "attention", "kvHeads");
  const features = q.dims.at(-1) ?? 0;
  if (features % heads !== 0) {
    throw new InvalidArgumentError(
      `attention: ${features} features of q are no whole ${heads} heads`,
    );
  }
  const headDim = features / heads;
  return apply("attention", [q, k, v], { heads, kvHeads, headDim, causal: causal ? 1 : 0 });
}
