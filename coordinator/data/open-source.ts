import { InternalError } from "../../shared/errors.ts";
import type { FixedSourceSpec, TextData } from "../../shared/job/job-spec.ts";
import { sourceKey } from "../../shared/job/sequences.ts";
import { ByteText } from "./byte-text.ts";
import type { DataInput, RowSource } from "./data-source.ts";
import type { ResolvedPath, SourcePaths } from "./paths.ts";
import { randomSource } from "./random-source.ts";
import { openSafetensorsSource } from "./safetensors-source.ts";
import { TokenFile } from "./token-file.ts";
import { checkTokenizedFile, tokenizeFile } from "./tokenized-text.ts";
import { tokenizes } from "./tokenizes.ts";
import { requireTokenInputs, windowIds, windowSource } from "./window-source.ts";

export interface StreamLimits {
  /** Batches that may wait for the job before a push waits; at least 1. */
  readonly maxQueuedBatches: number;
  /** How long a step waits for its batch, and a push for room. */
  readonly timeoutMs: number;
}

export const DEFAULT_STREAM_LIMITS: StreamLimits = { maxQueuedBatches: 4, timeoutMs: 600_000 };

/** A source of rows, and where the spec has it. */
export interface SourceRequest {
  readonly source: FixedSourceSpec;
  /** `data` or `eval.data`. */
  readonly field: string;
  /** What the job takes. */
  readonly inputs: readonly DataInput[];
  /** From `resolveJobPaths` of the same spec, without faults. */
  readonly paths: SourcePaths;
}

/**
 * A job's rows, checked against what its model takes. Files stay open and are read as rows are asked for; only a text that
 * a tokenizer's file cuts is taken into memory.
 * @throws InvalidArgumentError with the faults of the data; the signal's reason when it fires first
 */
export async function openSource(request: SourceRequest, signal: AbortSignal): Promise<RowSource> {
  const { source, inputs, paths } = request;
  const field = fieldOf(request);
  if ("random" in source) return randomSource(source.random, inputs, field);
  if ("safetensors" in source) return openSafetensorsSource(required(paths.file, field), inputs);
  if ("tokens" in source) {
    const { seqLen, dtype } = source.tokens;
    requireTokenInputs(inputs, seqLen, field);
    const file = required(paths.file, field);
    const sequence = await TokenFile.open(file, dtype, windowIds(inputs));
    return closingOnError(sequence, () => windowSource(sequence, seqLen, inputs, file));
  }
  const { seqLen } = source.text;
  requireTokenInputs(inputs, seqLen, field);
  const text = required(paths.file, field);
  const sequence = tokenizes(source)
    ? await tokenizeFile(tokenizedFiles(request, field), signal)
    : await ByteText.open(text, windowIds(inputs));
  return closingOnError(sequence, () => windowSource(sequence, seqLen, inputs, text));
}

/**
 * Finds faults of a job's rows before it starts.
 * @param depth `headers`: sizes and headers of files alone; `contents`: also what is in them, of large files the beginning
 * @returns how many rows there are, if that can be known without much work
 * @throws InvalidArgumentError with the faults of the data
 */
export async function checkSource(
  request: SourceRequest,
  depth: "headers" | "contents",
): Promise<number | undefined> {
  const { source } = request;
  if (tokenizes(source)) return checkTokenizedText(request, source.text, depth);
  const opened = await openSource(request, new AbortController().signal);
  try {
    if (depth === "contents") await opened.scan?.();
    return opened.rows;
  } finally {
    await opened.close();
  }
}

async function checkTokenizedText(
  request: SourceRequest,
  { seqLen }: TextData,
  depth: "headers" | "contents",
): Promise<number | undefined> {
  const { inputs, paths } = request;
  const field = fieldOf(request);
  requireTokenInputs(inputs, seqLen, field);
  const length = await checkTokenizedFile(tokenizedFiles(request, field), depth);
  if (length === undefined) return undefined;
  const known = { length, read: () => Promise.reject(new InternalError("only a length")) };
  const nothing = { ...known, close: () => Promise.resolve() };
  return windowSource(nothing, seqLen, inputs, required(paths.file, field)).rows;
}

function tokenizedFiles({ inputs, paths }: SourceRequest, field: string) {
  return {
    text: required(paths.file, field),
    tokenizer: required(paths.tokenizer, field),
    ids: windowIds(inputs).ids,
  };
}

async function closingOnError<T>(opened: { close(): Promise<void> }, use: () => T): Promise<T> {
  try {
    return use();
  } catch (error) {
    await opened.close();
    throw error;
  }
}

function fieldOf({ source, field }: SourceRequest): string {
  return `${field}.${sourceKey(source)}`;
}

function required(path: ResolvedPath | undefined, field: string): ResolvedPath {
  if (path === undefined) throw new InternalError(`a file of ${field} was not resolved`);
  return path;
}
