import { DataFile, SCANNED_BYTES } from "./data-file.ts";
import type { DataInput } from "./data-source.ts";
import { firstOutside, outsideText } from "./ids.ts";
import type { ResolvedPath } from "./paths.ts";
import { brokenUtf8, continuationBytes, MAX_CHARACTER_BYTES, openCharacterBytes } from "./utf8.ts";
import type { TokenSequence } from "./window-source.ts";

/** A text whose tokens are its bytes: only what is asked for is read. */
export class ByteText implements TokenSequence {
  readonly length: number;
  readonly #file: DataFile;
  readonly #input: Pick<DataInput, "ids" | "dims">;

  private constructor(file: DataFile, input: Pick<DataInput, "ids" | "dims">) {
    this.#file = file;
    this.length = file.bytes;
    this.#input = input;
  }

  /** @param input how many ids the model knows */
  static async open(path: ResolvedPath, input: Pick<DataInput, "ids" | "dims">): Promise<ByteText> {
    return new ByteText(await DataFile.open(path), input);
  }

  /**
   * Reads the text up to a limit to find what is wrong with it.
   * @throws InvalidArgumentError with the place of the first broken character or unknown byte
   */
  async scan(): Promise<void> {
    await requireUtf8(this.#file);
    for await (const { start, bytes } of this.#file.pieces(SCANNED_BYTES)) {
      this.#requireIds(bytes, start);
    }
  }

  async read(start: number, end: number): Promise<Int32Array> {
    // As much on either side as it takes to see the characters at the ends whole.
    const margin = MAX_CHARACTER_BYTES - 1;
    const from = Math.max(0, start - margin);
    const to = Math.min(this.length, end + margin);
    const around = await this.#file.read(from, to);
    const cutOff = from === 0 ? 0 : continuationBytes(around);
    const broken = brokenUtf8(around.subarray(cutOff), to < this.length);
    if (broken >= 0) throw brokenAt(this.#file, from + cutOff + broken);
    const bytes = around.subarray(start - from, end - from);
    this.#requireIds(bytes, start);
    return Int32Array.from(bytes);
  }

  async close(): Promise<void> {
    await this.#file.close();
  }

  #requireIds(bytes: Uint8Array, start: number): void {
    if ((this.#input.ids ?? 256) >= 256) return;
    const index = firstOutside(bytes, this.#input);
    if (index < 0) return;
    const where = `byte ${start + index}`;
    throw this.#file.fault(`${where}: ${outsideText(bytes[index] ?? 0, this.#input)}`);
  }
}

/**
 * Reads a file up to a limit and refuses what is no UTF-8.
 * @throws InvalidArgumentError with the place of the first broken character
 */
export async function requireUtf8(file: DataFile): Promise<void> {
  let rest: Uint8Array = new Uint8Array(0);
  for await (const { start, bytes } of file.pieces(SCANNED_BYTES)) {
    const text = rest.length === 0 ? bytes : Buffer.concat([rest, bytes]);
    const goesOn = start + bytes.length < file.bytes;
    const broken = brokenUtf8(text, goesOn);
    if (broken >= 0) throw brokenAt(file, start - rest.length + broken);
    rest = goesOn ? text.slice(text.length - openCharacterBytes(text)) : new Uint8Array(0);
  }
}

function brokenAt(file: DataFile, byte: number): Error {
  return file.fault(
    `byte ${byte}: no UTF-8; convert the text, or tokenize it yourself for data.tokens`,
  );
}
