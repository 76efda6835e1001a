import { InvalidArgumentError } from "../../shared/errors.ts";
import { flag, wholeNumber } from "./attributes.ts";
import type { Attrs, PositionAttr, ReferenceCall, Unit, ValueType } from "./op.ts";
import { MAX_HEAD_DIM } from "./rope-frequencies.ts";
import { attr, inputOf, isFloat, operand, placeOf, show } from "./shapes.ts";

// Legend: B batch, T tokens, H query heads, KV key-value heads; hd features of one head. Query head h of all reads
// key-value head floor(h / (H / KV)).

export type Kind = "heads" | "kvHeads";

/** What the attention ops check of their operands, which are global or one rank's parts. */
export class AttentionShape {
  readonly #op: string;
  readonly #attrs: Attrs;
  readonly #q: readonly number[];

  /** @throws InvalidArgumentError when attributes make no sense, or q is no [B, T, heads * headDim] */
  constructor(op: string, attrs: Attrs, q: ValueType | undefined) {
    this.#op = op;
    this.#attrs = attrs;
    const heads = wholeNumber(op, attrs, "heads", { min: 1 });
    const kvHeads = wholeNumber(op, attrs, "kvHeads", { min: 1 });
    wholeNumber(op, attrs, "headDim", { min: 1, max: MAX_HEAD_DIM });
    flag(op, attrs, "causal");
    if (heads % kvHeads !== 0) {
      throw new InvalidArgumentError(
        `${op}: ${heads} heads are no multiple of ${kvHeads} kvHeads; every key-value head serves equally many heads`,
      );
    }
    this.#q = this.#three("q", q).shape;
    this.#headsIn("q", this.#q, "heads");
  }

  /** An operand like q: the output or its gradient. */
  likeQuery(name: string, type: ValueType | undefined): void {
    const { shape } = this.#three(name, type);
    if (shape.some((size, dim) => size !== this.#q[dim])) {
      throw new InvalidArgumentError(
        `${this.#op}: ${name} ${show(shape)} must be of q's shape ${show(this.#q)}`,
      );
    }
  }

  /** Keys or values: batch and tokens of q, and as many heads as q's part of the heads calls for. */
  keyed(name: string, type: ValueType | undefined): void {
    const { shape } = this.#three(name, type);
    if (shape[0] !== this.#q[0] || shape[1] !== this.#q[1]) {
      throw new InvalidArgumentError(
        `${this.#op}: batch and tokens of ${name} ${show(shape)} must be those of q ${show(this.#q)}`,
      );
    }
    const own = this.#headsIn(name, shape, "kvHeads");
    const [cuts, queryCuts] = [
      attr(this.#attrs, "kvHeads") / own,
      attr(this.#attrs, "heads") / this.#headsIn("q", this.#q, "heads"),
    ];
    if (queryCuts % cuts !== 0) {
      throw new InvalidArgumentError(
        `${this.#op}: q ${show(this.#q)} has 1/${queryCuts} of ${attr(this.#attrs, "heads")} heads and ${name} ${show(shape)} 1/${cuts} of ${attr(this.#attrs, "kvHeads")} kvHeads`,
      );
    }
  }

  /** Log-sum-exp statistics [B, T, H]. */
  statistics(type: ValueType | undefined): void {
    const { shape } = operand([type], 0) as ValueType;
    const wanted = this.statisticsType().shape;
    if (shape.length !== 3 || shape.some((size, dim) => size !== wanted[dim])) {
      throw new InvalidArgumentError(
        `${this.#op}: statistics ${show(shape)} where ${show(wanted)} are needed`,
      );
    }
  }

  statisticsType(): ValueType {
    const heads = this.#headsIn("q", this.#q, "heads");
    return { shape: [this.#q[0] ?? 0, this.#q[1] ?? 0, heads], dtype: "float32" };
  }

  #three(name: string, type: ValueType | undefined): ValueType {
    const found = operand([type], 0) as ValueType;
    if (found.shape.length !== 3 || !isFloat(found.dtype)) {
      throw new InvalidArgumentError(
        `${this.#op}: ${name} must be float32 [batch, tokens, features], got ${found.dtype} ${show(found.shape)}`,
      );
    }
    return found;
  }

  /** Heads in the features of an operand: all, or an equal part of them. */
  #headsIn(name: string, shape: readonly number[], kind: Kind): number {
    const [features, headDim, all] = [
      shape[2] ?? 0,
      attr(this.#attrs, "headDim"),
      attr(this.#attrs, kind),
    ];
    const own = features / headDim;
    if (!Number.isInteger(own) || own < 1 || all % own !== 0) {
      throw new InvalidArgumentError(
        `${this.#op}: ${features} features of ${name} ${show(shape)} are not ${all} ${kind} of ${headDim}`,
      );
    }
    return own;
  }
}

/** Operands that hold keys, values or their gradients; all others are split in query heads. */
export const unitOf =
  (keyed: readonly number[], statistics = Number.NaN) =>
  (operand: number, dim: number, attrs: Attrs): Unit | undefined => {
    if (dim !== 2 || operand === statistics) return undefined;
    const name: Kind = keyed.includes(operand) ? "kvHeads" : "heads";
    return { size: attr(attrs, "headDim"), name };
  };

/** Which heads a rank holds: those of q and k, at the operands named. */
export const headPositions = (q: number, k: number) => (): readonly PositionAttr[] => [
  { attr: "headAxes", operand: q, dim: 2 },
  { attr: "kvHeadAxes", operand: k, dim: 2 },
];

/** Local sizes of an attention op, and what each query head reads. */
export interface LocalHeads {
  readonly B: number;
  readonly T: number;
  readonly H: number;
  readonly KV: number;
  readonly headDim: number;
  readonly scale: number;
  readonly causal: boolean;
  /** Local key-value head of local query head `h`. */
  kvHead(h: number): number;
}

/** Reads the sizes of a call whose inputs `q` and `k` are queries and keys. */
export function localHeads(call: ReferenceCall, q: number, k: number): LocalHeads {
  const { attrs } = call;
  const [B = 0, T = 0, features = 0] = inputOf(call, q).shape;
  const headDim = attr(attrs, "headDim");
  const [H, KV] = [features / headDim, (inputOf(call, k).shape[2] ?? 0) / headDim];
  const group = attr(attrs, "heads") / attr(attrs, "kvHeads");
  const first = H * placeOf(call, "headAxes").index;
  const firstKv = KV * placeOf(call, "kvHeadAxes").index;
  return {
    B,
    T,
    H,
    KV,
    headDim,
    scale: 1 / Math.sqrt(headDim),
    causal: attr(attrs, "causal") === 1,
    kvHead: (h) => Math.floor((first + h) / group) - firstKv,
  };
}
