import { InternalError } from "../../shared/errors.ts";
import { huggingFaceTensors } from "../../shared/hugging-face/names.ts";
import { rotaryRows, splitRows } from "../../shared/hugging-face/rotary.ts";
import type { LlamaModel } from "../../shared/job/job-spec.ts";
import type { Interval } from "../../shared/mesh/placement.ts";
import { quote } from "../../shared/quote.ts";
import type { TensorSpec } from "../../shared/safetensors/write-header.ts";
import type { SafetensorsWriter } from "../../shared/safetensors/writer.ts";
import type { ProgramOutline } from "../planner.ts";

/** Rows are reordered in blocks of about this many bytes. */
const BLOCK_BYTES = 1 << 20;

type Pieces = AsyncIterable<Uint8Array> | Iterable<Uint8Array>;

/** How parameters lie in an output file: under which names, and in which order of rows. */
export interface OutputForm {
  readonly specs: readonly TensorSpec[];
  readonly metadata: Readonly<Record<string, string>>;
  /** Writes one slice of a parameter, given as float32 in the model's order, row-major, cut anywhere. */
  write(
    writer: SafetensorsWriter,
    parameter: string,
    intervals: readonly Interval[],
    pieces: Pieces,
  ): Promise<void>;
}

/** As the model has them. */
export function modelForm(program: ProgramOutline): OutputForm {
  return {
    specs: program.stored
      .filter((tensor) => tensor.role === "parameter")
      .map(({ name, globalShape }) => ({ name, dtype: "F32", shape: globalShape })),
    metadata: {},
    write: (writer, parameter, intervals, pieces) =>
      writer.writeSlice(parameter, intervals, pieces),
  };
}

/** As Hugging Face checkpoints of Llama have them. */
export function huggingFaceForm(model: LlamaModel): OutputForm {
  const tensors = huggingFaceTensors(model);
  const byParameter = new Map(tensors.map((tensor) => [tensor.parameter, tensor]));
  return {
    specs: tensors.map(({ name, shape }) => ({ name, dtype: "F32", shape })),
    // Loaders refuse a file that does not say what wrote it.
    metadata: { format: "pt" },
    async write(writer, parameter, intervals, pieces) {
      const tensor = byParameter.get(parameter);
      if (tensor === undefined) throw new InternalError(`no Llama has a ${quote(parameter)}`);
      const { name, rotaryHeadDim } = tensor;
      if (rotaryHeadDim === undefined) await writer.writeSlice(name, intervals, pieces);
      else await writeRotary(writer, name, rotaryHeadDim, intervals, pieces);
    },
  };
}

/** Writes rows of the model's order to their places in a Hugging Face weight, a block at a time. */
async function writeRotary(
  writer: SafetensorsWriter,
  name: string,
  headDim: number,
  [rows, columns]: readonly Interval[],
  pieces: Pieces,
): Promise<void> {
  if (rows === undefined || columns === undefined) throw new InternalError(`${name} is no matrix`);
  const rowBytes = 4 * (columns.end - columns.start);
  const maxRows = Math.max(1, Math.floor(BLOCK_BYTES / Math.max(1, rowBytes)));
  const parts = [...rotaryRows(rows, headDim, maxRows)];
  let next = 0;
  for await (const block of blocks(
    pieces,
    parts.map((part) => (part.rows.end - part.rows.start) * rowBytes),
  )) {
    const part = parts[next];
    next += 1;
    if (part === undefined) break;
    const { even, odd } = splitRows(part, block, rowBytes);
    if (even.byteLength > 0) await writer.writeSlice(name, [part.even, columns], [even]);
    if (odd.byteLength > 0) await writer.writeSlice(name, [part.odd, columns], [odd]);
  }
}

/** The bytes of `pieces`, cut anew into blocks of these sizes. What misses or is too much shows when the file is committed. */
async function* blocks(
  pieces: Pieces,
  sizes: readonly number[],
): AsyncGenerator<Uint8Array, void, void> {
  let index = 0;
  let block = new Uint8Array(sizes[0] ?? 0);
  let filled = 0;
  for await (const piece of pieces) {
    for (let at = 0; at < piece.byteLength && index < sizes.length; ) {
      const part = piece.subarray(at, at + block.byteLength - filled);
      block.set(part, filled);
      at += part.byteLength;
      filled += part.byteLength;
      if (filled < block.byteLength) break;
      yield block;
      index += 1;
      block = new Uint8Array(sizes[index] ?? 0);
      filled = 0;
    }
  }
}
