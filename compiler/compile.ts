import type { ForwardGraph, LossKind } from "../shared/graph/graph.ts";
import type { Mesh } from "../shared/mesh/mesh.ts";
import type { OptimizerSpec, Program, ScheduleSpec } from "../shared/program/program.ts";

/** What one mesh axis does to the model. Any axis may do any of it. */
export interface AxisRole {
  /** Layer pattern to style; applies along this axis. */
  readonly styles: Readonly<Record<string, string>>;
  /** Spec field that `styles` came from, for fault paths: `plan`. */
  readonly stylesPath: string;
  /** Whether the batch's rows are split over this axis. */
  readonly splitsBatch: boolean;
  /** How parameters and optimizer state are stored along this axis. */
  readonly stateSharding: "none" | "optimizer" | "full";
  /** Spec field that holds the axis's size, for fault paths: `mesh.tensorParallel`. */
  readonly sizePath: string;
}

export interface CompileRequest {
  readonly name: string;
  readonly graph: ForwardGraph;
  readonly mesh: Mesh;
  /** One per mesh axis. */
  readonly axes: readonly AxisRole[];
  readonly loss: LossKind;
  /** Rows of one optimizer step over the whole mesh. */
  readonly batchSize: number;
  readonly microbatches: number;
  readonly optimizer: OptimizerSpec;
  readonly schedule: ScheduleSpec;
  /** 0: off. */
  readonly clipGradNorm: number;
  readonly reportGradNorm: boolean;
}

export interface CompileResult {
  readonly program: Program;
  /** What a person should know: what was left off and why. */
  readonly notes: readonly string[];
}

export type Compile = (request: CompileRequest) => CompileResult;
