import { type Fault, InvalidArgumentError } from "../../shared/errors.ts";
import { didYouMean } from "../../shared/nearest.ts";
import { quote } from "../../shared/quote.ts";
import type { TensorInfo } from "../../shared/safetensors/header.ts";
import { SafetensorsFile } from "../../shared/safetensors/reader.ts";
import { type DataInput, type RowSource, rowBytes, wantedShape } from "./data-source.ts";
import type { ResolvedPath } from "./paths.ts";

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
    readRows: (input, wanted) => {
      const info = inputs[input];
      const tensor = tensors[input];
      if (info === undefined || tensor === undefined) return Promise.resolve(new Uint8Array(0));
      return readRows(file, tensor, rowBytes(info), wanted);
    },
    close: () => file.close(),
  };
}

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

function missingTensor(file: SafetensorsFile, input: DataInput): string {
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

interface RowRun {
  readonly start: number;
  end: number;
  /** Position of the run's first row in the result. */
  readonly at: number;
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

/** Rows that follow each other, together. */
function runsOf(rows: readonly number[]): RowRun[] {
  const runs: RowRun[] = [];
  rows.forEach((row, at) => {
    const last = runs.at(-1);
    if (last !== undefined && last.end === row) last.end += 1;
    else runs.push({ start: row, end: row + 1, at });
  });
  return runs;
}
