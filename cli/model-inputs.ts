import { resolve } from "node:path";
import type { InputDims, InputSpec, InputType, Module } from "../models/module.ts";
import { InvalidArgumentError } from "../shared/errors.ts";
import { MAX_DIM, MAX_SEQUENCE } from "../shared/job/limits.ts";
import type { TensorInfo } from "../shared/safetensors/header.ts";
import { SafetensorsFile } from "../shared/safetensors/reader.ts";

const ADVICE =
  'give the model its input dims: static inputs = { x: [features] }, or { tokens: { dims: [length], dtype: "int32" } }';

/**
 * Inputs of a model file: what the model declares, else what the job's data tells of them.
 *
 * @param spec the raw job spec, of which nothing is checked yet
 * @param folder that the spec's paths are relative to
 * @param path of the model file, for errors
 * @throws InvalidArgumentError when neither tells
 */
export async function modelInputs(
  model: Module,
  spec: Readonly<Record<string, unknown>>,
  folder: string,
  path: string,
): Promise<InputDims> {
  const declared = declaredInputs(model, path);
  if (declared !== undefined) return declared;
  const length = sequenceLengthOf(spec["data"]);
  if (length !== undefined) return { tokens: { dims: [length], dtype: "int32" } };
  return inputsOfFile(model, spec, folder, path);
}

/** A property of the class or the instance. */
export function declaredStatic(model: Module, name: string): unknown {
  const own = (model as unknown as Readonly<Record<string, unknown>>)[name];
  return own ?? (model.constructor as unknown as Readonly<Record<string, unknown>>)[name];
}

/** `inputs = { x: [48] }` or `{ tokens: { dims: [16], dtype: "int32" } }`, static or on the instance: dims after the batch. */
function declaredInputs(model: Module, path: string): InputDims | undefined {
  const inputs = declaredStatic(model, "inputs");
  if (inputs === undefined) return undefined;
  if (!isRecord(inputs) || !Object.values(inputs).every(isInputSpec)) {
    throw new InvalidArgumentError(
      `model file ${path}: inputs must map names to dims after the batch, for example { x: [48] } or { tokens: { dims: [16], dtype: "int32" } }`,
    );
  }
  return inputs as InputDims;
}

function isInputSpec(value: unknown): value is InputSpec {
  if (Array.isArray(value)) return isDims(value);
  if (!isRecord(value) || !isDims(value["dims"])) return false;
  const { dtype } = value;
  return dtype === undefined || dtype === "float32" || dtype === "int32";
}

function isDims(dims: unknown): boolean {
  return (
    Array.isArray(dims) &&
    dims.every((dim) => Number.isSafeInteger(dim) && Number(dim) > 0 && Number(dim) <= MAX_DIM)
  );
}

/** Tokens of a row, where the data says how many: its rows are `tokens` then. */
function sequenceLengthOf(data: unknown): number | undefined {
  if (!isRecord(data)) return undefined;
  for (const key of ["text", "tokens", "random", "stream"]) {
    const source = data[key];
    if (!isRecord(source)) continue;
    const length = source["seqLen"];
    const isLength = Number.isSafeInteger(length) && Number(length) > 0;
    if (isLength && Number(length) <= MAX_SEQUENCE) return Number(length);
  }
  return undefined;
}

/** Dims of the data file's one tensor that is no target of the loss; among several, of `x` or `tokens` where the model takes one. */
async function inputsOfFile(
  model: Module,
  spec: Readonly<Record<string, unknown>>,
  folder: string,
  path: string,
): Promise<InputDims> {
  const dataPath = safetensorsPathOf(spec["data"]);
  if (dataPath === undefined) {
    throw new InvalidArgumentError(
      `model file ${path} declares no inputs and the job has no data that tells them; ${ADVICE}`,
    );
  }
  const file = await SafetensorsFile.open(resolve(folder, dataPath));
  try {
    const target = targetOf(spec["loss"]);
    const all = [...file.header.tensors];
    const tensors = all.filter(([name]) => name !== target);
    if (tensors.length === 0) {
      const names = all.map(([name]) => name).join(", ");
      throw new InvalidArgumentError(
        `model file ${path} declares no inputs, and ${dataPath} has no tensor to take them from (it has: ${names || "none"}); ${ADVICE}`,
      );
    }
    // A file may hold more than this job reads, such as the target of another loss.
    const usual = tensors.filter(([name]) => name === "x" || name === "tokens");
    const named = model.forward.length <= 1 && usual.length === 1 ? usual[0] : undefined;
    const chosen = tensors.length === 1 ? tensors[0] : named;
    if (chosen === undefined) {
      const names = tensors.map(([name]) => name).join(", ");
      throw new InvalidArgumentError(
        `model file ${path} declares no inputs, and ${dataPath} has ${tensors.length} tensors (${names}) to choose from; ${ADVICE}`,
      );
    }
    const [name, info] = chosen;
    return { [name]: { dims: info.shape.slice(1), dtype: dtypeOf(info) } };
  } finally {
    await file.close();
  }
}

function targetOf(loss: unknown): string | undefined {
  if (loss === "mse") return "y";
  return loss === "cross_entropy" ? "targets" : undefined;
}

/** Anything that is neither is refused when the data is checked. */
function dtypeOf({ dtype }: TensorInfo): InputType {
  return dtype === "I32" ? "int32" : "float32";
}

function safetensorsPathOf(data: unknown): string | undefined {
  if (!isRecord(data) || !isRecord(data["safetensors"])) return undefined;
  const { path } = data["safetensors"];
  return typeof path === "string" ? path : undefined;
}

function isRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
