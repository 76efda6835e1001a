import { type Fault, InternalError, InvalidArgumentError } from "../../shared/errors.ts";
import { quote } from "../../shared/quote.ts";
import { type DataInput, type RowSource, wantedShape } from "./data-source.ts";
import { runsOf } from "./row-runs.ts";

/** A long sequence of token ids that can be read at any place. */
export interface TokenSequence {
  /** Tokens in all. */
  readonly length: number;
  /** Tokens [start, end). */
  read(start: number, end: number): Promise<Int32Array>;
  /** Looks for what `read` would refuse, up to a limit; absent where everything was checked. */
  scan?(): Promise<void>;
  close(): Promise<void>;
}

/** Inputs by what they hold of a window. */
const OFFSETS: Readonly<Record<string, number>> = { tokens: 0, targets: 1 };

/** Reads in flight for one input of one batch: shuffled windows are read one by one. */
const CONCURRENT_READS = 4;

/**
 * Rows of a sequence: window i holds its tokens [i * seqLen, (i + 1) * seqLen], both ends included. The first seqLen are
 * the row of the input `tokens`, the last seqLen that of `targets`; a rest that fills no window is left out.
 * @param inputs checked by `requireTokenInputs`
 * @throws InvalidArgumentError at `field` when not even one window is full
 */
export function windowSource(
  sequence: TokenSequence,
  seqLen: number,
  inputs: readonly DataInput[],
  at: { readonly field: string; readonly given: string },
): RowSource {
  const rows = Math.floor((sequence.length - 1) / seqLen);
  if (rows < 1) {
    const message = `${at.given}: has ${sequence.length} tokens; a window of seqLen ${seqLen} takes ${seqLen + 1}`;
    throw new InvalidArgumentError([{ path: at.field, message }]);
  }
  return {
    kind: "rows",
    inputs,
    rows,
    async readRows(index, wanted) {
      const offset = OFFSETS[inputs[index]?.name ?? ""];
      if (offset === undefined) throw new InternalError(`no window holds input ${index}`);
      const result = new Int32Array(wanted.length * seqLen);
      const runs = runsOf(wanted).reverse();
      const readSome = async (): Promise<void> => {
        for (let run = runs.pop(); run !== undefined; run = runs.pop()) {
          const tokens = await sequence.read(
            run.start * seqLen + offset,
            run.end * seqLen + offset,
          );
          result.set(tokens, run.at * seqLen);
        }
      };
      await Promise.all(
        Array.from({ length: Math.min(CONCURRENT_READS, runs.length) }, () => readSome()),
      );
      return new Uint8Array(result.buffer);
    },
    scan: () => sequence.scan?.() ?? Promise.resolve(),
    close: () => sequence.close(),
  };
}

/**
 * Refuses inputs that windows of tokens can't fill.
 * @param field of the source: `data.text`
 * @throws InvalidArgumentError with every input at fault
 */
export function requireTokenInputs(
  inputs: readonly DataInput[],
  seqLen: number,
  field: string,
): void {
  const faults: Fault[] = [];
  for (const input of inputs) {
    const [length] = input.dims;
    if (OFFSETS[input.name] === undefined || input.dtype !== "int32" || input.dims.length !== 1) {
      const message = `gives "tokens" and "targets" [rows, ${seqLen}] int32; the job's input ${quote(input.name)} is ${wantedShape(input)}`;
      faults.push({ path: field, message });
    } else if (length !== seqLen) {
      const message = `is ${seqLen}; the job's input ${quote(input.name)} is ${wantedShape(input)}`;
      faults.push({ path: `${field}.seqLen`, message });
    }
  }
  if (faults.length > 0) throw new InvalidArgumentError(faults);
}

/** How many ids the inputs of a window know: the fewest of them. */
export function windowIds(inputs: readonly DataInput[]): Pick<DataInput, "ids" | "dims"> {
  const limits = inputs.flatMap(({ ids }) => ids ?? []);
  return { ids: limits.length === 0 ? undefined : Math.min(...limits), dims: [0] };
}
