import { constants } from "node:fs";
import { type FileHandle, open } from "node:fs/promises";
import { DataLossError, InternalError, InvalidArgumentError } from "../errors.ts";
import type { Interval } from "../mesh/placement.ts";
import { nearestNames } from "../nearest.ts";
import { quote } from "../quote.ts";
import { type Run, sliceBytes, sliceRuns } from "./box.ts";
import { safetensorsDtypeBytes } from "./dtype.ts";
import { fileError } from "./file-error.ts";
import { headerLength, parseHeader, type SafetensorsHeader, type TensorInfo } from "./header.ts";

/** Longest piece that `readSlice` gives; a multiple of every element's size. */
export const PIECE_BYTES = 1 << 20;

/** Runs closer than this are read as one: a disk reads whole pages anyway. */
const MERGE_GAP_BYTES = 4096;

/** Reads in flight for one slice: one per thread of Node's file pool. */
const CONCURRENT_READS = 4;

/** Fills as much of `target` as there is from byte `position` on; returns the count. */
export type ReadInto = (target: Uint8Array, position: number) => Promise<number>;

/**
 * Reads and checks a header, and nothing else of the file.
 * @throws InvalidArgumentError with every fault found
 */
export async function readHeader(
  readInto: ReadInto,
  fileBytes: number,
  file: string,
): Promise<SafetensorsHeader> {
  const prefix = new Uint8Array(8);
  const got = await readInto(prefix, 0);
  const json = new Uint8Array(headerLength(prefix.subarray(0, got), fileBytes, file));
  await readExactly(readInto, json, 8, file);
  return parseHeader(json, fileBytes, file);
}

/** An open file whose header has been checked. Reads are positional: any number may run at once. */
export class SafetensorsFile {
  readonly path: string;
  readonly header: SafetensorsHeader;
  readonly #handle: FileHandle;

  private constructor(path: string, handle: FileHandle, header: SafetensorsHeader) {
    this.path = path;
    this.#handle = handle;
    this.header = header;
  }

  /** @throws InvalidArgumentError when the file is missing, unreadable or not sound */
  static async open(path: string): Promise<SafetensorsFile> {
    let handle: FileHandle;
    try {
      // Without O_NONBLOCK, a named pipe would hold the call until somebody writes to it.
      handle = await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
    } catch (error) {
      throw fileError(path, "read", error);
    }
    try {
      const stat = await handle.stat();
      if (!stat.isFile()) {
        const kind = stat.isDirectory() ? "a folder" : "no regular file";
        throw new InvalidArgumentError(`${path}: is ${kind}; name a safetensors file`);
      }
      const header = await readHeader(fileReader(handle, path), stat.size, path);
      return new SafetensorsFile(path, handle, header);
    } catch (error) {
      await handle.close();
      throw error;
    }
  }

  /** @throws InvalidArgumentError with the nearest names when the file has no such tensor */
  tensor(name: string): TensorInfo {
    const found = this.header.tensors.get(name);
    if (found !== undefined) return found;
    const names = [...this.header.tensors.keys()];
    const near = nearestNames(name, names);
    const hint = near.length > 0 ? near : names.slice(0, 5);
    throw new InvalidArgumentError(
      `${this.path}: has no tensor ${quote(name)}; it has ${hint.length > 0 ? hint.map(quote).join(", ") : "none"}`,
    );
  }

  /**
   * The bytes of a slice, row-major, in pieces of at most PIECE_BYTES; each is the caller's to keep.
   * Reads only what the slice covers, to within a page.
   */
  async *readSlice(
    tensor: TensorInfo,
    intervals: readonly Interval[],
  ): AsyncGenerator<Uint8Array, void, void> {
    const itemBytes = safetensorsDtypeBytes(tensor.dtype);
    let left = sliceBytes(intervals, itemBytes);
    const read = fileReader(this.#handle, this.path);
    for (const runs of pieces(sliceRuns(tensor.shape, intervals, itemBytes))) {
      const piece = new Uint8Array(Math.min(PIECE_BYTES, left));
      await readPiece(read, piece, runs, tensor.beginByte, this.path);
      left -= piece.byteLength;
      yield piece;
    }
    if (left !== 0) throw new InternalError(`slice of ${quote(tensor.name)}: ${left} bytes unread`);
  }

  /** The bytes of a slice in one block. */
  async readWhole(tensor: TensorInfo, intervals: readonly Interval[]): Promise<Uint8Array> {
    const whole = new Uint8Array(sliceBytes(intervals, safetensorsDtypeBytes(tensor.dtype)));
    let at = 0;
    for await (const piece of this.readSlice(tensor, intervals)) {
      whole.set(piece, at);
      at += piece.byteLength;
    }
    return whole;
  }

  async close(): Promise<void> {
    await this.#handle.close();
  }
}

/** Cuts runs at piece boundaries and groups them by piece; `sliceByte` counts from the piece's start. */
function* pieces(runs: Iterable<Run>): Generator<Run[], void, void> {
  let group: Run[] = [];
  let filled = 0;
  for (const run of runs) {
    for (let done = 0; done < run.length; ) {
      const length = Math.min(run.length - done, PIECE_BYTES - filled);
      group.push({ tensorByte: run.tensorByte + done, sliceByte: filled, length });
      done += length;
      filled += length;
      if (filled === PIECE_BYTES) {
        yield group;
        group = [];
        filled = 0;
      }
    }
  }
  if (group.length > 0) yield group;
}

/** Reads the runs of one piece into it, neighbours together. */
async function readPiece(
  read: ReadInto,
  piece: Uint8Array,
  runs: readonly Run[],
  tensorStart: number,
  file: string,
): Promise<void> {
  const spans = mergeRuns(runs);
  const readSpans = async (): Promise<void> => {
    for (let span = spans.pop(); span !== undefined; span = spans.pop()) {
      const { runs: members, tensorByte, length } = span;
      const only = members.length === 1 ? members[0] : undefined;
      if (only !== undefined) {
        const target = piece.subarray(only.sliceByte, only.sliceByte + only.length);
        await readExactly(read, target, tensorStart + tensorByte, file);
        continue;
      }
      const block = new Uint8Array(length);
      await readExactly(read, block, tensorStart + tensorByte, file);
      for (const run of members) {
        const from = run.tensorByte - tensorByte;
        piece.set(block.subarray(from, from + run.length), run.sliceByte);
      }
    }
  };
  await Promise.all(Array.from({ length: Math.min(CONCURRENT_READS, spans.length) }, readSpans));
}

interface Span {
  readonly tensorByte: number;
  length: number;
  readonly runs: Run[];
}

/** Joins runs (ascending) that lie within MERGE_GAP_BYTES, up to PIECE_BYTES a span. */
function mergeRuns(runs: readonly Run[]): Span[] {
  const spans: Span[] = [];
  let span: Span | undefined;
  for (const run of runs) {
    const end = run.tensorByte + run.length;
    if (
      span !== undefined &&
      run.tensorByte - (span.tensorByte + span.length) <= MERGE_GAP_BYTES &&
      end - span.tensorByte <= PIECE_BYTES
    ) {
      span.length = end - span.tensorByte;
      span.runs.push(run);
    } else {
      span = { tensorByte: run.tensorByte, length: run.length, runs: [run] };
      spans.push(span);
    }
  }
  return spans;
}

function fileReader(handle: FileHandle, path: string): ReadInto {
  return async (target, position) => {
    let done = 0;
    while (done < target.byteLength) {
      let bytesRead: number;
      try {
        ({ bytesRead } = await handle.read(
          target,
          done,
          target.byteLength - done,
          position + done,
        ));
      } catch (error) {
        throw fileError(path, "read", error);
      }
      if (bytesRead === 0) break;
      done += bytesRead;
    }
    return done;
  };
}

async function readExactly(
  read: ReadInto,
  target: Uint8Array,
  position: number,
  file: string,
): Promise<void> {
  const got = await read(target, position);
  if (got !== target.byteLength) {
    throw new DataLossError(
      `${file}: the file shrank while it was read: ${got} of ${target.byteLength} bytes at byte ${position}`,
    );
  }
}
