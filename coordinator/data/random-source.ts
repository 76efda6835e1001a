import { setImmediate as nextTurn } from "node:timers/promises";
import { type Fault, InternalError, InvalidArgumentError } from "../../shared/errors.ts";
import { quote } from "../../shared/quote.ts";
import { fillStandardNormals } from "../../shared/random/normal.ts";
import { PhiloxStream } from "../../shared/random/philox.ts";
import { type DataInput, type RowSource, rowBytes, wantedShape } from "./data-source.ts";

/** Values made between two turns of the event loop: a few milliseconds, so that no heartbeat waits. */
const VALUES_PER_TURN = 1 << 15;

/** Data of up to this size is made once and kept, so that later passes cost nothing. */
const MAX_KEPT_BYTES = 32 << 20;

/** Makes values [start, start + target.length) of one row of an input. */
type Fill = (target: Float32Array | Int32Array, row: number, start: number) => void;

/**
 * Random rows; any can be made alone and are the same on every mesh. Value g (row-major over [length, ...dims]) of an
 * input is value g of the stream keyed by seed and the input's name: standard normal for floats, uniform for ids. Inputs
 * `tokens` and `targets` [rows, T] share rows of T + 1 ids, of which the targets are the last T.
 * @param field of the source: `data.random`
 * @throws InvalidArgumentError for inputs that it can't fill
 */
export function randomSource(
  spec: { readonly length: number; readonly seed: number; readonly seqLen?: number },
  inputs: readonly DataInput[],
  field = "data.random",
): RowSource {
  const faults = inputs.flatMap((input) => faultsOf(input, spec, field));
  if (spec.seqLen !== undefined && !inputs.some(isSequence)) {
    const takes = inputs.map((input) => `${quote(input.name)} ${wantedShape(input)}`).join(", ");
    const message = `is ${spec.seqLen}, but the job takes no sequences: ${takes}; leave it out`;
    faults.push({ path: `${field}.seqLen`, message });
  }
  if (faults.length > 0) throw new InvalidArgumentError(faults);

  const bytesOfAll = inputs.reduce((sum, input) => sum + spec.length * rowBytes(input), 0);
  const fills = inputs.map((input) => fillOf(input, spec.seed));
  const kept = inputs.map(() => new Map<number, Float32Array | Int32Array>());
  return {
    kind: "rows",
    inputs,
    rows: spec.length,
    async readRows(index, rows) {
      const input = inputs[index];
      const fill = fills[index];
      if (input === undefined || fill === undefined) return new Uint8Array(0);
      const rowLength = rowBytes(input) / 4;
      const length = rows.length * rowLength;
      const result = input.dtype === "int32" ? new Int32Array(length) : new Float32Array(length);
      const turns = new Turns();
      for (const [position, row] of rows.entries()) {
        const target = result.subarray(position * rowLength, (position + 1) * rowLength);
        const known = kept[index]?.get(row);
        if (known !== undefined) {
          target.set(known);
          continue;
        }
        await fillRow(target, row, fill, turns);
        if (bytesOfAll <= MAX_KEPT_BYTES) kept[index]?.set(row, target.slice());
      }
      return new Uint8Array(result.buffer);
    },
    close() {
      for (const rows of kept) rows.clear();
      return Promise.resolve();
    },
  };
}

function faultsOf(
  input: DataInput,
  spec: { readonly length: number; readonly seqLen?: number },
  field: string,
): Fault[] {
  const faults: Fault[] = [];
  const name = quote(input.name);
  if (input.dtype === "int32" && input.ids === undefined) {
    const message = `can't tell which ids the job's input ${name} takes; use safetensors or stream`;
    faults.push({ path: field, message });
  }
  if (spec.seqLen !== undefined && isSequence(input) && input.dims[0] !== spec.seqLen) {
    const message = `is ${spec.seqLen}; the job's input ${name} is ${wantedShape(input)}`;
    faults.push({ path: `${field}.seqLen`, message });
  }
  const valuesPerRow = isSequence(input) ? (input.dims[0] ?? 0) + 1 : rowBytes(input) / 4;
  const maxRows = Math.floor(Number.MAX_SAFE_INTEGER / valuesPerRow);
  if (spec.length > maxRows) {
    const message = `is ${spec.length}; for input ${name} at most ${maxRows} rows can be numbered`;
    faults.push({ path: `${field}.length`, message });
  }
  return faults;
}

/** Whether an input holds the tokens of a sequence, or those that follow them. */
function isSequence({ name, dtype, dims }: DataInput): boolean {
  return dtype === "int32" && dims.length === 1 && (name === "tokens" || name === "targets");
}

function fillOf(input: DataInput, seed: number): Fill {
  const { name, ids, dims } = input;
  const rowLength = rowBytes(input) / 4;
  if (input.dtype !== "int32") {
    return (target, row, start) => {
      if (!(target instanceof Float32Array)) throw new InternalError(`${name} is not float32`);
      fillStandardNormals(target, { seed, name, start: row * rowLength + start });
    };
  }
  const count = ids ?? 0;
  if (!isSequence(input)) {
    return (target, row, start) => fillIds(target, { seed, name, count }, row * rowLength + start);
  }
  const length = dims[0] ?? 0;
  const offset = name === "targets" ? 1 : 0;
  return (target, row, start) =>
    fillIds(target, { seed, name: "tokens", count }, row * (length + 1) + offset + start);
}

/** Ids uniform on [0, count): word g of the stream, scaled. */
function fillIds(
  target: Float32Array | Int32Array,
  from: { readonly seed: number; readonly name: string; readonly count: number },
  start: number,
): void {
  const stream = new PhiloxStream(from.seed, from.name);
  for (let i = 0; i < target.length; i++) {
    target[i] = Math.floor(stream.word(start + i) * 2 ** -32 * from.count);
  }
}

async function fillRow(
  target: Float32Array | Int32Array,
  row: number,
  fill: Fill,
  turns: Turns,
): Promise<void> {
  for (let done = 0; done < target.length; done += VALUES_PER_TURN) {
    const piece = target.subarray(done, done + VALUES_PER_TURN);
    fill(piece, row, done);
    await turns.spend(piece.length);
  }
}

/** Lets the event loop turn whenever enough values were made. */
class Turns {
  #spent = 0;

  async spend(values: number): Promise<void> {
    this.#spent += values;
    if (this.#spent < VALUES_PER_TURN) return;
    this.#spent = 0;
    await nextTurn();
  }
}
