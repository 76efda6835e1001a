/** Pure: the header of a safetensors file, with every check of the reference implementation (tensor.rs). */
import { type Fault, InvalidArgumentError } from "../errors.ts";
import { quote } from "../quote.ts";
import {
  isSafetensorsDtype,
  SAFETENSORS_DTYPES,
  type SafetensorsDtype,
  safetensorsDtypeBytes,
} from "./dtype.ts";
import { duplicateKey } from "./duplicate-key.ts";

/** Longest header that readers accept. */
export const MAX_HEADER_BYTES = 100_000_000;

/** Faults listed of one file; a broken writer breaks every tensor in the same way. */
const MAX_FAULTS = 20;

export interface TensorInfo {
  readonly name: string;
  readonly dtype: SafetensorsDtype;
  readonly shape: readonly number[];
  /** Where the tensor's bytes begin and end in the file. */
  readonly beginByte: number;
  readonly endByte: number;
}

export interface SafetensorsHeader {
  /** By name, in file order. */
  readonly tensors: ReadonlyMap<string, TensorInfo>;
  readonly metadata: ReadonlyMap<string, string>;
}

/**
 * Bytes of the JSON header, from the first 8 bytes of the file.
 * @throws InvalidArgumentError when they cannot be the start of a file of `fileBytes`
 */
export function headerLength(prefix: Uint8Array, fileBytes: number, file: string): number {
  if (fileBytes < 8 || prefix.byteLength < 8) {
    throw new InvalidArgumentError(
      `${file}: not a safetensors file: it has ${fileBytes} bytes, the header's length alone takes 8`,
    );
  }
  const view = new DataView(prefix.buffer, prefix.byteOffset, 8);
  // As BigInt first: a huge length must not round to one that passes.
  const length = view.getBigUint64(0, true);
  if (length > BigInt(MAX_HEADER_BYTES)) {
    throw new InvalidArgumentError(
      `${file}: not a safetensors file: its header would take ${length} bytes, at most ${MAX_HEADER_BYTES} are allowed`,
    );
  }
  if (length > BigInt(fileBytes - 8)) {
    throw new InvalidArgumentError(
      `${file}: file truncated: have ${fileBytes} bytes, header says ${length + 8n} for itself alone; copy the file again`,
    );
  }
  return Number(length);
}

/**
 * Reads the JSON header.
 * @param json the bytes between the first 8 and the data
 * @param fileBytes size of the whole file
 * @param file for errors
 * @throws InvalidArgumentError with every fault found in the header
 */
export function parseHeader(json: Uint8Array, fileBytes: number, file: string): SafetensorsHeader {
  const root = parseJson(json, file);
  const faults: Fault[] = [];
  const report = (message: string): void => {
    if (faults.length < MAX_FAULTS) faults.push({ path: "", message: `${file}: ${message}` });
  };
  const metadata = new Map<string, string>();
  const tensors: TensorInfo[] = [];
  const dataStart = 8 + json.byteLength;
  for (const [name, value] of Object.entries(root)) {
    if (name === "__metadata__") readMetadata(value, metadata, report);
    else {
      const tensor = readTensorInfo(name, value, dataStart, report);
      if (tensor !== undefined) tensors.push(tensor);
    }
  }
  if (faults.length === 0) checkOffsets(tensors, dataStart, fileBytes, report);
  if (faults.length > 0) throw new InvalidArgumentError(faults);
  return { tensors: new Map(tensors.map((tensor) => [tensor.name, tensor])), metadata };
}

function parseJson(json: Uint8Array, file: string): Record<string, unknown> {
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(json);
  } catch (cause) {
    throw new InvalidArgumentError(`${file}: the header is not valid UTF-8`, { cause });
  }
  if (!text.startsWith("{")) {
    throw new InvalidArgumentError(
      `${file}: the header does not start with "{" but with ${quote(text.slice(0, 8))}; is it a safetensors file?`,
    );
  }
  let root: unknown;
  try {
    root = JSON.parse(text);
  } catch (cause) {
    const reason = cause instanceof Error ? quote(cause.message) : "";
    throw new InvalidArgumentError(`${file}: the header is not valid JSON: ${reason}`, { cause });
  }
  // JSON.parse keeps the last of two equal keys, and the first would pass unseen.
  const twice = duplicateKey(text);
  if (twice !== undefined) {
    throw new InvalidArgumentError(`${file}: the header has the key ${quote(twice)} twice`);
  }
  return root as Record<string, unknown>;
}

function readMetadata(
  value: unknown,
  into: Map<string, string>,
  report: (message: string) => void,
): void {
  if (!isRecord(value)) {
    report("__metadata__ is not an object of strings");
    return;
  }
  for (const [key, entry] of Object.entries(value)) {
    if (typeof entry === "string") into.set(key, entry);
    else report(`__metadata__ ${quote(key)} is not a string`);
  }
}

function readTensorInfo(
  name: string,
  value: unknown,
  dataStart: number,
  report: (message: string) => void,
): TensorInfo | undefined {
  const tensor = `tensor ${quote(name)}`;
  if (!isRecord(value)) {
    report(`${tensor} is not described by an object`);
    return undefined;
  }
  const { dtype, shape, data_offsets: offsets } = value;
  if (!isSafetensorsDtype(dtype)) {
    const known = SAFETENSORS_DTYPES.join(", ");
    report(`${tensor}: dtype ${describe(dtype)} is unknown; known are ${known}`);
    return undefined;
  }
  if (!Array.isArray(shape) || !shape.every(isCount)) {
    report(`${tensor}: shape ${describe(shape)} is not a list of integers >= 0`);
    return undefined;
  }
  if (!Array.isArray(offsets) || offsets.length !== 2 || !offsets.every(isCount)) {
    report(`${tensor}: data_offsets ${describe(offsets)} is not [begin, end]`);
    return undefined;
  }
  const [begin, end] = offsets as [number, number];
  const needBytes = product(shape) * safetensorsDtypeBytes(dtype);
  if (!Number.isSafeInteger(needBytes)) {
    report(`${tensor}: shape ${describe(shape)} has more elements than can be counted`);
    return undefined;
  }
  if (end < begin || end - begin !== needBytes) {
    report(
      `${tensor}: ${dtype} ${describe(shape)} takes ${needBytes} bytes, but data_offsets [${begin}, ${end}] span ${end - begin}`,
    );
    return undefined;
  }
  if (!Number.isSafeInteger(dataStart + end)) {
    report(`${tensor}: data_offsets [${begin}, ${end}] lie past any file`);
    return undefined;
  }
  // -0 is an integer to JSON; keep it out of messages and sums.
  const dims = shape.map((dim) => dim + 0);
  return { name, dtype, shape: dims, beginByte: dataStart + begin, endByte: dataStart + end };
}

/** Sorts by place. Tensors must fill the data from its first byte to the file's last, without gap or overlap. */
function checkOffsets(
  tensors: TensorInfo[],
  dataStart: number,
  fileBytes: number,
  report: (message: string) => void,
): void {
  tensors.sort((a, b) => a.beginByte - b.beginByte || a.endByte - b.endByte);
  let previous: TensorInfo | undefined;
  for (const tensor of tensors) {
    const expected = previous?.endByte ?? dataStart;
    const begin = tensor.beginByte - dataStart;
    const before =
      previous === undefined ? "the start of the data" : `tensor ${quote(previous.name)}`;
    if (tensor.beginByte < expected) {
      report(
        `tensor ${quote(tensor.name)} begins at byte ${begin} of the data and overlaps ${before}, which ends at ${expected - dataStart}`,
      );
    } else if (tensor.beginByte > expected) {
      report(
        `tensor ${quote(tensor.name)} begins at byte ${begin} of the data, leaving a gap after ${before} at ${expected - dataStart}`,
      );
    }
    previous = tensor;
  }
  const saysBytes = tensors.reduce((last, tensor) => Math.max(last, tensor.endByte), dataStart);
  if (saysBytes > fileBytes) {
    report(
      `file truncated: have ${fileBytes} bytes, header says ${saysBytes}; copy the file again`,
    );
  } else if (saysBytes < fileBytes) {
    report(
      `${fileBytes - saysBytes} bytes follow the last tensor: have ${fileBytes} bytes, header says ${saysBytes}`,
    );
  }
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function isCount(value: unknown): value is number {
  return typeof value === "number" && Number.isSafeInteger(value) && value >= 0;
}

/** A zero anywhere makes it zero, however large the rest: an infinite product times zero would be NaN. */
function product(shape: readonly number[]): number {
  return shape.includes(0) ? 0 : shape.reduce((count, dim) => count * dim, 1);
}

/** A short list in full, anything else as `quote` says it: nothing deep is walked. */
function describe(value: unknown): string {
  if (value === undefined) return "(none)";
  if (!Array.isArray(value)) return quote(value);
  const shown = value.slice(0, 8).map(quote);
  if (value.length > shown.length) shown.push(`... ${value.length} in all`);
  return `[${shown.join(", ")}]`;
}
