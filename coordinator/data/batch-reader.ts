import { crc32 } from "node:zlib";
import { CancelledError, InternalError } from "../../shared/errors.ts";
import { worldSize } from "../../shared/mesh/mesh.ts";
import { type Interval, shardIntervals } from "../../shared/mesh/placement.ts";
import type { Program } from "../../shared/program/program.ts";
import type { DataSource, RowSource } from "./data-source.ts";
import { type RowOrder, rowsOfBatch } from "./row-order.ts";
import { sliceBlock } from "./slice.ts";

/** What one rank gets of one batch. Shared between the ranks that get the same: do not write to it. */
export interface BatchPart {
  /** One an input of the program, in its order: little-endian, row-major dense, in the rank's local shape. */
  readonly inputs: readonly Uint8Array[];
  /** CRC-32 over the bytes of all inputs in order: equal for ranks with equal parts. */
  readonly hash: number;
}

export interface BatchReaderOptions {
  readonly batchSize: number;
  /** Seed of the shuffle; undefined: none. */
  readonly shuffleSeed: number | undefined;
}

/** Ranks that hold the same block of every input. */
interface PartClass {
  readonly index: number;
  /** Per input, per dim. */
  readonly intervals: readonly (readonly Interval[])[];
  numRanks: number;
}

interface CachedPart {
  readonly part: Promise<BatchPart>;
  /** Ranks that have not asked yet; the part is dropped with the last one. */
  waiting: number;
}

/**
 * Cuts batches 0, 1, 2, ... into the parts of the ranks. A part is read once for all ranks that get the same, when the
 * first of them asks, and forgotten when the last of them has it: each rank makes each reading once, in order.
 */
export class BatchReader {
  readonly #source: DataSource;
  readonly #batchSize: number;
  readonly #order: RowOrder | undefined;
  readonly #shapes: readonly (readonly number[])[];
  readonly #classOfRank: readonly PartClass[];
  readonly #numClasses: number;
  readonly #parts = new Map<string, CachedPart>();
  /** Whole batches of a source that gives each only once, until all classes have cut their part. */
  readonly #batches = new Map<
    number,
    { readonly batch: Promise<readonly Uint8Array[]>; waiting: number }
  >();
  readonly #abort = new AbortController();

  constructor(
    source: DataSource,
    program: Pick<Program, "inputs" | "mesh">,
    options: BatchReaderOptions,
  ) {
    this.#source = source;
    this.#batchSize = options.batchSize;
    this.#order =
      source.kind === "rows"
        ? {
            rows: source.rows,
            batchSize: options.batchSize,
            shuffleSeed: options.shuffleSeed,
          }
        : undefined;
    this.#shapes = program.inputs.map((input) => input.globalShape);
    const classes = new Map<string, PartClass>();
    this.#classOfRank = Array.from({ length: worldSize(program.mesh) }, (_, rank) => {
      const intervals = program.inputs.map((input) =>
        shardIntervals(input.globalShape, input.layout, program.mesh, rank),
      );
      const key = JSON.stringify(intervals);
      const found = classes.get(key) ?? { index: classes.size, intervals, numRanks: 0 };
      found.numRanks += 1;
      classes.set(key, found);
      return found;
    });
    this.#numClasses = classes.size;
  }

  /**
   * The part of `rank` in 0-based `batch`. Batches of rows follow from their number alone, so that they
   * may be read again: `reading` tells one time from another.
   * @throws CancelledError after close(); whatever the source throws
   */
  read(batch: number, rank: number, reading = batch): Promise<BatchPart> {
    const partClass = this.#classOfRank[rank];
    if (partClass === undefined) throw new InternalError(`no rank ${rank} to read a batch for`);
    if (this.#abort.signal.aborted) return Promise.reject(closedError());
    const key = `${reading} ${partClass.index}`;
    let cached = this.#parts.get(key);
    if (cached === undefined) {
      const part = this.#makePart(batch, partClass);
      part.catch(() => {}); // every reader gets the rejection; none may have asked yet when it comes
      cached = { part, waiting: partClass.numRanks };
      this.#parts.set(key, cached);
    }
    cached.waiting -= 1;
    if (cached.waiting === 0) this.#parts.delete(key);
    return cached.part;
  }

  /** Ends every wait with CancelledError and closes the source. */
  async close(): Promise<void> {
    this.#abort.abort(closedError());
    this.#parts.clear();
    this.#batches.clear();
    await this.#source.close();
  }

  async #makePart(batch: number, partClass: PartClass): Promise<BatchPart> {
    const inputs: Uint8Array[] = [];
    for (const [index, intervals] of partClass.intervals.entries()) {
      inputs.push(
        this.#source.kind === "rows"
          ? await this.#readBlock(this.#source, index, batch, intervals)
          : sliceBlock(
              (await this.#wholeBatch(batch))[index] ?? new Uint8Array(0),
              this.#shapes[index] ?? [],
              intervals,
            ),
      );
    }
    if (this.#source.kind === "batches") this.#releaseBatch(batch);
    let hash = 0;
    for (const bytes of inputs) hash = crc32(bytes, hash);
    return { inputs, hash };
  }

  async #readBlock(
    source: RowSource,
    input: number,
    batch: number,
    intervals: readonly Interval[],
  ): Promise<Uint8Array> {
    if (this.#order === undefined) throw new InternalError("rows without an order");
    const batchRows = intervals[0] ?? { start: 0, end: this.#batchSize };
    const rows = rowsOfBatch(this.#order, batch, batchRows.start, batchRows.end);
    const bytes = await source.readRows(input, rows);
    const shape = [rows.length, ...(this.#shapes[input] ?? []).slice(1)];
    return sliceBlock(bytes, shape, [{ start: 0, end: rows.length }, ...intervals.slice(1)]);
  }

  #wholeBatch(batch: number): Promise<readonly Uint8Array[]> {
    if (this.#source.kind !== "batches") throw new InternalError("the source has no batches");
    let held = this.#batches.get(batch);
    if (held === undefined) {
      const taken = this.#source.takeBatch(batch, this.#abort.signal);
      taken.catch(() => {}); // as for parts
      held = { batch: taken, waiting: this.#numClasses };
      this.#batches.set(batch, held);
    }
    return held.batch;
  }

  #releaseBatch(batch: number): void {
    const held = this.#batches.get(batch);
    if (held === undefined) return;
    held.waiting -= 1;
    if (held.waiting === 0) this.#batches.delete(batch);
  }
}

function closedError(): CancelledError {
  return new CancelledError("data: the job no longer reads its batches");
}
