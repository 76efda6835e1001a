import type { DType, InitSpec } from "../program/program.ts";

/**
 * A traced model: the forward pass on one device, in global shapes, with the batch dim left open.
 * Values are numbered: inputs first, then parameters, then nodes in topological order.
 */
export interface ForwardGraph {
  readonly inputs: readonly GraphInput[];
  readonly parameters: readonly GraphParameter[];
  readonly nodes: readonly GraphNode[];
  /** The value that the loss is taken of. */
  readonly output: number;
  /** Layer pattern to style, used where a job gives no plan. */
  readonly defaultPlan: Readonly<Record<string, string>>;
}

export interface GraphInput {
  readonly name: string;
  readonly dtype: Exclude<DType, "float64">;
  /** Dims after the batch dim. */
  readonly dims: readonly number[];
}

export interface GraphParameter {
  /** Layer path and role joined by a dot: `layers.0.weight`. */
  readonly name: string;
  readonly dims: readonly number[];
  readonly init: InitSpec;
}

export interface GraphNode {
  /** Name in the op registry (`compiler/ops`). */
  readonly op: string;
  readonly inputs: readonly number[];
  readonly attrs: Readonly<Record<string, number>>;
  /** Path of the module that made the node: what plans match and errors name. */
  readonly layer: string;
}

export type LossKind = "sum" | "mean" | "mse" | "cross_entropy";
