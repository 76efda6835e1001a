import type { LossKind } from "../graph/graph.ts";
import { graphSchema } from "./graph-schema.ts";
import type {
  AdamwSpec,
  DataSettings,
  DataSourceSpec,
  EvalSpec,
  FeedForwardModel,
  FixedSourceSpec,
  Gpt2Model,
  InitSource,
  JobSpec,
  LlamaModel,
  MeshSpec,
  MlpModel,
  ModelSpec,
  OptimizerChoice,
  OutputSpec,
  RandomData,
  RopeScaling,
  ScheduleChoice,
  SgdSpec,
  StreamData,
  TextData,
  TokensData,
} from "./job-spec.ts";
import {
  MAX_BLOCKS,
  MAX_DIM,
  MAX_LAYER_NAME_BYTES,
  MAX_LAYERS,
  MAX_NAME_BYTES,
  MAX_PATH_BYTES,
  MAX_PLAN_ENTRIES,
  MAX_RANKS,
  MAX_SEQUENCE,
} from "./limits.ts";
import {
  dictionary,
  list,
  object,
  objectWithChoice,
  oneOf,
  optional,
  refined,
  required,
  type Schema,
  withDefault,
  withFallback,
} from "./schema-types.ts";
import {
  autoOrBoolean,
  axisSize,
  boolean,
  choice,
  finiteNumber,
  integer,
  text,
} from "./schema-values.ts";
import { takesTokens } from "./sequences.ts";

/** Of a feedForward, in and hidden. */
export const DEFAULT_FEATURES = 8192;

/** Of a llama where the job gives no number: fewer where it has fewer heads. */
const DEFAULT_KV_HEADS = 4;

/** What a file or message says of a llama; `kvHeads` left out depends on `heads`. */
type RawLlama = Omit<LlamaModel, "kvHeads"> & { readonly kvHeads?: number };

/** What a file or message says of a job; `loss` left out depends on the model. */
type RawJobSpec = Omit<JobSpec, "loss"> & { readonly loss?: LossKind };

const size = integer({ min: 1, max: MAX_DIM });
const path = text(MAX_PATH_BYTES);
const learningRate = finiteNumber({ above: 0 });
const seed = integer({ min: 0 });
const nothing = object<Record<string, never>>({});
const sequenceLength = integer({ min: 1, max: MAX_SEQUENCE });
const blocks = integer({ min: 1, max: MAX_BLOCKS });
const positive = finiteNumber({ above: 0 });
const dropout = finiteNumber({ min: 0, below: 1 });

/** All but the factor as Llama 3.1 has it. */
const ropeScaling = object<RopeScaling>({
  factor: withDefault(finiteNumber({ min: 1 }), 8),
  lowFrequency: withDefault(positive, 1),
  highFrequency: withDefault(positive, 4),
  originalLength: withDefault(size, 8192),
});

const llama: Schema<LlamaModel> = withFallback(
  object<RawLlama>({
    dim: withDefault(size, 64),
    layers: withDefault(blocks, 2),
    heads: withDefault(size, 8),
    kvHeads: optional(size),
    hidden: withDefault(size, 160),
    vocab: withDefault(size, 96),
    // What the rope op takes.
    ropeTheta: withDefault(finiteNumber({ min: 1 }), 500000),
    normEps: withDefault(positive, 1e-5),
    dropout: withDefault(dropout, 0),
    tied: withDefault(boolean(), false),
    ropeScaling: optional(ropeScaling),
  }),
  ({ kvHeads, ...rest }) => ({
    ...rest,
    kvHeads: kvHeads ?? Math.min(DEFAULT_KV_HEADS, rest.heads),
  }),
);

/** Sizes left out are those of the smallest GPT-2. */
const gpt2 = object<Gpt2Model>({
  dim: withDefault(size, 768),
  layers: withDefault(blocks, 12),
  heads: withDefault(size, 12),
  vocab: withDefault(size, 50257),
  contextLength: withDefault(sequenceLength, 1024),
  dropout: withDefault(dropout, 0),
  tied: withDefault(boolean(), true),
  normEps: withDefault(positive, 1e-5),
});

const model = oneOf<ModelSpec>({
  feedForward: object<FeedForwardModel>({
    dim: withDefault(size, DEFAULT_FEATURES),
    hidden: withDefault(size, DEFAULT_FEATURES),
  }),
  mlp: object<MlpModel>({
    dims: required(list(size, { min: 2, max: MAX_LAYERS + 1, what: "positive integers" })),
    activation: withDefault(choice(["silu", "relu", "gelu", "tanh", "sigmoid"]), "relu"),
    bias: withDefault(boolean(), true),
  }),
  llama,
  gpt2,
  huggingFace: object<{ readonly path: string }>({ path: required(path) }),
  graph: graphSchema,
  module: path,
});

const beta = finiteNumber({ min: 0, below: 1 });
const betas: Schema<readonly [number, number]> = refined(
  list(beta, { min: 2, max: 2, what: "numbers" }),
  ([first, second]) => (first === undefined || second === undefined ? undefined : [first, second]),
  (value) => value,
);

const ADAMW: AdamwSpec = { lr: 3e-3, betas: [0.9, 0.999], eps: 1e-8, weightDecay: 0.01 };

const optimizer = oneOf<OptimizerChoice>({
  adamw: object<AdamwSpec>({
    lr: withDefault(learningRate, ADAMW.lr),
    betas: withDefault(betas, ADAMW.betas),
    eps: withDefault(finiteNumber({ above: 0 }), ADAMW.eps),
    weightDecay: withDefault(finiteNumber({ min: 0 }), ADAMW.weightDecay),
  }),
  sgd: object<SgdSpec>({
    lr: withDefault(learningRate, 0.01),
    momentum: withDefault(finiteNumber({ min: 0 }), 0),
  }),
});

const schedule = oneOf<ScheduleChoice>({
  constant: nothing,
  linearWarmup: object<{ readonly steps: number }>({ steps: required(integer({ min: 0 })) }),
  cosine: object<{ readonly warmupSteps: number; readonly minLr: number }>({
    warmupSteps: withDefault(integer({ min: 0 }), 0),
    minLr: withDefault(finiteNumber({ min: 0 }), 0),
  }),
});

const fixedSources = {
  safetensors: object<{ readonly path: string }>({ path: required(path) }),
  random: object<RandomData>({
    length: withDefault(integer({ min: 1, max: 2 ** 40 }), 64),
    seed: withDefault(seed, 0),
    seqLen: optional(sequenceLength),
  }),
  text: object<TextData>({
    path: required(path),
    tokenizer: withDefault(path, "bytes"),
    seqLen: required(sequenceLength),
  }),
  tokens: object<TokensData>({
    path: required(path),
    dtype: withDefault(choice(["uint16", "uint32"]), "uint16"),
    seqLen: required(sequenceLength),
  }),
};

const data = objectWithChoice<DataSettings, DataSourceSpec>(
  {
    batchSize: withDefault(size, 4),
    shuffle: withDefault(boolean(), false),
  },
  { ...fixedSources, stream: object<StreamData>({ seqLen: optional(sequenceLength) }) },
);

const evaluation = object<EvalSpec>({
  every: withDefault(integer({ min: 0 }), 0),
  batches: withDefault(integer({ min: 0 }), 0),
  data: optional(
    oneOf<FixedSourceSpec>(fixedSources, {
      stream: "use text, tokens, safetensors or random for held-out data",
    }),
  ),
});

/** The job spec, one entry a key: what a value must be, and what stands for a key left out. */
const job = object<RawJobSpec>({
  name: withDefault(text(MAX_NAME_BYTES), "job"),
  model: required(model),
  init: withDefault(
    object<InitSource>({ seed: withDefault(seed, 0), safetensors: optional(path) }),
    { seed: 0 },
  ),
  mesh: withDefault(
    object<MeshSpec>({
      dataParallel: withDefault(axisSize(MAX_RANKS), 1),
      tensorParallel: withDefault(axisSize(MAX_RANKS), 1),
    }),
    { dataParallel: 1, tensorParallel: 1 },
  ),
  dataParallelSharding: withDefault(choice(["none", "optimizer", "full"]), "none"),
  plan: withDefault(
    dictionary(text(MAX_LAYER_NAME_BYTES), {
      maxEntries: MAX_PLAN_ENTRIES,
      maxKeyBytes: MAX_LAYER_NAME_BYTES,
      what: "layer patterns to styles",
    }),
    {},
  ),
  sequenceParallel: withDefault(autoOrBoolean(), "auto"),
  loss: optional(choice(["sum", "mean", "mse", "cross_entropy"])),
  optimizer: withDefault(optimizer, { adamw: ADAMW }),
  schedule: withDefault(schedule, { constant: {} }),
  clipGradNorm: withDefault(finiteNumber({ min: 0 }), 0),
  reportGradNorm: withDefault(boolean(), false),
  gradientAccumulation: withDefault(size, 1),
  recompute: withDefault(choice(["none", "block", "auto"]), "none"),
  precision: withDefault(choice(["fp32", "bf16"]), "fp32"),
  allowMixedBackends: withDefault(boolean(), false),
  data: required(data),
  eval: withDefault(evaluation, { every: 0, batches: 0 }),
  steps: withDefault(integer({ min: 0 }), 8),
  output: withDefault(
    object<OutputSpec>({ safetensors: optional(path), huggingFace: optional(path) }),
    {},
  ),
});

/** The whole spec. */
export const jobSchema: Schema<JobSpec> = withFallback(job, (spec) => ({
  ...spec,
  loss: spec.loss ?? (takesTokens(spec.model) ? "cross_entropy" : "sum"),
}));
