import type { DType, Program } from "../../shared/program/program.ts";

/** One tensor of a row of data. */
export interface DataInput {
  readonly name: string;
  readonly dtype: DType;
  /** Dims after the batch dim. */
  readonly dims: readonly number[];
  /** Of an int32 input whose values are ids: how many there are, from 0 on. */
  readonly ids?: number | undefined;
}

/** The tensors that a program takes each step, the target of its loss among them. */
export function dataInputs(
  program: Pick<Program, "inputs">,
  idLimits: Readonly<Record<string, number>> = {},
): DataInput[] {
  return program.inputs.map(({ name, dtype, globalShape }) => ({
    name,
    dtype,
    dims: globalShape.slice(1),
    ids: Object.hasOwn(idLimits, name) ? idLimits[name] : undefined,
  }));
}

/** Bytes of one row of `input`. All dtypes of data have 4-byte elements. */
export function rowBytes(input: DataInput): number {
  return 4 * input.dims.reduce((product, dim) => product * dim, 1);
}

/** What errors say of an input; a size that is not known is a word. */
export interface NamedShape {
  readonly name: string;
  readonly dtype: DType;
  readonly dims: readonly (number | string)[];
}

/** `[rows, 48] float32`, as errors show what an input wants. */
export function wantedShape(input: NamedShape): string {
  return `[${["rows", ...input.dims].join(", ")}] ${input.dtype}`;
}

/** A table of rows that can be read at any place: a file or a generator. */
export interface RowSource {
  readonly kind: "rows";
  readonly inputs: readonly DataInput[];
  /** Rows of one pass; at least 1. */
  readonly rows: number;
  /**
   * Rows of input number `input` in the given order, dense little-endian bytes.
   * @throws DataLossError when the data is not what it was when it was opened
   */
  readRows(input: number, rows: readonly number[]): Promise<Uint8Array>;
  /**
   * Looks for values that `readRows` would refuse, up to a limit; absent where there can be none.
   * @throws InvalidArgumentError with the place of the first
   */
  scan?(): Promise<void>;
  close(): Promise<void>;
}

/** Whole batches that somebody else makes, one a step, in order. */
export interface BatchSource {
  readonly kind: "batches";
  readonly inputs: readonly DataInput[];
  /**
   * The batch of `step`, one entry an input, when it is there. Each step is taken once.
   * @throws UnavailableError when none comes in time; InvalidArgumentError when none will come
   */
  takeBatch(step: number, signal: AbortSignal): Promise<readonly Uint8Array[]>;
  close(): Promise<void>;
}

export type DataSource = RowSource | BatchSource;
