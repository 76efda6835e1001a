import { access, stat } from "node:fs/promises";
import { join, resolve } from "node:path";
import { anyPath } from "../coordinator/data/paths.ts";
import { readHuggingFaceConfig } from "../coordinator/weights/hugging-face-checkpoint.ts";
import { InvalidArgumentError } from "../shared/errors.ts";
import { UsageError } from "./exit-codes.ts";
import type { LoadedJob } from "./job-file.ts";
import { BYTE_CODEC, readTokenizer, type TextCodec } from "./text-codec.ts";

type Json = Readonly<Record<string, unknown>>;

/** Where a model's weights come from: a file of them, or a folder with a Hugging Face checkpoint. */
export interface WeightsChoice {
  readonly path: string;
  readonly kind: "safetensors" | "huggingFace";
}

/**
 * The weights to generate with: those asked for, else those that the job wrote, else those of its model's checkpoint.
 * @param given path relative to the working directory
 * @throws UsageError when there are none
 */
export async function chooseWeights(
  job: LoadedJob,
  given: string | undefined,
): Promise<WeightsChoice> {
  if (given !== undefined) {
    const path = resolve(given);
    const found = await stat(path).catch(() => undefined);
    if (found === undefined) throw new UsageError(`--weights ${given}: there is no such file`);
    return { path, kind: found.isDirectory() ? "huggingFace" : "safetensors" };
  }
  const outputs = field(job.spec, "output");
  const file = pathIn(job, outputs, "safetensors");
  if (file !== undefined && (await exists(file))) return { path: file, kind: "safetensors" };
  const written = pathIn(job, outputs, "huggingFace");
  if (written !== undefined && (await exists(join(written, "config.json")))) {
    return { path: written, kind: "huggingFace" };
  }
  const checkpoint = pathIn(job, checkpointOf(job.spec), "path");
  if (checkpoint !== undefined) return { path: checkpoint, kind: "huggingFace" };
  const missing = [
    file === undefined ? [] : [`output.safetensors, ${file},`],
    written === undefined ? [] : [`output.huggingFace, ${written},`],
  ].flat();
  throw new UsageError(
    missing.length === 0
      ? "there are no weights to generate with: name a file with --weights, or give the job an output.safetensors or output.huggingFace and run it"
      : `there are no weights to generate with: the job's ${missing.join(" and ")} ${missing.length === 1 ? "is" : "are"} not there; run the job, or name a file with --weights`,
  );
}

/**
 * How the job's model reads text: the tokenizer asked for, else that of the job's texts, else the one beside its checkpoint.
 * @param given `bytes`, or the path of a tokenizer.json relative to the working directory
 * @throws UsageError when nothing tells; InvalidArgumentError for a file that is no tokenizer
 */
export async function chooseTokenizer(
  job: LoadedJob,
  given: string | undefined,
  weights: WeightsChoice,
): Promise<TextCodec> {
  if (given !== undefined) return openTokenizer(given === BYTES ? given : resolve(given));
  for (const data of [field(job.spec, "data"), field(field(job.spec, "eval"), "data")]) {
    const text = field(data, "text");
    if (!isRecord(text)) continue;
    const name = text["tokenizer"] ?? BYTES;
    if (typeof name === "string")
      return openTokenizer(name === BYTES ? name : resolve(job.folder, name));
  }
  const folders = [
    weights.kind === "huggingFace" ? weights.path : undefined,
    pathIn(job, checkpointOf(job.spec), "path"),
  ];
  for (const folder of folders) {
    if (folder === undefined) continue;
    const path = join(folder, "tokenizer.json");
    if (await exists(path)) return openTokenizer(path);
  }
  throw new UsageError(
    "the job's data is no text, so it names no tokenizer; give --tokenizer bytes or the path of a tokenizer.json",
  );
}

/**
 * The job as one that generates: its model and plan, one token at a time, on `ranks` tensor-parallel ranks.
 * What only training needs is left out.
 *
 * @throws InvalidArgumentError when the job file holds no job, or names a checkpoint that can't be read
 */
export async function generationSpec(
  job: LoadedJob,
  weights: WeightsChoice,
  options: { readonly ranks: number; readonly steps: number },
): Promise<Json> {
  const { spec } = job;
  if (!isRecord(spec)) {
    throw new InvalidArgumentError("the job file holds no job: a map of keys is needed");
  }
  const kept = Object.entries(spec).filter(([key]) => !TRAINING_KEYS.has(key));
  return {
    ...Object.fromEntries(kept),
    ...(await modelAndWeights(job, weights)),
    mesh: { dataParallel: 1, tensorParallel: options.ranks },
    sequenceParallel: false,
    loss: "sum",
    // A traced graph was made for a length of its own, of which a decoder takes no notice.
    data: { batchSize: 1, stream: isTraced(spec) ? {} : { seqLen: 1 } },
    steps: options.steps,
  };
}

/**
 * Tokens of a row that the job trains on, or that its model has room for: a model knows no positions past those.
 * undefined where the job file does not tell; a checkpoint was trained on more than the job that goes on with it.
 */
export function trainedContext({ spec }: LoadedJob): number | undefined {
  const model = field(spec, "model");
  if (field(model, "huggingFace") !== undefined) return undefined;
  const data = field(spec, "data");
  const sources = ["text", "tokens", "random", "stream"].map((key) => field(data, key));
  const lengths = [
    ...sources.map((source) => field(source, "seqLen")),
    field(field(model, "gpt2"), "contextLength"),
    tracedLength(field(model, "graph")),
  ];
  const known = lengths.filter((length) => Number.isSafeInteger(length) && Number(length) > 0);
  return known.length === 0 ? undefined : Math.min(...known.map(Number));
}

function tracedLength(graph: unknown): unknown {
  const inputs = field(graph, "inputs");
  const dims = Array.isArray(inputs) ? field(inputs[0], "dims") : undefined;
  return Array.isArray(dims) ? dims[0] : undefined;
}

const BYTES = "bytes";

const TRAINING_KEYS: ReadonlySet<string> = new Set([
  ...["init", "mesh", "dataParallelSharding", "sequenceParallel", "loss", "optimizer", "schedule"],
  ...["clipGradNorm", "reportGradNorm", "gradientAccumulation", "recompute"],
  ...["precision", "allowMixedBackends"],
  ...["data", "eval", "steps", "output"],
]);

async function modelAndWeights(job: LoadedJob, { path, kind }: WeightsChoice): Promise<Json> {
  if (kind === "huggingFace") return { model: { huggingFace: { path } } };
  const init = { safetensors: path };
  const folder = field(checkpointOf(job.spec), "path");
  if (typeof folder !== "string") return { init };
  // The checkpoint says what model it is; the weights are others.
  const { model } = await readHuggingFaceConfig(folder, anyPath(job.folder));
  return { model: { llama: model }, init };
}

function openTokenizer(name: string): Promise<TextCodec> {
  return name === BYTES ? Promise.resolve(BYTE_CODEC) : readTokenizer(name);
}

function isTraced(spec: Json): boolean {
  const model = spec["model"];
  return isRecord(model) && !["llama", "gpt2", "huggingFace"].some((name) => name in model);
}

function checkpointOf(spec: unknown): unknown {
  return field(field(spec, "model"), "huggingFace");
}

/** A path of the job file as one of this machine; undefined where there is none. */
function pathIn(job: LoadedJob, value: unknown, key: string): string | undefined {
  const path = field(value, key);
  return typeof path === "string" && path !== "" ? resolve(job.folder, path) : undefined;
}

function field(value: unknown, key: string): unknown {
  return isRecord(value) && Object.hasOwn(value, key) ? value[key] : undefined;
}

function isRecord(value: unknown): value is Json {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

async function exists(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  );
}
