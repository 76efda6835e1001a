import { randomBytes } from "node:crypto";
import { type FileHandle, open, rename, stat, unlink } from "node:fs/promises";
import { dirname, resolve } from "node:path";
import { InternalError, InvalidArgumentError } from "../errors.ts";
import type { Interval } from "../mesh/placement.ts";
import { quote } from "../quote.ts";
import { sliceBytes, sliceRuns } from "./box.ts";
import { safetensorsDtypeBytes } from "./dtype.ts";
import { fileError } from "./file-error.ts";
import type { TensorInfo } from "./header.ts";
import { type FileLayout, layOut, type TensorSpec } from "./write-header.ts";

/** Writes in flight for one slice: one per thread of Node's file pool. */
const CONCURRENT_WRITES = 4;

/**
 * Writes a safetensors file from slices that come in any order. Until `commit` the bytes lie in a file of
 * another name beside it: the target is whole or untouched, also after a crash.
 */
export class SafetensorsWriter {
  readonly #path: string;
  readonly #scratch: string;
  readonly #handle: FileHandle;
  readonly #layout: FileLayout;
  /** Slices written so far, by tensor: they must tile it. */
  readonly #written = new Map<string, (readonly Interval[])[]>();
  #closed = false;

  private constructor(path: string, scratch: string, handle: FileHandle, layout: FileLayout) {
    this.#path = path;
    this.#scratch = scratch;
    this.#handle = handle;
    this.#layout = layout;
  }

  /**
   * @param path file to write; it is replaced if it exists
   * @throws InvalidArgumentError when its folder is missing or may not be written to
   */
  static async create(
    path: string,
    specs: readonly TensorSpec[],
    metadata: Readonly<Record<string, string>> = {},
  ): Promise<SafetensorsWriter> {
    const layout = layOut(specs, metadata);
    const scratch = `${path}.${process.pid}-${randomBytes(4).toString("hex")}.tmp`;
    await refuseFolder(path);
    let handle: FileHandle;
    try {
      handle = await open(scratch, "wx");
    } catch (error) {
      throw fileError(path, "write", error);
    }
    const writer = new SafetensorsWriter(path, scratch, handle, layout);
    try {
      await writer.#writeAll(layout.head, 0);
      await handle.truncate(layout.fileBytes);
    } catch (error) {
      await writer.abort();
      throw fileError(path, "write", error);
    }
    return writer;
  }

  /**
   * Writes one slice of one tensor. Slices of several tensors may be written at the same time.
   * @param pieces the slice's bytes, row-major, cut anywhere
   */
  async writeSlice(
    name: string,
    intervals: readonly Interval[],
    pieces: AsyncIterable<Uint8Array> | Iterable<Uint8Array>,
  ): Promise<void> {
    const tensor = this.#layout.tensors.get(name);
    if (tensor === undefined)
      throw new InternalError(`safetensors: no tensor ${name} was announced`);
    const itemBytes = safetensorsDtypeBytes(tensor.dtype);
    const wantBytes = sliceBytes(intervals, itemBytes);
    const runs = sliceRuns(tensor.shape, intervals, itemBytes);
    let run = runs.next();
    let runDone = 0;
    let got = 0;
    for await (const piece of pieces) {
      got += piece.byteLength;
      if (got > wantBytes) break;
      const writes: PendingWrite[] = [];
      for (let at = 0; at < piece.byteLength; ) {
        if (run.done === true)
          throw new InternalError(`safetensors: slice of ${name} has no place left`);
        const length = Math.min(run.value.length - runDone, piece.byteLength - at);
        const position = tensor.beginByte + run.value.tensorByte + runDone;
        writes.push({ data: piece.subarray(at, at + length), position });
        at += length;
        runDone += length;
        if (runDone === run.value.length) {
          run = runs.next();
          runDone = 0;
        }
      }
      await this.#writeMany(writes);
    }
    if (got !== wantBytes) {
      throw new InternalError(`safetensors: slice of ${name} takes ${wantBytes} bytes, got ${got}`);
    }
    const slices = this.#written.get(name) ?? [];
    slices.push(intervals.map(({ start, end }) => ({ start, end })));
    this.#written.set(name, slices);
  }

  /**
   * Makes the file appear under its name, safe on disk.
   * @throws InternalError when the slices do not cover every tensor exactly once
   */
  async commit(): Promise<void> {
    try {
      for (const tensor of this.#layout.tensors.values()) {
        checkTiling(tensor, this.#written.get(tensor.name) ?? []);
      }
      await this.#handle.sync();
      await this.#handle.close();
      this.#closed = true;
      await rename(this.#scratch, this.#path);
      await syncFolder(dirname(resolve(this.#path)));
    } catch (error) {
      await this.abort();
      throw error instanceof InternalError ? error : fileError(this.#path, "write", error);
    }
  }

  /** Gives up: removes what was written. Safe to call at any time; does nothing after `commit`. */
  async abort(): Promise<void> {
    if (!this.#closed) {
      this.#closed = true;
      await this.#handle.close().catch(() => undefined);
    }
    // After commit there is no file of this name; a failure to remove it must not hide the first error.
    await unlink(this.#scratch).catch(() => undefined);
  }

  async #writeMany(writes: PendingWrite[]): Promise<void> {
    const drain = async (): Promise<void> => {
      for (let write = writes.pop(); write !== undefined; write = writes.pop()) {
        await this.#writeAll(write.data, write.position);
      }
    };
    try {
      await Promise.all(Array.from({ length: CONCURRENT_WRITES }, drain));
    } catch (error) {
      throw fileError(this.#path, "write", error);
    }
  }

  async #writeAll(data: Uint8Array, position: number): Promise<void> {
    for (let done = 0; done < data.byteLength; ) {
      const { bytesWritten } = await this.#handle.write(
        data,
        done,
        data.byteLength - done,
        position + done,
      );
      done += bytesWritten;
    }
  }
}

interface PendingWrite {
  readonly data: Uint8Array;
  readonly position: number;
}

async function refuseFolder(path: string): Promise<void> {
  const found = await stat(path).catch(() => undefined);
  if (found?.isDirectory() === true) {
    throw new InvalidArgumentError(`${path}: is a folder; name a file to write`);
  }
}

/** A rename is on disk only when its folder is. */
async function syncFolder(folder: string): Promise<void> {
  const handle = await open(folder, "r");
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/** Slices that do not overlap and have the tensor's volume cover it. */
function checkTiling(tensor: TensorInfo, slices: readonly (readonly Interval[])[]): void {
  const itemBytes = safetensorsDtypeBytes(tensor.dtype);
  const written = slices.reduce((bytes, slice) => bytes + sliceBytes(slice, itemBytes), 0);
  const wanted = tensor.endByte - tensor.beginByte;
  if (written !== wanted) {
    throw new InternalError(
      `safetensors: tensor ${quote(tensor.name)} takes ${wanted} bytes, ${written} were written`,
    );
  }
  slices.forEach((slice, i) => {
    for (const other of slices.slice(i + 1)) {
      const overlap = slice.every(({ start, end }, dim) => {
        const interval = other[dim];
        return interval !== undefined && start < interval.end && interval.start < end;
      });
      if (overlap) throw new InternalError(`safetensors: slices of ${quote(tensor.name)} overlap`);
    }
  });
}
