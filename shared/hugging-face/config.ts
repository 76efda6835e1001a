/** Pure: the config.json of a Hugging Face Llama checkpoint, read and written. */
import { type Fault, InvalidArgumentError } from "../errors.ts";
import type { LlamaModel } from "../job/job-spec.ts";
import { MAX_BLOCKS, MAX_DIM, MAX_ELEMENTS } from "../job/limits.ts";
import { quote } from "../quote.ts";

/** What a configuration says of a checkpoint beside its architecture; kept when the model is written again. */
export interface CarriedConfig {
  readonly maxPositions?: number;
  /** Token ids and the like, as they were. */
  readonly extras: Readonly<Record<string, unknown>>;
}

export interface HuggingFaceConfig {
  readonly model: LlamaModel;
  readonly carried: CarriedConfig;
}

/** Keys that mean the same to whoever loads the model after training. */
const CARRIED = ["bos_token_id", "eos_token_id", "pad_token_id", "initializer_range"];

/** What transformers takes for keys that are left out. */
const DEFAULTS = { rmsNormEps: 1e-6, ropeTheta: 10_000 };

/** A null stands for a key left out. */
type Keys = Readonly<Record<string, unknown>>;

/**
 * The model that a configuration describes.
 * @param value parsed JSON
 * @param file for errors
 * @throws InvalidArgumentError with every fault, each naming file and key
 */
export function parseHuggingFaceConfig(value: unknown, file: string): HuggingFaceConfig {
  const faults: Fault[] = [];
  const fault = (message: string): void => {
    faults.push({ path: "", message: `${file}: ${message}` });
  };
  if (!isRecord(value))
    throw new InvalidArgumentError(`${file}: is ${quote(value)}, not an object`);
  const read = new ConfigReader(value, "", fault);
  checkArchitecture(read, fault);
  const dim = read.size("hidden_size");
  const heads = read.size("num_attention_heads");
  const isMistral = value["model_type"] === "mistral";
  const kvHeads =
    isMistral || read.has("num_key_value_heads") ? read.size("num_key_value_heads") : heads;
  const hidden = read.size("intermediate_size");
  const vocab = read.size("vocab_size");
  const layers = read.size("num_hidden_layers", MAX_BLOCKS);
  checkHeads(read, dim, heads, kvHeads, fault);
  checkElements({ vocab_size: vocab, intermediate_size: hidden }, dim, fault);
  const normEps = read.positive("rms_norm_eps", DEFAULTS.rmsNormEps);
  const rope = readRope(read);
  const tied = read.flag("tie_word_embeddings");
  const maxPositions = read.has("max_position_embeddings")
    ? read.size("max_position_embeddings", Number.MAX_SAFE_INTEGER)
    : undefined;
  if (faults.length > 0) throw new InvalidArgumentError(faults);
  const sizes = { dim: dim ?? 0, heads: heads ?? 0, kvHeads: kvHeads ?? 0, layers: layers ?? 0 };
  const model: LlamaModel = {
    ...sizes,
    hidden: hidden ?? 0,
    vocab: vocab ?? 0,
    normEps,
    dropout: 0,
    tied,
    ...rope,
  };
  const extras: Record<string, unknown> = {};
  for (const key of CARRIED) if (read.has(key)) extras[key] = value[key];
  return { model, carried: { extras, ...(maxPositions === undefined ? {} : { maxPositions }) } };
}

/**
 * The text of a configuration that transformers and its like load: float32 weights, keys sorted.
 * @param maxPositions longest sequence that the model was trained on, where `carried` knows no other
 */
export function huggingFaceConfigJson(
  model: LlamaModel,
  maxPositions: number,
  carried: CarriedConfig = { extras: {} },
): string {
  const scaling = model.ropeScaling;
  const config: Record<string, unknown> = {
    ...carried.extras,
    architectures: ["LlamaForCausalLM"],
    attention_bias: false,
    attention_dropout: 0,
    head_dim: model.dim / model.heads,
    hidden_act: "silu",
    hidden_size: model.dim,
    intermediate_size: model.hidden,
    max_position_embeddings: carried.maxPositions ?? maxPositions,
    mlp_bias: false,
    model_type: "llama",
    num_attention_heads: model.heads,
    num_hidden_layers: model.layers,
    num_key_value_heads: model.kvHeads,
    rms_norm_eps: model.normEps,
    rope_scaling:
      scaling === undefined
        ? null
        : {
            factor: scaling.factor,
            high_freq_factor: scaling.highFrequency,
            low_freq_factor: scaling.lowFrequency,
            original_max_position_embeddings: scaling.originalLength,
            rope_type: "llama3",
          },
    rope_theta: model.ropeTheta,
    tie_word_embeddings: model.tied,
    torch_dtype: "float32",
    use_cache: true,
    vocab_size: model.vocab,
  };
  const sorted = Object.fromEntries(Object.entries(config).sort(([a], [b]) => (a < b ? -1 : 1)));
  return `${withFloats(JSON.stringify(sorted, null, 2))}\n`;
}

/** Numbers that Python must not take for integers: transformers checks types. */
const FLOATS = [
  "attention_dropout",
  "factor",
  "high_freq_factor",
  "initializer_range",
  "low_freq_factor",
  "rms_norm_eps",
  "rope_theta",
];

/** JSON, one key a line, with these numbers written as floats: 10000.0. */
function withFloats(json: string): string {
  const whole = new RegExp(`^(\\s*"(?:${FLOATS.join("|")})": \\d+)(,?)$`, "gm");
  return json.replace(whole, "$1.0$2");
}

/** What is fixed in this model: a checkpoint of another kind is refused by the key that says so. */
function checkArchitecture(read: ConfigReader, fault: (message: string) => void): void {
  const kind = read.value("model_type");
  if (kind === undefined) fault("has no model_type; it must be llama");
  else if (kind === "mistral") {
    // Left out, the key means a window of 4096.
    if (read.raw("sliding_window") !== null)
      fault(
        `sliding_window is ${read.said("sliding_window")}; only null, no window, can be trained`,
      );
  } else if (kind !== "llama") {
    fault(`model_type is ${quote(kind)}; only llama, and mistral without a window, can be loaded`);
  }
  const act = read.value("hidden_act");
  if (act !== undefined && act !== "silu") fault(`hidden_act is ${quote(act)}; only silu is known`);
  for (const key of ["attention_bias", "mlp_bias"]) {
    if (read.flag(key)) fault(`${key} is true; only models without these biases can be loaded`);
  }
  const dropout = read.value("attention_dropout");
  if (dropout !== undefined && dropout !== 0) {
    fault(`attention_dropout is ${quote(dropout)}; the model has none, so set it to 0`);
  }
  if (read.value("quantization_config") !== undefined) {
    fault("has a quantization_config; load the checkpoint that was quantized, in F32, F16 or BF16");
  }
}

function checkHeads(
  read: ConfigReader,
  dim: number | undefined,
  heads: number | undefined,
  kvHeads: number | undefined,
  fault: (message: string) => void,
): void {
  if (heads !== undefined && kvHeads !== undefined && heads % kvHeads !== 0) {
    fault(
      `num_key_value_heads ${kvHeads} does not divide num_attention_heads ${heads}; is one of them wrong?`,
    );
  }
  if (dim === undefined || heads === undefined) return;
  if (dim % heads !== 0) {
    fault(`num_attention_heads ${heads} does not divide hidden_size ${dim}; is one of them wrong?`);
    return;
  }
  const headDim = dim / heads;
  if (headDim % 2 !== 0) {
    fault(
      `hidden_size ${dim} / num_attention_heads ${heads} is ${headDim}; rotary heads have an even size`,
    );
  }
  const given = read.value("head_dim");
  if (given !== undefined && given !== headDim) {
    fault(
      `head_dim is ${quote(given)}; only hidden_size / num_attention_heads = ${headDim} can be loaded`,
    );
  }
}

function checkElements(
  sizes: Readonly<Record<string, number | undefined>>,
  dim: number | undefined,
  fault: (message: string) => void,
): void {
  for (const [key, size] of Object.entries(sizes)) {
    if (dim !== undefined && size !== undefined && dim * size > MAX_ELEMENTS) {
      fault(
        `${key} ${size} x hidden_size ${dim} is more than the ${MAX_ELEMENTS} elements of a weight`,
      );
    }
  }
}

/** rope_theta and rope_scaling, or both in rope_parameters, as transformers writes them since version 5. */
function readRope(read: ConfigReader): Pick<LlamaModel, "ropeTheta" | "ropeScaling"> {
  const parameters = read.object("rope_parameters");
  const scaling = read.object("rope_scaling") ?? parameters;
  const ropeTheta = parameters?.has("rope_theta")
    ? parameters.positive("rope_theta", DEFAULTS.ropeTheta)
    : read.positive("rope_theta", DEFAULTS.ropeTheta);
  for (const holder of [read, parameters]) {
    const part = holder?.value("partial_rotary_factor");
    if (part !== undefined && part !== 1) {
      holder?.fault(
        "partial_rotary_factor",
        `is ${quote(part)}; only whole heads, 1, can be loaded`,
      );
    }
  }
  if (scaling === undefined) return { ropeTheta };
  const kindKey = scaling.has("rope_type") ? "rope_type" : "type";
  const kind = scaling.value(kindKey);
  if (kind === "default" || (kind === undefined && scaling === parameters)) return { ropeTheta };
  if (kind !== "llama3") {
    const said = kind === undefined ? "is missing" : `is ${quote(kind)}`;
    scaling.fault(kindKey, `${said}; only llama3, or no scaling, can be loaded`);
    return { ropeTheta };
  }
  const [low, high] = [scaling.positive("low_freq_factor"), scaling.positive("high_freq_factor")];
  if (!(high > low)) {
    scaling.fault("high_freq_factor", `is ${high}; it must be above low_freq_factor ${low}`);
  }
  return {
    ropeTheta,
    ropeScaling: {
      factor: scaling.positive("factor"),
      lowFrequency: low,
      highFrequency: high,
      originalLength: scaling.size("original_max_position_embeddings") ?? 0,
    },
  };
}

/** Reads the keys of one object and reports what is wrong with them. */
class ConfigReader {
  readonly #keys: Keys;
  readonly #path: string;
  readonly #fault: (message: string) => void;

  constructor(keys: Keys, path: string, fault: (message: string) => void) {
    this.#keys = keys;
    this.#path = path;
    this.#fault = fault;
  }

  fault(key: string, message: string): void {
    this.#fault(`${this.#path}${key} ${message}`);
  }

  /** As it stands: undefined only where the key is left out. */
  raw(key: string): unknown {
    return Object.hasOwn(this.#keys, key) ? this.#keys[key] : undefined;
  }

  value(key: string): unknown {
    return this.raw(key) ?? undefined;
  }

  has(key: string): boolean {
    return this.value(key) !== undefined;
  }

  /** The value for an error. */
  said(key: string): string {
    const raw = this.raw(key);
    return raw === undefined ? "left out" : quote(raw);
  }

  /** A required positive integer; undefined after a fault. */
  size(key: string, max = MAX_DIM): number | undefined {
    const value = this.value(key);
    if (value === undefined) {
      this.fault(key, "is missing; it must be a positive integer");
      return undefined;
    }
    if (typeof value === "number" && Number.isSafeInteger(value) && value > 0 && value <= max)
      return value;
    this.fault(key, `is ${quote(value)}; it must be an integer from 1 to ${max}`);
    return undefined;
  }

  /** A finite number above 0; required where there is no default. After a fault it is 1. */
  positive(key: string, byDefault?: number): number {
    const value = this.value(key) ?? byDefault;
    if (typeof value === "number" && Number.isFinite(value) && value > 0) return value;
    const said = value === undefined ? "is missing" : `is ${quote(value)}`;
    this.fault(key, `${said}; it must be a number above 0`);
    return 1;
  }

  /** True or false; left out, false. */
  flag(key: string): boolean {
    const value = this.value(key) ?? false;
    if (typeof value !== "boolean") this.fault(key, `is ${quote(value)}; it must be true or false`);
    return value === true;
  }

  object(key: string): ConfigReader | undefined {
    const value = this.value(key);
    if (value === undefined) return undefined;
    if (isRecord(value)) return new ConfigReader(value, `${this.#path}${key}.`, this.#fault);
    this.fault(key, `is ${quote(value)}; it must be an object`);
    return undefined;
  }
}

function isRecord(value: unknown): value is Keys {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
