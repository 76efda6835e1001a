import { Worker } from "node:worker_threads";
import {
  InternalError,
  InvalidArgumentError,
  ResourceExhaustedError,
} from "../../shared/errors.ts";
import { requireUtf8 } from "./byte-text.ts";
import { DataFile, SCANNED_BYTES } from "./data-file.ts";
import type { ResolvedPath } from "./paths.ts";
import type { TokenizerReply, TokenizerStart } from "./tokenizer-thread.ts";
import type { TokenSequence } from "./window-source.ts";

/** A longer text is tokenized beforehand: its tokens would fill the coordinator's memory. */
export const MAX_TOKENIZED_BYTES = SCANNED_BYTES;

/** Of a longer text, this much is tokenized when the job is submitted. */
const SAMPLE_BYTES = 256 << 10;

/** A tokenizer that takes longer for the sample will not end with the text. */
const CHECK_MS = 20_000;

/** Memory of the thread's JavaScript objects: the tokenizer itself, and one piece of text in tokens. */
const MAX_HEAP_MB = 4096;

export interface TokenizedTextFiles {
  readonly text: ResolvedPath;
  readonly tokenizer: ResolvedPath;
  /** How many ids the model knows. */
  readonly ids: number | undefined;
}

/**
 * Tokenizes a text whole, in a thread of its own, into memory.
 * @throws InvalidArgumentError with the file and the place that is at fault; the signal's reason when it fires
 */
export async function tokenizeFile(
  files: TokenizedTextFiles,
  signal: AbortSignal,
): Promise<TokenSequence> {
  const file = await DataFile.open(files.text);
  try {
    requireSize(file);
    await requireUtf8(file);
    const tokens = await runThread(files, "all", signal);
    // What the thread has read is what was checked here.
    await file.read(0, 0);
    return {
      length: tokens.length,
      read: (start, end) => Promise.resolve(Int32Array.from(tokens.subarray(start, end))),
      close: () => Promise.resolve(),
    };
  } finally {
    await file.close();
  }
}

/**
 * Looks for faults of a text and its tokenizer without tokenizing more than a sample.
 * @param depth `headers`: the tokenizer alone
 * @returns how many tokens the text has, if that is known
 * @throws InvalidArgumentError with the file and the place that is at fault
 */
export async function checkTokenizedFile(
  files: TokenizedTextFiles,
  depth: "headers" | "contents",
): Promise<number | undefined> {
  const file = await DataFile.open(files.text);
  const late = new AbortController();
  const timer = setTimeout(() => {
    const { field, given } = files.tokenizer;
    const message = `${given}: takes more than ${CHECK_MS / 1000} s for ${SAMPLE_BYTES} bytes of text`;
    late.abort(new InvalidArgumentError([{ path: field, message }]));
  }, CHECK_MS);
  try {
    requireSize(file);
    if (depth === "contents") await requireUtf8(file);
    const sample = depth === "headers" ? 0 : SAMPLE_BYTES;
    const tokens = await runThread(files, sample, late.signal);
    return file.bytes <= sample ? tokens.length : undefined;
  } finally {
    clearTimeout(timer);
    await file.close();
  }
}

function requireSize(file: DataFile): void {
  if (file.bytes <= MAX_TOKENIZED_BYTES) return;
  throw file.fault(
    `has ${file.bytes} bytes; texts of up to ${MAX_TOKENIZED_BYTES} are tokenized when the job starts. Tokenize it beforehand and use data.tokens`,
  );
}

async function runThread(
  { text, tokenizer, ids }: TokenizedTextFiles,
  bytes: number | "all",
  signal: AbortSignal,
): Promise<Uint16Array | Uint32Array> {
  signal.throwIfAborted();
  const start: TokenizerStart = { tokenizerPath: tokenizer.real, textPath: text.real, ids, bytes };
  const worker = new Worker(new URL("./tokenizer-thread.js", import.meta.url), {
    workerData: start,
    name: "tokenizer",
    resourceLimits: { maxOldGenerationSizeMb: MAX_HEAP_MB },
  });
  try {
    const reply = await replyOf(worker, signal);
    if (reply.kind === "tokens") {
      return reply.bytesPerToken === 2
        ? new Uint16Array(reply.buffer)
        : new Uint32Array(reply.buffer);
    }
    const at = reply.of === "text" ? text : tokenizer;
    const message = `${at.given}: ${reply.message}`;
    if (reply.isTooLarge) throw new ResourceExhaustedError(`${at.field}: ${message}`);
    throw new InvalidArgumentError([{ path: at.field, message }]);
  } finally {
    await worker.terminate();
  }
}

/** The thread's one answer, its crash, or the signal, whichever comes first. */
async function replyOf(worker: Worker, signal: AbortSignal): Promise<TokenizerReply> {
  let abort = (): void => undefined;
  try {
    return await new Promise((resolve, reject) => {
      abort = () => reject(signal.reason);
      signal.addEventListener("abort", abort);
      worker.once("message", resolve);
      worker.once("error", (error: unknown) => reject(threadError(error)));
      worker.once("exit", () => reject(new InternalError("the tokenizer's thread ended early")));
    });
  } finally {
    signal.removeEventListener("abort", abort);
  }
}

function threadError(error: unknown): Error {
  if (error instanceof Error && "code" in error && error.code === "ERR_WORKER_OUT_OF_MEMORY") {
    return new ResourceExhaustedError(
      `the tokenizer needs more than ${MAX_HEAP_MB} MB of memory; tokenize the text beforehand and use data.tokens`,
    );
  }
  const message = error instanceof Error ? error.message : String(error);
  return new InternalError(`tokenizing failed: ${message}`, { cause: error });
}
