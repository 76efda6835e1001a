import { type Fault, InvalidArgumentError } from "../../shared/errors.ts";
import { didYouMean } from "../../shared/nearest.ts";
import { quote } from "../../shared/quote.ts";
import type { TensorInfo } from "../../shared/safetensors/header.ts";
import { SafetensorsFile } from "../../shared/safetensors/reader.ts";
import { SCANNED_BYTES } from "./data-file.ts";
import {
  type DataInput,
  type NamedShape,
  type RowSource,
  rowBytes,
  wantedShape,
} from "./data-source.ts";
import { firstOutside, int32Values, outsideText } from "./ids.ts";
import type { ResolvedPath } from "./paths.ts";
import { runsOf } from "./row-runs.ts";

/** Reads in flight for one input of one batch: shuffled rows are read one by one. */
const CONCURRENT_READS = 4;

/**
 * Opens a file with one tensor [rows, ...] for each input, F32 or I32; only its header is read now.
 * @throws InvalidArgumentError with every fault of the file and of its tensors, at the file's field of the spec
 */
export async function openSafetensorsSource(
  path: ResolvedPath,
  inputs: readonly DataInput[],
): Promise<RowSource> {
  const file = await openAt(path);
  const checked = checkTensors(file, path, inputs);
  if (!checked.ok) {
    await file.close();
    throw new InvalidArgumentError(checked.faults);
  }
  const { tensors, rows } = checked;
  return {
    kind: "rows",
    inputs,
    rows,
    readRows: async (index, wanted) => {
      const input = inputs[index];
      const tensor = tensors[index];
      if (input === undefined || tensor === undefined) return new Uint8Array(0);
      const bytes = await readRows(file, tensor, rowBytes(input), wanted);
      requireIds(bytes, input, path, (position) => wanted[position] ?? 0);
      return bytes;
    },
    scan: async () => {
      for (const [index, input] of inputs.entries()) {
        const tensor = tensors[index];
        if (tensor !== undefined && input.ids !== undefined) {
          await scanIds(file, tensor, input, path);
        }
      }
    },
    close: () => file.close(),
  };
}

/**
 * Tokens of a row of a file of sequences: the second dim of its tensor `tokens`. Reads only the header.
 * @throws InvalidArgumentError at the file's field of the spec when it has none
 */
export async function safetensorsSequenceLength(path: ResolvedPath): Promise<number> {
  const file = await openAt(path);
  const tensor = file.header.tensors.get("tokens");
  await file.close();
  const length = tensor?.shape[1];
  const isFit = tensor?.dtype === "I32" && tensor.shape.length === 2;
  if (isFit && length !== undefined && length > 0) return length;
  const has =
    tensor === undefined
      ? missingTensor(file, TOKENS)
      : `tensor "tokens" is ${printTensor(tensor)}; the model takes ${wantedShape(TOKENS)}`;
  throw new InvalidArgumentError([{ path: path.field, message: `${path.given}: ${has}` }]);
}

/** What a model of sequences takes, whatever their length. */
const TOKENS = { name: "tokens", dtype: "int32", dims: ["seqLen"] } as const;

async function openAt(path: ResolvedPath): Promise<SafetensorsFile> {
  try {
    return await SafetensorsFile.open(path.real);
  } catch (error) {
    if (!(error instanceof InvalidArgumentError)) throw error;
    // The user knows the file by the name they gave it.
    const faults = error.faults.map(({ message }) => ({
      path: path.field,
      message: message.replaceAll(path.real, path.given),
    }));
    throw new InvalidArgumentError(faults, { cause: error });
  }
}

type Checked =
  | { readonly ok: true; readonly tensors: readonly TensorInfo[]; readonly rows: number }
  | { readonly ok: false; readonly faults: readonly Fault[] };

function checkTensors(
  file: SafetensorsFile,
  path: ResolvedPath,
  inputs: readonly DataInput[],
): Checked {
  const faults: Fault[] = [];
  const say = (message: string): void => {
    faults.push({ path: path.field, message: `${path.given}: ${message}` });
  };
  const tensors: TensorInfo[] = [];
  for (const input of inputs) {
    const tensor = file.header.tensors.get(input.name);
    if (tensor === undefined) say(missingTensor(file, input));
    else if (hasWrongForm(tensor, input)) {
      const has = `tensor ${quote(input.name)} is ${printTensor(tensor)}`;
      say(`${has}; the job's input of that name is ${wantedShape(input)}`);
    } else tensors.push(tensor);
  }
  const [first] = tensors;
  const rows = first?.shape[0] ?? 0;
  for (const tensor of tensors) {
    if (tensor.shape[0] === rows) continue;
    const names = `${quote(first?.name)} and ${quote(tensor.name)}`;
    say(`tensors ${names} have ${rows} and ${tensor.shape[0]} rows; all must have as many`);
  }
  if (first !== undefined && rows === 0) say(`tensor ${quote(first.name)} has no rows`);
  return faults.length > 0 ? { ok: false, faults } : { ok: true, tensors, rows };
}

function missingTensor(file: SafetensorsFile, input: NamedShape): string {
  const names = [...file.header.tensors.keys()];
  const shown = names.slice(0, 5).map(quote).join(", ");
  const more = names.length > 5 ? ` and ${names.length - 5} more` : "";
  const hint = didYouMean(input.name, names) || `; it has ${shown || "none"}${more}`;
  return `has no tensor ${quote(input.name)} for the job's input of that name, ${wantedShape(input)}${hint}`;
}

function hasWrongForm(tensor: TensorInfo, input: DataInput): boolean {
  const dtype = input.dtype === "int32" ? "I32" : "F32";
  return (
    tensor.dtype !== dtype ||
    tensor.shape.length !== input.dims.length + 1 ||
    input.dims.some((dim, index) => tensor.shape[index + 1] !== dim)
  );
}

function printTensor(tensor: TensorInfo): string {
  return `[${tensor.shape.join(", ")}] ${tensor.dtype}`;
}

/** Reads the first rows of a tensor of ids, piece by piece. */
async function scanIds(
  file: SafetensorsFile,
  tensor: TensorInfo,
  input: DataInput,
  path: ResolvedPath,
): Promise<void> {
  const bytesOfRow = Math.max(1, rowBytes(input));
  const rows = Math.min(tensor.shape[0] ?? 0, Math.ceil(SCANNED_BYTES / bytesOfRow));
  const intervals = tensor.shape.map((size, dim) => ({ start: 0, end: dim === 0 ? rows : size }));
  let valuesBefore = 0;
  for await (const piece of file.readSlice(tensor, intervals)) {
    const before = valuesBefore;
    requireIds(piece, input, path, (row) => row, before);
    valuesBefore += piece.byteLength / 4;
  }
}

/**
 * @param rowAt row of the file, by its position in what was read
 * @param before values of whole rows read before these
 * @throws InvalidArgumentError with the place of the first value that is no id of the input
 */
function requireIds(
  bytes: Uint8Array,
  input: DataInput,
  path: ResolvedPath,
  rowAt: (position: number) => number,
  before = 0,
): void {
  if (input.ids === undefined) return;
  const values = int32Values(bytes);
  const index = firstOutside(values, input);
  if (index < 0) return;
  const rowLength = Math.max(1, rowBytes(input) / 4);
  const row = rowAt(Math.floor((before + index) / rowLength));
  const position = input.dims.length === 0 ? "" : `, position ${(before + index) % rowLength}`;
  const where = `tensor ${quote(input.name)}, row ${row}${position}`;
  const message = `${path.given}: ${where}: ${outsideText(values[index] ?? 0, input)}`;
  throw new InvalidArgumentError([{ path: path.field, message }]);
}

async function readRows(
  file: SafetensorsFile,
  tensor: TensorInfo,
  bytesOfRow: number,
  rows: readonly number[],
): Promise<Uint8Array> {
  const result = new Uint8Array(rows.length * bytesOfRow);
  const runs = runsOf(rows).reverse();
  const columns = tensor.shape.slice(1).map((size) => ({ start: 0, end: size }));
  const readSome = async (): Promise<void> => {
    for (let run = runs.pop(); run !== undefined; run = runs.pop()) {
      const block = file.readSlice(tensor, [{ start: run.start, end: run.end }, ...columns]);
      let at = run.at * bytesOfRow;
      for await (const piece of block) {
        result.set(piece, at);
        at += piece.byteLength;
      }
    }
  };
  const numReaders = Math.min(CONCURRENT_READS, runs.length);
  await Promise.all(Array.from({ length: numReaders }, readSome));
  return result;
}
