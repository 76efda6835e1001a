import type { Layout, Placement } from "../../shared/mesh/placement.ts";
import type { CollectiveOp, DType, Phase } from "../../shared/program/program.ts";
import type { Attrs } from "../ops/op.ts";

/**
 * One rank's share of the step as SSA values in local shapes, before it is scheduled and laid out in memory.
 * All ranks have the same one.
 */
export interface RankValue {
  readonly id: number;
  readonly kind: "leaf" | "compute" | "collective" | "scratch" | "part";
  /** Op of a compute value; empty otherwise. */
  readonly op: string;
  readonly inputs: readonly number[];
  readonly attrs: Attrs;
  readonly shape: readonly number[];
  readonly dtype: DType;
  readonly layout: Layout;
  readonly phase: Phase;
  /** Value of the training graph that this one is (a copy of). */
  readonly origin: number;
  readonly collective: CollectiveMove | undefined;
  /** Values of kind `part` that this compute value's op makes along with its own. */
  readonly makes?: readonly number[];
  /** Of a collective that carries several values: how many. */
  readonly together?: number;
  /** Leaf whose bytes this value takes over when it is written: an updated parameter, gathered or not. */
  readonly replaces: number | undefined;
}

export interface CollectiveMove {
  readonly op: CollectiveOp;
  readonly axes: readonly number[];
  readonly from: Placement;
  readonly to: Placement;
  readonly outer: number;
  readonly chunkElements: number;
}
