import type { Mesh } from "../mesh/mesh.ts";
import type { Layout, Placement } from "../mesh/placement.ts";

/**
 * What one rank runs each step: plain data, the same for all ranks. What differs between ranks (intervals,
 * groups, slice starts) follows from the rank's mesh coordinates through `shared/mesh`.
 *
 * A step is: copy the batch into the input slots; `body` once per microbatch; `epilogue` once.
 */
export interface Program {
  readonly formatVersion: 1;
  readonly name: string;
  readonly mesh: Mesh;
  /** Bytes of the one arena that holds every slot. Equals a rank's peak memory exactly. */
  readonly arenaBytes: number;
  /** Parts of `arenaBytes` by what they hold; they add up to it. */
  readonly memoryByKind: Readonly<Partial<Record<MemoryKind, number>>>;
  readonly slots: readonly Slot[];
  /** Parameters and optimizer state, in the graph's order. */
  readonly stored: readonly StoredTensor[];
  readonly inputs: readonly ProgramInput[];
  /** Times `body` runs in a step (gradient accumulation). */
  readonly microbatches: number;
  readonly body: readonly Instruction[];
  readonly epilogue: readonly Instruction[];
  readonly collectives: readonly Collective[];
  /** The loss of a batch without an update, over the same weights and inputs; absent when the job evaluates nothing. */
  readonly evaluation?: EvaluationSection;
  /** Slot of the scalar loss over the whole global batch; replicated. */
  readonly lossSlot: number;
  /** Slot of the float64 global gradient norm before clipping, or -1 when the job does not need it. */
  readonly gradNormSlot: number;
  readonly optimizer: OptimizerSpec;
  readonly schedule: ScheduleSpec;
}

/** Run like a step: `body` once per microbatch, `epilogue` once. Weights and optimizer state stay as they are. */
export interface EvaluationSection {
  readonly body: readonly Instruction[];
  readonly epilogue: readonly Instruction[];
  /** Slot of the scalar loss over the whole global batch; replicated. */
  readonly lossSlot: number;
}

/** `bfloat16`: the upper half of a float32, rounded to nearest even. */
export type DType = "float32" | "float64" | "int32" | "bfloat16";

/** What activations, and the weights of products, are held in. Sums are formed in float32 at least. */
export type Precision = Extract<DType, "float32" | "bfloat16">;

export function dtypeBytes(dtype: DType): number {
  if (dtype === "float64") return 8;
  return dtype === "bfloat16" ? 2 : 4;
}

export type MemoryKind = "weights" | "optimizer" | "cache" | "gradients" | "activations" | "inputs";

/** A value's place in the arena. Slots may share bytes: an alias updates its source in place. */
export interface Slot {
  /** What the value is, for printing: `w1.weight`, `%12`. */
  readonly name: string;
  readonly dtype: DType;
  /** This rank's shape, row-major dense. */
  readonly shape: readonly number[];
  readonly offsetBytes: number;
  readonly sizeBytes: number;
}

/** A tensor that lives from step to step: a parameter, one of its optimizer moments, or a decoder's keys or values. */
export interface StoredTensor {
  /** `w1.weight`; moments carry the parameter's name and a role. */
  readonly name: string;
  readonly role: "parameter" | "moment1" | "moment2" | "cache";
  readonly globalShape: readonly number[];
  readonly layout: Layout;
  readonly slot: number;
  readonly init: InitSpec;
}

/** How a tensor starts when it is not loaded. Uniform is on [-bound, bound). */
export type InitSpec =
  | { readonly kind: "uniform"; readonly bound: number }
  | { readonly kind: "constant"; readonly value: number };

/** One tensor of the batch. */
export interface ProgramInput {
  readonly name: string;
  readonly dtype: DType;
  /** Over the whole optimizer step: [batchSize, ...]. */
  readonly globalShape: readonly number[];
  readonly layout: Layout;
  readonly slot: number;
}

export type Instruction = ComputeInstruction | CollectiveInstruction;

/** Runs one op. Operands are slot indices; in-place ops list a slot as input and as output. */
export interface ComputeInstruction {
  readonly kind: "compute";
  /** Name in the op registry (`compiler/ops`). */
  readonly op: string;
  readonly inputs: readonly number[];
  readonly outputs: readonly number[];
  readonly attrs: Readonly<Record<string, number>>;
}

/** Begins or ends collective `collective` (an index into `Program.collectives`). */
export interface CollectiveInstruction {
  readonly kind: "start" | "wait";
  readonly collective: number;
}

export type CollectiveOp = "allReduce" | "allGather" | "reduceScatter" | "allToAll";

/**
 * A collective over the ranks that share all coordinates except those on `axes`.
 *
 * The full tensor (the input of allReduce and reduceScatter, the output of allGather) is seen as
 * [outer, group size, chunkElements]: rank i of the group owns chunk i of every outer row. For allReduce, outer
 * is 1 and the chunks are the algorithm's own affair (any length works). For allToAll, outer is 1, input and output are
 * both [group size, chunkElements] and disjoint: chunk p goes to rank p, whose chunk for this rank takes its place. Input and output slots are either the
 * same bytes (in place; for allGather the input may lie in its chunk of the output) or disjoint.
 * The input may be read until the wait returns, and is not written unless it is the output.
 */
export interface Collective {
  readonly op: CollectiveOp;
  readonly axes: readonly number[];
  readonly inputSlot: number;
  readonly outputSlot: number;
  readonly dtype: DType;
  readonly outer: number;
  /** Elements of one chunk row: full tensor elements / (outer * group size); for allReduce all elements. */
  readonly chunkElements: number;
  /** Sum order and traffic are functions of these two, fixed at compile time. */
  readonly algorithm: "direct" | "ring";
  readonly segmentBytes: number;
  /** Bytes of the full tensor; for allToAll of the input. */
  readonly payloadBytes: number;
  /** Payload bytes a rank sends (headers not counted): the largest over the group where ranks differ by a ragged chunk. */
  readonly wireBytes: number;
  /** Whether all ranks of the group hold identical batches, so that frames of unlike batch hash are an error. */
  readonly sameInputs: boolean;
  /** What is moved, for people: `w2.output`, `grad h`. */
  readonly label: string;
  readonly from: Placement;
  readonly to: Placement;
  readonly phase: Phase;
}

export type Phase = "forward" | "backward" | "optimizer";

export type OptimizerSpec =
  | {
      readonly kind: "adamw";
      readonly lr: number;
      readonly betas: readonly [number, number];
      readonly eps: number;
      readonly weightDecay: number;
    }
  | { readonly kind: "sgd"; readonly lr: number; readonly momentum: number };

export type ScheduleSpec =
  | { readonly kind: "constant" }
  | { readonly kind: "linearWarmup"; readonly steps: number }
  | {
      readonly kind: "cosine";
      readonly warmupSteps: number;
      readonly minLr: number;
      readonly totalSteps: number;
    };
