import { InternalError } from "../../shared/errors.ts";
import { interleaveRows, rotaryRows } from "../../shared/hugging-face/rotary.ts";
import type { Interval } from "../../shared/mesh/placement.ts";
import { quote } from "../../shared/quote.ts";
import { safetensorsDtypeBytes } from "../../shared/safetensors/dtype.ts";
import type { TensorInfo } from "../../shared/safetensors/header.ts";
import { PIECE_BYTES, type SafetensorsFile } from "../../shared/safetensors/reader.ts";
import { type FloatDtype, isFloatDtype, toFloat32 } from "../../shared/safetensors/to-float32.ts";

/** Where a parameter's values come from. */
export interface SourceTensor {
  readonly file: SafetensorsFile;
  /** Of float elements. */
  readonly tensor: TensorInfo;
  /** Features of a head where the file has the rows of its heads in the order of Hugging Face; even. */
  readonly rotaryHeadDim?: number | undefined;
}

/**
 * A slice of a parameter as float32 in the model's order, row-major, in pieces of at most PIECE_BYTES. Reads only what the
 * slice covers.
 * @param intervals of the parameter, in the model's order of rows
 */
export function readFloat32(
  source: SourceTensor,
  intervals: readonly Interval[],
): AsyncGenerator<Uint8Array, void, void> {
  return source.rotaryHeadDim === undefined
    ? readInFileOrder(source, intervals)
    : readInRotaryOrder(source, source.rotaryHeadDim, intervals);
}

async function* readInFileOrder(
  { file, tensor }: SourceTensor,
  intervals: readonly Interval[],
): AsyncGenerator<Uint8Array, void, void> {
  const dtype = floatDtype(tensor);
  // Narrow elements grow when they are converted.
  const stepBytes = (PIECE_BYTES * safetensorsDtypeBytes(dtype)) / 4;
  for await (const piece of file.readSlice(tensor, intervals)) {
    for (let at = 0; at < piece.byteLength; at += stepBytes) {
      yield toFloat32(piece.subarray(at, at + stepBytes), dtype);
    }
  }
}

/** Two reads for neighbouring rows of a head: its even rows lie together in the file, and its odd ones. */
async function* readInRotaryOrder(
  { file, tensor }: SourceTensor,
  headDim: number,
  [rows, ...others]: readonly Interval[],
): AsyncGenerator<Uint8Array, void, void> {
  if (rows === undefined) throw new InternalError(`${quote(tensor.name)} has no rows`);
  const dtype = floatDtype(tensor);
  const elements = others.reduce((product, { start, end }) => product * (end - start), 1);
  if (elements === 0) return;
  const maxRows = Math.max(1, Math.floor(PIECE_BYTES / (4 * elements)));
  for (const part of rotaryRows(rows, headDim, maxRows)) {
    const [even, odd] = await Promise.all([
      file.readWhole(tensor, [part.even, ...others]),
      file.readWhole(tensor, [part.odd, ...others]),
    ]);
    const bytes = interleaveRows(part, even, odd, elements * safetensorsDtypeBytes(dtype));
    yield toFloat32(bytes, dtype);
  }
}

/** Whether two tensors of one shape hold the same numbers. Reads both whole, a piece at a time. */
export async function sameValues(a: SourceTensor, b: SourceTensor): Promise<boolean> {
  const [dtypeA, dtypeB] = [floatDtype(a.tensor), floatDtype(b.tensor)];
  const [rows = 1, ...dims] = a.tensor.shape;
  const rowBytes = dims.reduce((product, size) => product * size, 4);
  const whole = dims.map((size) => ({ start: 0, end: size }));
  const step = Math.max(1, Math.floor(PIECE_BYTES / Math.max(1, rowBytes)));
  for (let start = 0; start < rows; start += step) {
    const intervals = [{ start, end: Math.min(rows, start + step) }, ...whole];
    const [x, y] = await Promise.all([
      a.file.readWhole(a.tensor, intervals),
      b.file.readWhole(b.tensor, intervals),
    ]);
    if (Buffer.compare(toFloat32(x, dtypeA), toFloat32(y, dtypeB)) !== 0) return false;
  }
  return true;
}

function floatDtype({ name, dtype }: TensorInfo): FloatDtype {
  if (isFloatDtype(dtype)) return dtype;
  throw new InternalError(`tensor ${quote(name)} of ${dtype} was taken for a weight`);
}
