import type { Mesh } from "../../shared/mesh/mesh.ts";
import type { Placement } from "../../shared/mesh/placement.ts";
import type { StepScalars } from "../../shared/optimizer/step-scalars.ts";
import type { DType } from "../../shared/program/program.ts";

export type Attrs = Readonly<Record<string, number>>;

/** Shape and dtype of a value, in global or local sizes. */
export interface ValueType {
  readonly shape: readonly number[];
  readonly dtype: DType;
}

/** Numbers that a reference implementation reads and writes; which array holds them is its caller's affair. */
export type NumberArray = Float64Array | Float32Array | Int32Array;

export interface ReferenceTensor {
  readonly data: NumberArray;
  readonly shape: readonly number[];
}

/** One call of an op's reference implementation. In-place ops get the same data as input and output. */
export interface ReferenceCall {
  readonly inputs: readonly ReferenceTensor[];
  readonly outputs: readonly ReferenceTensor[];
  readonly attrs: Attrs;
  readonly scalars: StepScalars;
  readonly mesh: Mesh;
  /** This rank's coordinate on every mesh axis. */
  readonly coordinates: readonly number[];
}

/**
 * How an op may run on one mesh axis: placements wanted of its inputs, and the placement of its output that follows.
 * The row `linear (S1, S1 -> P)` says: with both operands split along in-features, ranks hold summands.
 */
export interface StrategyRow {
  readonly inputs: readonly Placement[];
  readonly output: Placement;
}

/** What the differentiator offers a gradient rule: it emits gradient ops and returns their values. */
export interface GradientBuilder {
  readonly inputs: readonly number[];
  readonly output: number;
  readonly outputGradient: number;
  readonly attrs: Attrs;
  /** Whether input `index` needs a gradient; a rule must not emit ops for one that does not. */
  needs(index: number): boolean;
  typeOf(value: number): ValueType;
  /** `type` is needed only where the op's inputs do not tell it (broadcast). */
  emit(op: string, inputs: readonly number[], attrs?: Attrs, type?: ValueType): number;
  /** Operands of the op that made `value`; empty for a leaf. */
  operandsOf(value: number): readonly number[];
  /** Adds a gradient contribution to a value that is not an input of the op, but lies before it. */
  contribute(value: number, gradient: number): void;
}

/**
 * An attribute that says where a rank's part of a tensor lies: lowering sets it to the bit mask of the mesh axes that
 * split dim `dim` of operand `operand` (-1: the output), 0 when none does. `partOf` (shared/mesh) turns it into a part's number.
 */
export interface PositionAttr {
  readonly attr: string;
  readonly operand: number;
  readonly dim: number;
}

/** A dim that may be cut between units only: heads of some features each. */
export interface Unit {
  readonly size: number;
  /** What the units are called in errors: `heads`, `kvHeads`. */
  readonly name: string;
}

/** What a plan's style makes of a layer whose op this is; `last` is the output's last dim. */
export interface LayerStyle {
  /** Of the layer's parameters: input 1 of the op and those after it. */
  readonly weight: Placement;
  /** Of a bias added after the op. */
  readonly bias: Placement;
  /** Of the op's own output; `output`: as the layer's output. A partial product is reduced to it before a bias is added. */
  readonly product: "output" | "last";
  /** Of the layer's output, where the style's options do not say it. */
  readonly output: Placement | "last";
}

/** Ops that take a weight's gradient as its factors, so that it never exists. */
export interface FactorUpdates {
  /** [factor 0, factor 1, w, m, v (, clip factor) (, scratch)] -> [w, m, v] */
  readonly adamw: string;
  /** [factor 0, factor 1, w (, m) (, clip factor) (, scratch)] -> [w (, m)] */
  readonly sgd: string;
  /** [factor 0, factor 1 (, scratch)] -> float64 scalar */
  readonly sumSquares: string;
  /** Working space and attributes of one fused call on these local factors and gradient. */
  plan(
    factors: readonly ValueType[],
    gradient: ValueType,
  ): {
    readonly attrs: Attrs;
    readonly updateScratch: ValueType | undefined;
    readonly squareScratch: ValueType | undefined;
  };
}

/** One op: everything the compiler, the interpreter and the reference backend know of it. */
export interface OpDefinition {
  readonly name: string;
  /** How many inputs it takes; given for the ops that models may hold, whose graphs come from users, and for no others. */
  readonly numInputs?: number;
  /** Attributes that a model may give it; the compiler's own are not among them. */
  readonly modelAttrs?: readonly string[];
  /** Type of the output, from global or local input types. @throws InvalidArgumentError when operands do not fit. */
  infer(inputs: readonly ValueType[], attrs: Attrs): ValueType;
  /** Gradient contribution of each input (undefined where not needed); absent for ops never differentiated. */
  gradient?(builder: GradientBuilder): readonly (number | undefined)[];
  /** Rows in order of preference when costs are equal. */
  strategies(inputs: readonly ValueType[], output: ValueType, attrs: Attrs): readonly StrategyRow[];
  /** Floating-point operations of one call on operands of these (local) types. */
  flops(inputs: readonly ValueType[], output: ValueType): number;
  /** Inputs 0 and 1 are the factors of a weight's gradient, which updates may take up without forming it. */
  readonly weightGradient?: FactorUpdates;
  /** Where the op needs to know which part of a tensor a rank holds. */
  positions?(
    inputs: readonly ValueType[],
    output: ValueType,
    attrs: Attrs,
  ): readonly PositionAttr[];
  /** Units that dim `dim` of input `operand` (-1: the output) is cut in; absent: single elements. */
  unit?(operand: number, dim: number, attrs: Attrs): Unit | undefined;
  /**
   * Partners that one pass computes along with this op: values of ops `partners` whose inputs are the first inputs of
   * this one become further outputs of op `into`, in the order named. Used only where all partners are there.
   */
  readonly fusesWith?: { readonly partners: readonly string[]; readonly into: string };
  /** What kind of layer plans see where a model calls this op with a parameter, and the styles it may have. */
  readonly layer?: { readonly kind: string; readonly styles: Readonly<Record<string, LayerStyle>> };
  /**
   * Inputs that are bfloat16 where the job computes in bfloat16: activations, and weights of products. The others, and all
   * of an op that names none, stay float32; the output's dtype follows by `infer`.
   */
  readonly halfInputs?: readonly number[];
  /** Draws random numbers by global row: attrs `microbatches`, `seedLow` and `seedHigh` are then set. */
  readonly drawsRandom?: true;
  /** The output is the input's bytes in another shape: nothing is copied. */
  readonly isView?: true;
  /** Attributes that change in a held-out evaluation. */
  readonly evaluationAttrs?: Attrs;
  /** Input whose bytes the output may take over where nobody else reads them afterwards. */
  readonly mayOverwrite?: number;
  /** Index of the input whose bytes the output takes over (in-place update), if any. */
  readonly inPlace?: number;
  /** Further inputs written in place (optimizer moments). */
  alsoWrites?(attrs: Attrs): readonly number[];
  /** Plain loops, sums in float64. */
  reference(call: ReferenceCall): void;
}
