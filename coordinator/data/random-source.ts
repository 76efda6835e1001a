import { setImmediate as nextTurn } from "node:timers/promises";
import { type Fault, InvalidArgumentError } from "../../shared/errors.ts";
import { quote } from "../../shared/quote.ts";
import { fillStandardNormals } from "../../shared/random/normal.ts";
import { type DataInput, type RowSource, rowBytes } from "./data-source.ts";

/** Values made between two turns of the event loop: a few milliseconds, so that no heartbeat waits. */
const VALUES_PER_TURN = 1 << 15;

/** Data of up to this size is made once and kept, so that later passes cost nothing. */
const MAX_KEPT_BYTES = 32 << 20;

/**
 * Standard normal rows: element g (row-major over [length, ...dims]) of an input is value g of the stream keyed by
 * seed and the input's name, so any rows can be made alone and are the same on every mesh.
 * @throws InvalidArgumentError for inputs that are not float32
 */
export function randomSource(
  spec: { readonly length: number; readonly seed: number },
  inputs: readonly DataInput[],
): RowSource {
  const faults: Fault[] = [];
  for (const input of inputs) {
    if (input.dtype !== "float32") {
      const message = `makes float32 values, and the job's input ${quote(input.name)} is ${input.dtype}; use safetensors or stream`;
      faults.push({ path: "data.random", message });
    }
    const maxRows = Math.floor(Number.MAX_SAFE_INTEGER / (rowBytes(input) / 4));
    if (spec.length > maxRows) {
      const message = `is ${spec.length}; for input ${quote(input.name)} at most ${maxRows} rows can be numbered`;
      faults.push({ path: "data.random.length", message });
    }
  }
  if (faults.length > 0) throw new InvalidArgumentError(faults);

  const bytesOfAll = inputs.reduce((sum, input) => sum + spec.length * rowBytes(input), 0);
  const kept = inputs.map(() => new Map<number, Float32Array>());
  return {
    kind: "rows",
    inputs,
    rows: spec.length,
    async readRows(index, rows) {
      const input = inputs[index];
      if (input === undefined) return new Uint8Array(0);
      const rowLength = rowBytes(input) / 4;
      const result = new Float32Array(rows.length * rowLength);
      const turns = new Turns();
      for (const [position, row] of rows.entries()) {
        const target = result.subarray(position * rowLength, (position + 1) * rowLength);
        const known = kept[index]?.get(row);
        if (known !== undefined) {
          target.set(known);
          continue;
        }
        await fillRow(target, { seed: spec.seed, name: input.name, start: row * rowLength }, turns);
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

async function fillRow(
  target: Float32Array,
  from: { readonly seed: number; readonly name: string; readonly start: number },
  turns: Turns,
): Promise<void> {
  for (let done = 0; done < target.length; done += VALUES_PER_TURN) {
    const piece = target.subarray(done, done + VALUES_PER_TURN);
    fillStandardNormals(piece, { ...from, start: from.start + done });
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
