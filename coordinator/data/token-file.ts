import { DataFile, SCANNED_BYTES } from "./data-file.ts";
import type { DataInput } from "./data-source.ts";
import { firstOutside, outsideText } from "./ids.ts";
import type { ResolvedPath } from "./paths.ts";
import type { TokenSequence } from "./window-source.ts";

const ARRAYS = { uint16: Uint16Array, uint32: Uint32Array };

export type TokenDtype = keyof typeof ARRAYS;

/** A file of little-endian token ids and nothing else: only what is asked for is read. */
export class TokenFile implements TokenSequence {
  readonly length: number;
  readonly #file: DataFile;
  readonly #dtype: TokenDtype;
  readonly #input: Pick<DataInput, "ids" | "dims">;

  private constructor(file: DataFile, dtype: TokenDtype, input: Pick<DataInput, "ids" | "dims">) {
    this.#file = file;
    this.#dtype = dtype;
    this.#input = input;
    this.length = file.bytes / ARRAYS[dtype].BYTES_PER_ELEMENT;
  }

  /**
   * @param input how many ids the model knows
   * @throws InvalidArgumentError for a file that ends inside a token
   */
  static async open(
    path: ResolvedPath,
    dtype: TokenDtype,
    input: Pick<DataInput, "ids" | "dims">,
  ): Promise<TokenFile> {
    const file = await DataFile.open(path);
    const width = ARRAYS[dtype].BYTES_PER_ELEMENT;
    if (file.bytes % width === 0) return new TokenFile(file, dtype, input);
    await file.close();
    throw file.fault(`has ${file.bytes} bytes, which are no whole number of ${dtype} tokens`);
  }

  /**
   * Reads the file up to a limit to find an id that the model does not know.
   * @throws InvalidArgumentError with its place
   */
  async scan(): Promise<void> {
    for await (const { start, bytes } of this.#file.pieces(SCANNED_BYTES)) {
      this.#tokens(bytes, start);
    }
  }

  async read(start: number, end: number): Promise<Int32Array> {
    const width = ARRAYS[this.#dtype].BYTES_PER_ELEMENT;
    const bytes = await this.#file.read(start * width, end * width);
    return Int32Array.from(this.#tokens(bytes, start * width));
  }

  async close(): Promise<void> {
    await this.#file.close();
  }

  #tokens(bytes: Uint8Array, startByte: number): Uint16Array | Uint32Array {
    const width = ARRAYS[this.#dtype].BYTES_PER_ELEMENT;
    const { buffer, byteOffset, length } = bytes;
    const tokens =
      this.#dtype === "uint16"
        ? new Uint16Array(buffer, byteOffset, length / width)
        : new Uint32Array(buffer, byteOffset, length / width);
    const index = firstOutside(tokens, this.#input);
    if (index < 0) return tokens;
    const token = startByte / width + index;
    const where = `token ${token} (byte ${token * width})`;
    throw this.#file.fault(`${where}: ${outsideText(tokens[index] ?? 0, this.#input)}`);
  }
}
