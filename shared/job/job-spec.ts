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
  /** Of a model's default plan: whether norms and residual sums are split along the sequence; auto: where it divides. */
  readonly sequenceParallel: "auto" | boolean;
  /** Taken over the whole global batch, on any mesh. */
  readonly loss: LossKind;
  readonly optimizer: OptimizerChoice;
  readonly schedule: ScheduleChoice;
  /** Global L2 norm that the gradient is clipped to; 0: off. */
  readonly clipGradNorm: number;
  readonly reportGradNorm: boolean;
  /** Microbatches of one optimizer step; divides `data.batchSize`. */
  readonly gradientAccumulation: number;
  readonly recompute: Recompute;
  readonly precision: JobPrecision;
  /** Whether ranks may run on unlike backends, whose copies of a value differ by rounding. */
  readonly allowMixedBackends: boolean;
  readonly data: DataSpec;
  readonly eval: EvalSpec;
  /** Optimizer steps; 0 initialises and writes the output. */
  readonly steps: number;
  readonly output: OutputSpec;
}

export type DataParallelSharding = "none" | "optimizer" | "full";

/** Activations of a block that the backward pass computes again: none, all, or all where they would not fit else. */
export type Recompute = "none" | "block" | "auto";

/** What is computed in: bf16 is for activations and products; weights and optimizer state stay float32. */
export type JobPrecision = "fp32" | "bf16";

/** Exactly one of the keys. */
export type ModelSpec =
  | { readonly feedForward: FeedForwardModel }
  | { readonly mlp: MlpModel }
  | { readonly llama: LlamaModel }
  | { readonly gpt2: Gpt2Model }
  /** Folder of a Hugging Face Llama checkpoint: model and initial weights. */
  | { readonly huggingFace: { readonly path: string } }
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

/** Llama 3: grouped-query attention with rotary embedding, SwiGLU, RMSNorm before each, no biases. */
export interface LlamaModel {
  readonly dim: number;
  readonly layers: number;
  /** Divide `dim` into heads of an even number of features. */
  readonly heads: number;
  /** Divide `heads`. */
  readonly kvHeads: number;
  readonly hidden: number;
  readonly vocab: number;
  readonly ropeTheta: number;
  readonly normEps: number;
  /** Probability that an element of a block's output is dropped, 0 to below 1. */
  readonly dropout: number;
  /** Whether `output` shares the weight of `tok_embeddings`. */
  readonly tied: boolean;
  readonly ropeScaling?: RopeScaling;
}

/** Llama 3.1's stretching of the rotary embedding's low frequencies. */
export interface RopeScaling {
  readonly factor: number;
  readonly lowFrequency: number;
  readonly highFrequency: number;
  /** Positions that the model was first trained on. */
  readonly originalLength: number;
}

/** GPT-2: learned positions, LayerNorm, GELU (tanh form), biases. */
export interface Gpt2Model {
  readonly dim: number;
  readonly layers: number;
  readonly heads: number;
  readonly vocab: number;
  /** Positions: the longest sequence. */
  readonly contextLength: number;
  readonly dropout: number;
  /** Whether `lm_head` shares the weight of `wte`. */
  readonly tied: boolean;
  readonly normEps: number;
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
export type DataSourceSpec = FixedSourceSpec | { readonly stream: StreamData };

/** Sources whose rows are there before the job starts. Exactly one of the keys. */
export type FixedSourceSpec =
  | { readonly safetensors: { readonly path: string } }
  | { readonly random: RandomData }
  | { readonly text: TextData }
  | { readonly tokens: TokensData };

export interface RandomData {
  /** Rows. */
  readonly length: number;
  readonly seed: number;
  /** Tokens of a row, for models that take tokens. */
  readonly seqLen?: number;
}

/** Row i is the `seqLen` tokens from i * seqLen on; its targets are the same one token later. */
export interface TextData {
  readonly path: string;
  /** `bytes`, or the path of a Hugging Face tokenizer.json. */
  readonly tokenizer: string;
  readonly seqLen: number;
}

/** A file of little-endian token ids and nothing else. Rows as of a text. */
export interface TokensData {
  readonly path: string;
  readonly dtype: "uint16" | "uint32";
  readonly seqLen: number;
}

/** Batches that a client pushes. */
export interface StreamData {
  /** Tokens of a row, for models that take tokens. */
  readonly seqLen?: number;
}

export interface EvalSpec {
  /** Steps between evaluations; 0: off. */
  readonly every: number;
  /** Batches of one evaluation; 0: all of its data. */
  readonly batches: number;
  /** Held-out data; there whenever `every` is not 0. */
  readonly data?: FixedSourceSpec;
}

export interface OutputSpec {
  /** File that the final weights are written to. */
  readonly safetensors?: string;
  /** Folder that the model is exported to as a Hugging Face checkpoint. */
  readonly huggingFace?: string;
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
  readonly recompute?: Recompute;
  readonly precision?: JobPrecision;
  readonly allowMixedBackends?: boolean;
  readonly data: DataInput;
  readonly eval?: {
    readonly every?: number;
    readonly batches?: number;
    readonly data?: FixedSourceInput;
  };
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
  | { readonly llama: LlamaInput }
  | { readonly gpt2: Partial<Gpt2Model> }
  | { readonly huggingFace: { readonly path: string } }
  | { readonly graph: ForwardGraph }
  | { readonly module: string };

export type LlamaInput = Partial<Omit<LlamaModel, "ropeScaling">> & {
  readonly ropeScaling?: Partial<RopeScaling>;
};

export type DataInput = {
  readonly batchSize?: number;
  readonly shuffle?: boolean;
} & (FixedSourceInput | { readonly stream: StreamData });

/** Exactly one of the keys. */
export type FixedSourceInput =
  | { readonly safetensors: { readonly path: string } }
  | { readonly random: Partial<RandomData> }
  | {
      readonly text: {
        readonly path: string;
        readonly tokenizer?: string;
        readonly seqLen: number;
      };
    }
  | {
      readonly tokens: {
        readonly path: string;
        readonly dtype?: "uint16" | "uint32";
        readonly seqLen: number;
      };
    };
