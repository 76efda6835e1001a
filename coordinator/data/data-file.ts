import { constants } from "node:fs";
import { type FileHandle, open } from "node:fs/promises";
import { DataLossError, InvalidArgumentError } from "../../shared/errors.ts";
import { fileError } from "../../shared/safetensors/file-error.ts";
import type { ResolvedPath } from "./paths.ts";

/** Data up to this size is read whole when a job is submitted; what lies behind is checked as it is read. */
export const SCANNED_BYTES = 256 << 20;

const PIECE_BYTES = 1 << 20;

/** An open file of plain bytes that must stay as it was when it was opened. Reads are positional: any number may run at once. */
export class DataFile {
  readonly path: ResolvedPath;
  readonly bytes: number;
  readonly #modifiedMs: number;
  readonly #handle: FileHandle;

  private constructor(path: ResolvedPath, handle: FileHandle, bytes: number, modifiedMs: number) {
    this.path = path;
    this.bytes = bytes;
    this.#handle = handle;
    this.#modifiedMs = modifiedMs;
  }

  /** @throws InvalidArgumentError at the path's field when it is missing, unreadable or no regular file */
  static async open(path: ResolvedPath): Promise<DataFile> {
    let handle: FileHandle;
    try {
      // Without O_NONBLOCK, a named pipe would hold the call until somebody writes to it.
      handle = await open(path.real, constants.O_RDONLY | constants.O_NONBLOCK);
    } catch (error) {
      const { message } = fileError(path.given, "read", error);
      throw new InvalidArgumentError([{ path: path.field, message }], { cause: error });
    }
    const { size, mtimeMs } = await handle.stat();
    return new DataFile(path, handle, size, mtimeMs);
  }

  /**
   * Bytes [start, end).
   * @throws DataLossError when the file has changed since it was opened
   */
  async read(start: number, end: number): Promise<Uint8Array> {
    const bytes = new Uint8Array(end - start);
    for (let done = 0; done < bytes.length; ) {
      const { bytesRead } = await this.#handle.read(bytes, done, bytes.length - done, start + done);
      if (bytesRead === 0) break;
      done += bytesRead;
    }
    // Looked at after the bytes: a change in between shows.
    const { size, mtimeMs } = await this.#handle.stat();
    if (size !== this.bytes || mtimeMs !== this.#modifiedMs) {
      const sizes = size === this.bytes ? "" : ` (${this.bytes} bytes then, ${size} now)`;
      throw new DataLossError(
        `${this.path.field}: ${this.path.given} has changed since the job opened it${sizes}; leave data as it is while a job reads it`,
      );
    }
    return bytes;
  }

  /** The first `limit` bytes in pieces of 1 MiB, with where each begins. */
  async *pieces(
    limit = this.bytes,
  ): AsyncGenerator<{ readonly start: number; readonly bytes: Uint8Array }, void, void> {
    const end = Math.min(limit, this.bytes);
    for (let start = 0; start < end; start += PIECE_BYTES) {
      yield { start, bytes: await this.read(start, Math.min(end, start + PIECE_BYTES)) };
    }
  }

  /** What is wrong with what the file holds. */
  fault(message: string): InvalidArgumentError {
    const { field, given } = this.path;
    return new InvalidArgumentError([{ path: field, message: `${given}: ${message}` }]);
  }

  async close(): Promise<void> {
    await this.#handle.close();
  }
}
