import { open } from "node:fs/promises";
import { type Fault, InvalidArgumentError } from "../../shared/errors.ts";
import {
  type HuggingFaceConfig,
  parseHuggingFaceConfig,
} from "../../shared/hugging-face/config.ts";
import {
  EMBEDDING,
  type HuggingFaceTensor,
  huggingFaceTensors,
  isDerivedTensor,
  TIED_HEAD,
} from "../../shared/hugging-face/names.ts";
import { parseShardIndex } from "../../shared/hugging-face/shard-index.ts";
import type { LlamaModel } from "../../shared/job/job-spec.ts";
import { didYouMean } from "../../shared/nearest.ts";
import { quote } from "../../shared/quote.ts";
import { duplicateKey } from "../../shared/safetensors/duplicate-key.ts";
import { fileError } from "../../shared/safetensors/file-error.ts";
import { SafetensorsFile } from "../../shared/safetensors/reader.ts";
import { isFloatDtype } from "../../shared/safetensors/to-float32.ts";
import type { PathPolicy, ResolvedPath } from "../data/paths.ts";
import type { SourceTensor } from "./source-tensor.ts";
import { extraTensors } from "./weight-faults.ts";

const FIELD = "model.huggingFace.path";
const CONFIG = "config.json";
const WEIGHTS = "model.safetensors";
const INDEX = `${WEIGHTS}.index.json`;

/** Largest JSON file that is read; the index of the largest published model has a tenth of it. */
const MAX_JSON_BYTES = 8 << 20;
/** Faults listed of one checkpoint: one wrong number of its configuration shows in every layer. */
const MAX_FAULTS = 20;

/**
 * The model of a checkpoint, from its config.json.
 * @param given folder, as the job has it; the policy says what it is relative to
 * @throws InvalidArgumentError with every fault, at `model.huggingFace.path`
 */
export async function readHuggingFaceModel(given: string, policy: PathPolicy): Promise<LlamaModel> {
  return (await readHuggingFaceConfig(given, policy)).model;
}

/** Path of a file in a checkpoint's folder. Not normalised: a policy must see what is in the way there. */
export function inFolder(given: string, name: string): string {
  // An empty path names no folder, and is a fault like any other path's.
  return given === "" ? "" : `${given.replace(/\/+$/, "")}/${name}`;
}

/** As `readHuggingFaceModel`, with what else is kept when the model is exported. */
export async function readHuggingFaceConfig(
  given: string,
  policy: PathPolicy,
): Promise<HuggingFaceConfig> {
  const path = await policy.input(inFolder(given, CONFIG), FIELD);
  return at(FIELD, [], async () => parseHuggingFaceConfig(await readJson(path), path.given));
}

/** An open Hugging Face Llama checkpoint whose tensors are those that its configuration asks for. */
export class HuggingFaceCheckpoint {
  readonly field = FIELD;
  /** Folder, as the job has it. */
  readonly given: string;
  readonly config: HuggingFaceConfig;
  /** Source of each parameter, by the model's name. */
  readonly parameters: ReadonlyMap<string, SourceTensor>;
  /** Tensors that must hold the same numbers: a tied model's projection, where the checkpoint has it all the same. */
  readonly tied: readonly { readonly said: string; readonly pair: readonly SourceTensor[] }[];
  readonly #files: readonly SafetensorsFile[];

  private constructor(given: string, config: HuggingFaceConfig, shards: Shards) {
    this.given = given;
    this.config = config;
    this.#files = [...shards.files.values()];
    const { tensors } = shards;
    const source = ({ name, rotaryHeadDim }: HuggingFaceTensor): SourceTensor | undefined => {
      const found = tensors.get(name);
      return found === undefined ? undefined : { ...found, rotaryHeadDim };
    };
    this.parameters = new Map(
      huggingFaceTensors(config.model).flatMap((tensor) => {
        const found = source(tensor);
        return found === undefined ? [] : [[tensor.parameter, found] as const];
      }),
    );
    const [head, embedding] = [tensors.get(TIED_HEAD), tensors.get(EMBEDDING)];
    const isTwice = config.model.tied && head !== undefined && embedding !== undefined;
    const said = `${given}: tensors ${quote(TIED_HEAD)} and ${quote(EMBEDDING)}`;
    this.tied = isTwice ? [{ said, pair: [head, embedding] }] : [];
  }

  /**
   * Opens the checkpoint in a folder: config.json and model.safetensors, or the files that
   * model.safetensors.index.json names. Reads these and the headers.
   * @throws InvalidArgumentError with every fault of them, at `model.huggingFace.path`
   */
  static async open(given: string, policy: PathPolicy): Promise<HuggingFaceCheckpoint> {
    const config = await readHuggingFaceConfig(given, policy);
    const shards = await openShards(given, policy);
    const faults = tensorFaults(given, config.model, shards);
    if (faults.length === 0) return new HuggingFaceCheckpoint(given, config, shards);
    await closeAll(shards.files.values());
    throw new InvalidArgumentError(atMost(faults));
  }

  async close(): Promise<void> {
    await closeAll(this.#files);
  }
}

interface Shards {
  /** Open files, by the name that the user knows. */
  readonly files: ReadonlyMap<string, SafetensorsFile>;
  readonly tensors: ReadonlyMap<string, SourceTensor>;
  /** The file that says which tensors there are, for errors. */
  readonly contents: string;
}

async function openShards(given: string, policy: PathPolicy): Promise<Shards> {
  let single: ResolvedPath;
  try {
    single = await policy.input(inFolder(given, WEIGHTS), FIELD);
  } catch (error) {
    const index = await policy.input(inFolder(given, INDEX), FIELD).catch(() => undefined);
    if (index !== undefined) return openIndexed(given, index, policy);
    if (!(error instanceof InvalidArgumentError)) throw error;
    const message = `${error.faults.map((fault) => fault.message).join("; ")}, and no ${INDEX} either; a checkpoint has one of them (pickled weights, *.bin and *.pth, are not read: convert them to safetensors)`;
    throw new InvalidArgumentError([{ path: FIELD, message }], { cause: error });
  }
  const file = await openFile(single);
  const tensors = new Map<string, SourceTensor>();
  for (const tensor of file.header.tensors.values()) tensors.set(tensor.name, { file, tensor });
  return { files: new Map([[single.given, file]]), tensors, contents: single.given };
}

async function openIndexed(
  given: string,
  index: ResolvedPath,
  policy: PathPolicy,
): Promise<Shards> {
  const fileOf = await at(FIELD, [], async () =>
    parseShardIndex(await readJson(index), index.given),
  );
  const files = new Map<string, SafetensorsFile>();
  const faults: Fault[] = [];
  for (const name of new Set(fileOf.values())) {
    try {
      const path = await policy.input(inFolder(given, name), FIELD);
      files.set(name, await openFile(path));
    } catch (error) {
      if (!(error instanceof InvalidArgumentError)) {
        await closeAll(files.values());
        throw error;
      }
      for (const { path, message } of error.faults)
        faults.push({ path, message: `${message} (named in ${INDEX})` });
    }
  }
  const tensors = new Map<string, SourceTensor>();
  for (const [tensorName, name] of fileOf) {
    const file = files.get(name);
    const tensor = file?.header.tensors.get(tensorName);
    if (file !== undefined && tensor !== undefined) tensors.set(tensorName, { file, tensor });
    else if (file !== undefined) {
      const message = `${inFolder(given, name)}: has no tensor ${quote(tensorName)}, which ${INDEX} says is there`;
      faults.push({ path: FIELD, message });
    }
  }
  for (const [name, file] of files) {
    for (const tensorName of file.header.tensors.keys()) {
      if (fileOf.get(tensorName) === name) continue;
      const elsewhere = fileOf.get(tensorName);
      const said = elsewhere === undefined ? "does not name" : `says is in ${elsewhere}`;
      const message = `${inFolder(given, name)}: has tensor ${quote(tensorName)}, which ${INDEX} ${said}`;
      faults.push({ path: FIELD, message });
    }
  }
  if (faults.length > 0) {
    await closeAll(files.values());
    throw new InvalidArgumentError(atMost(faults));
  }
  return { files, tensors, contents: index.given };
}

/** What the tensors have against the configuration. */
function tensorFaults(given: string, model: LlamaModel, shards: Shards): Fault[] {
  const { tensors, contents } = shards;
  const messages: string[] = [];
  const wanted = huggingFaceTensors(model);
  const names = new Set(wanted.map(({ name }) => name));
  const isExtra = (name: string): boolean =>
    !names.has(name) && !isDerivedTensor(name) && !(model.tied && name === TIED_HEAD);
  const extra = [...tensors.keys()].filter(isExtra);
  const check = (name: string, shape: readonly number[]): void => {
    const found = tensors.get(name);
    const should = `${CONFIG} asks for [${shape.join(", ")}]`;
    if (found === undefined) {
      const hint =
        name === TIED_HEAD
          ? `; if the embedding is the output projection too, ${CONFIG} must have tie_word_embeddings: true`
          : didYouMean(name, extra);
      messages.push(`${contents}: has no tensor ${quote(name)}; ${should}${hint}`);
      return;
    }
    const { dtype, shape: shapeFound } = found.tensor;
    const where = `${fileName(given, shards, found)}: tensor ${quote(name)}`;
    if (shapeFound.join() !== shape.join())
      messages.push(`${where} is [${shapeFound.join(", ")}]; ${should}`);
    if (!isFloatDtype(dtype))
      messages.push(`${where} is ${dtype}; only F32, F16 and BF16 can be loaded`);
  };
  for (const { name, shape } of wanted) check(name, shape);
  if (model.tied && tensors.has(TIED_HEAD)) check(TIED_HEAD, [model.vocab, model.dim]);
  if (extra.length > 0) messages.push(`${contents}: ${extraTensors(extra)}`);
  return messages.map((message) => ({ path: FIELD, message }));
}

function fileName(given: string, { files, contents }: Shards, { file }: SourceTensor): string {
  for (const [name, other] of files)
    if (other === file && name !== contents) return inFolder(given, name);
  return contents;
}

async function openFile(path: ResolvedPath): Promise<SafetensorsFile> {
  return at(FIELD, [[path.real, path.given]], () => SafetensorsFile.open(path.real));
}

/** @throws InvalidArgumentError naming the file as the user does */
async function readJson(path: ResolvedPath): Promise<unknown> {
  let text: string;
  try {
    const handle = await open(path.real, "r");
    try {
      const { size } = await handle.stat();
      if (size > MAX_JSON_BYTES) {
        throw new InvalidArgumentError(
          `${path.given}: has ${size} bytes; at most ${MAX_JSON_BYTES} are read`,
        );
      }
      text = new TextDecoder("utf-8", { fatal: true }).decode(await handle.readFile());
    } finally {
      await handle.close();
    }
  } catch (error) {
    if (error instanceof InvalidArgumentError) throw error;
    if (error instanceof TypeError)
      throw new InvalidArgumentError(`${path.given}: is not valid UTF-8`, { cause: error });
    throw fileError(path.given, "read", error);
  }
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    const reason = cause instanceof Error ? quote(cause.message) : "";
    throw new InvalidArgumentError(`${path.given}: is not valid JSON: ${reason}`, { cause });
  }
  const twice = duplicateKey(text);
  if (twice !== undefined)
    throw new InvalidArgumentError(`${path.given}: has the key ${quote(twice)} twice`);
  return value;
}

/** Puts a field to faults that have none, and the user's names in place of real ones. */
async function at<T>(
  field: string,
  names: readonly (readonly [real: string, given: string])[],
  work: () => Promise<T>,
): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (!(error instanceof InvalidArgumentError)) throw error;
    const faults = error.faults.map(({ path, message }) => ({
      path: path || field,
      message: names.reduce((text, [real, given]) => text.replaceAll(real, given), message),
    }));
    throw new InvalidArgumentError(faults, { cause: error });
  }
}

function atMost(faults: readonly Fault[]): readonly Fault[] {
  if (faults.length <= MAX_FAULTS) return faults;
  const message = `and ${faults.length - MAX_FAULTS} more faults of this checkpoint`;
  return [...faults.slice(0, MAX_FAULTS), { path: FIELD, message }];
}

async function closeAll(files: Iterable<SafetensorsFile>): Promise<void> {
  await Promise.all([...files].map((file) => file.close()));
}
