import type { ForwardGraph, LossKind } from "../graph/graph.ts";

/**
 * A job as it runs: every key is there, defaults filled in, every value checked (`shared/job/resolve.ts` makes it).
 * Mirrors the JSON mapping of `protos/rankmesh/v1/job_spec.proto`; resolving a resolved spec gives it back.
 */
export interface JobSpec {
  /** At most 256 bytes of UTF-8. */
  readonly name: string;
  readonly model: ModelSpec;
  readonly init: InitSource;
  readonly mesh: MeshSpec;
  readonly dataParallelSharding: DataParallelSharding;
  /** Layer pattern to style; empty: the model's default plan. */
  readonly plan: Readonly<Record<string, string>>;
  readonly sequenceParallel: "auto" | false;
  /** Taken over the whole global batch, on any mesh. */
  readonly loss: LossKind;
  readonly optimizer: OptimizerChoice;
  readonly schedule: ScheduleChoice;
  /** Global L2 norm that the gradient is clipped to; 0: off. */
  readonly clipGradNorm: number;
  readonly reportGradNorm: boolean;
  /** Microbatches of one optimizer step; divides `data.batchSize`. */
  readonly gradientAccumulation: number;
  readonly recompute: "none";
  readonly precision: "fp32";
  readonly allowMixedBackends: false;
  readonly data: DataSpec;
  /** Steps between evaluations: always 0 (off) in this version. */
  readonly eval: { readonly every: 0 };
  /** Optimizer steps; 0 initialises and writes the output. */
  readonly steps: number;
  readonly output: OutputSpec;
}

export type DataParallelSharding = "none" | "optimizer" | "full";

/** Exactly one of the keys. */
export type ModelSpec =
  | { readonly feedForward: FeedForwardModel }
  | { readonly mlp: MlpModel }
  | { readonly graph: ForwardGraph }
  /** Path of a model file, relative to the job file. Only the command line resolves it; a server refuses it. */
  | { readonly module: string };

/** w2(silu(w1 x) * w3 x), no biases. */
export interface FeedForwardModel {
  readonly dim: number;
  readonly hidden: number;
}

export type Activation = "silu" | "relu" | "gelu" | "tanh" | "sigmoid";

/** Linear layers `layers.0`, `layers.1`, ... with an activation between them. */
export interface MlpModel {
  /** Features in, of every hidden layer, and out: at least two. */
  readonly dims: readonly number[];
  readonly activation: Activation;
  readonly bias: boolean;
}

export interface InitSource {
  /** Seed of the initial weights and of the shuffle, 0 to 2^53 - 1. */
  readonly seed: number;
  /** File that all weights are loaded from. */
  readonly safetensors?: string;
}

/** A number of ranks, or all free workers. */
export type AxisSize = number | "auto";

export interface MeshSpec {
  readonly dataParallel: AxisSize;
  readonly tensorParallel: AxisSize;
}

/** Exactly one of the keys. */
export type OptimizerChoice = { readonly adamw: AdamwSpec } | { readonly sgd: SgdSpec };

export interface AdamwSpec {
  readonly lr: number;
  readonly betas: readonly [number, number];
  readonly eps: number;
  readonly weightDecay: number;
}

export interface SgdSpec {
  readonly lr: number;
  readonly momentum: number;
}

/** Exactly one of the keys. */
export type ScheduleChoice =
  | { readonly constant: Readonly<Record<string, never>> }
  | { readonly linearWarmup: { readonly steps: number } }
  | { readonly cosine: { readonly warmupSteps: number; readonly minLr: number } };

export type DataSpec = DataSettings & DataSourceSpec;

export interface DataSettings {
  /** Rows of one optimizer step over the whole mesh. */
  readonly batchSize: number;
  /** A seeded permutation per pass over the rows. */
  readonly shuffle: boolean;
}

/** Exactly one of the keys. */
export type DataSourceSpec =
  | { readonly safetensors: { readonly path: string } }
  | { readonly random: { readonly length: number; readonly seed: number } }
  | { readonly stream: Readonly<Record<string, never>> };

export interface OutputSpec {
  /** File that the final weights are written to. */
  readonly safetensors?: string;
}

/** A job as a user writes it: what is left out has its default. What types can't say is checked when it is resolved. */
export interface JobSpecInput {
  readonly name?: string;
  readonly model: ModelInput;
  readonly init?: Partial<InitSource>;
  readonly mesh?: Partial<MeshSpec>;
  readonly dataParallelSharding?: DataParallelSharding;
  readonly plan?: Readonly<Record<string, string>>;
  readonly sequenceParallel?: "auto" | boolean;
  readonly loss?: LossKind;
  readonly optimizer?: { readonly adamw: Partial<AdamwSpec> } | { readonly sgd: Partial<SgdSpec> };
  readonly schedule?:
    | { readonly constant: Readonly<Record<string, never>> }
    | { readonly linearWarmup: { readonly steps: number } }
    | { readonly cosine: { readonly warmupSteps?: number; readonly minLr?: number } };
  readonly clipGradNorm?: number;
  readonly reportGradNorm?: boolean;
  readonly gradientAccumulation?: number;
  readonly recompute?: "none";
  readonly precision?: "fp32";
  readonly allowMixedBackends?: false;
  readonly data: DataInput;
  readonly eval?: { readonly every?: 0 };
  readonly steps?: number;
  readonly output?: OutputSpec;
}

/** Exactly one of the keys. */
export type ModelInput =
  | { readonly feedForward: Partial<FeedForwardModel> }
  | {
      readonly mlp: {
        readonly dims: readonly number[];
        readonly activation?: Activation;
        readonly bias?: boolean;
      };
    }
  | { readonly graph: ForwardGraph }
  | { readonly module: string };

export type DataInput = {
  readonly batchSize?: number;
  readonly shuffle?: boolean;
} & (
  | { readonly safetensors: { readonly path: string } }
  | { readonly random: { readonly length?: number; readonly seed?: number } }
  | { readonly stream: Readonly<Record<string, never>> }
);
