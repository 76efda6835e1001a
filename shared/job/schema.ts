import { graphSchema } from "./graph-schema.ts";
import type {
  AdamwSpec,
  DataSettings,
  DataSourceSpec,
  FeedForwardModel,
  InitSource,
  JobSpec,
  MeshSpec,
  MlpModel,
  ModelSpec,
  OptimizerChoice,
  OutputSpec,
  ScheduleChoice,
  SgdSpec,
} from "./job-spec.ts";
import {
  MAX_DIM,
  MAX_LAYER_NAME_BYTES,
  MAX_LAYERS,
  MAX_NAME_BYTES,
  MAX_PATH_BYTES,
  MAX_PLAN_ENTRIES,
  MAX_RANKS,
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
} from "./schema-types.ts";
import {
  autoOrFalse,
  axisSize,
  boolean,
  choice,
  finiteNumber,
  integer,
  onlyFalse,
  onlyZero,
  text,
} from "./schema-values.ts";

/** Of a feedForward, in and hidden. */
export const DEFAULT_FEATURES = 8192;

const MODELS = "use feedForward, mlp, module or graph";
const SOURCES = "use safetensors, random or stream";
const NO_SEQUENCES = "no model that takes token sequences is; leave it out";

const size = integer({ min: 1, max: MAX_DIM });
const path = text(MAX_PATH_BYTES);
const learningRate = finiteNumber({ above: 0 });
const seed = integer({ min: 0 });
const nothing = object<Record<string, never>>({});

const model = oneOf<ModelSpec>(
  {
    feedForward: object<FeedForwardModel>({
      dim: withDefault(size, DEFAULT_FEATURES),
      hidden: withDefault(size, DEFAULT_FEATURES),
    }),
    mlp: object<MlpModel>({
      dims: required(list(size, { min: 2, max: MAX_LAYERS + 1, what: "positive integers" })),
      activation: withDefault(choice(["silu", "relu", "gelu", "tanh", "sigmoid"]), "relu"),
      bias: withDefault(boolean(), true),
    }),
    graph: graphSchema,
    module: path,
  },
  { llama: MODELS, gpt2: MODELS, huggingFace: MODELS },
);

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

const data = objectWithChoice<DataSettings, DataSourceSpec>(
  {
    batchSize: withDefault(size, 4),
    shuffle: withDefault(boolean(), false),
  },
  {
    safetensors: object<{ readonly path: string }>({ path: required(path) }),
    random: object<{ readonly length: number; readonly seed: number }>(
      { length: withDefault(integer({ min: 1, max: 2 ** 40 }), 64), seed: withDefault(seed, 0) },
      { seqLen: NO_SEQUENCES },
    ),
    stream: object<Record<string, never>>({}, { seqLen: NO_SEQUENCES }),
  },
  { text: SOURCES, tokens: SOURCES },
);

/** The job spec, one entry a key: what a value must be, and what stands for a key left out. */
export const jobSchema: Schema<JobSpec> = object<JobSpec>({
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
  sequenceParallel: withDefault(autoOrFalse("use auto or false"), "auto"),
  loss: withDefault(
    choice(["sum", "mean", "mse"], { cross_entropy: "use sum, mean or mse" }),
    "sum",
  ),
  optimizer: withDefault(optimizer, { adamw: ADAMW }),
  schedule: withDefault(schedule, { constant: {} }),
  clipGradNorm: withDefault(finiteNumber({ min: 0 }), 0),
  reportGradNorm: withDefault(boolean(), false),
  gradientAccumulation: withDefault(size, 1),
  recompute: withDefault(choice(["none"], { block: "use none", auto: "use none" }), "none"),
  precision: withDefault(choice(["fp32"], { bf16: "use fp32" }), "fp32"),
  allowMixedBackends: withDefault(onlyFalse("ranks of a job run on one kind of backend"), false),
  data: required(data),
  eval: withDefault(
    object<{ readonly every: 0 }>(
      { every: withDefault(onlyZero("use 0 for no evaluation"), 0) },
      {
        data: "evaluation is not",
      },
    ),
    { every: 0 },
  ),
  steps: withDefault(integer({ min: 0 }), 8),
  output: withDefault(object<OutputSpec>({ safetensors: optional(path) }), {}),
});
