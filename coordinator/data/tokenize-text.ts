import { InvalidArgumentError, ResourceExhaustedError } from "../../shared/errors.ts";
import { quote } from "../../shared/quote.ts";
import type { Tokenizer } from "./tokenizer.ts";
import { openCharacterBytes } from "./utf8.ts";

/** A text is tokenized in pieces of about this size, so that it never is in memory as strings. */
const PIECE_BYTES = 1 << 20;
/** A text that can't be cut is tokenized whole up to this size. */
const MAX_PIECE_BYTES = 32 << 20;
/** Line ends tried as cuts before a piece is made longer. */
const MAX_TRIED_CUTS = 8;
/** Text on either side of a cut that is tokenized to see whether the cut changes it. */
const CONTEXT_BYTES = 512;

const NEWLINE = 0x0a;

/**
 * Tokens of a whole text, piece by piece. A text is cut only at line ends where its tokens are the same with the cut and
 * without it, so that the pieces' tokens are those of the whole.
 * @param bytes UTF-8
 * @throws InvalidArgumentError for a character without a token, with its byte; ResourceExhaustedError for a long text
 *   that has no line end to cut at
 */
export function* tokenizeText(
  bytes: Uint8Array,
  tokenizer: Tokenizer,
  pieceBytes = PIECE_BYTES,
): Generator<number[], void, void> {
  for (let start = 0; start < bytes.length; ) {
    const end = cutAfter(bytes, start, pieceBytes, tokenizer);
    try {
      yield tokenizer.encode(decode(bytes, start, end));
    } catch (error) {
      if (!(error instanceof InvalidArgumentError)) throw error;
      throw unknownCharacter(bytes, start, end, tokenizer) ?? error;
    }
    start = end;
  }
}

/** Where the piece that begins at `start` ends. */
function cutAfter(
  bytes: Uint8Array,
  start: number,
  pieceBytes: number,
  tokenizer: Tokenizer,
): number {
  for (let wanted = start + pieceBytes; wanted < bytes.length; wanted += pieceBytes) {
    if (wanted - start > MAX_PIECE_BYTES) {
      throw new ResourceExhaustedError(
        `bytes ${start} to ${wanted} have no line end at which the tokenizer lets the text be cut; tokenize it yourself and use data.tokens`,
      );
    }
    let at = wanted;
    for (let tried = 0; tried < MAX_TRIED_CUTS; tried++) {
      at = bytes.lastIndexOf(NEWLINE, at - 1);
      if (at <= start) break;
      if (isCut(bytes, at + 1, tokenizer)) return at + 1;
    }
  }
  return bytes.length;
}

/** Whether the tokens around `cut` are the same when the text is cut there. */
function isCut(bytes: Uint8Array, cut: number, tokenizer: Tokenizer): boolean {
  // Runs of white space make tokens of their own: between two of its characters is no place to cut.
  if (isSpace(bytes[cut - 2]) || isSpace(bytes[cut])) return false;
  const before = decode(bytes, Math.max(0, cut - CONTEXT_BYTES), cut);
  const after = decode(bytes, cut, Math.min(bytes.length, cut + CONTEXT_BYTES));
  try {
    const whole = tokenizer.encode(before + after);
    const parts = [...tokenizer.encode(before), ...tokenizer.encode(after)];
    return whole.length === parts.length && whole.every((id, index) => id === parts[index]);
  } catch {
    return true; // the piece is encoded next, and says what is wrong
  }
}

function isSpace(byte: number | undefined): boolean {
  return byte === 0x20 || (byte !== undefined && byte >= 0x09 && byte <= 0x0d);
}

/** Characters that lie whole in [start, end). */
function decode(bytes: Uint8Array, start: number, end: number): string {
  let from = start;
  while (from < end && ((bytes[from] ?? 0) & 0xc0) === 0x80) from += 1;
  const part = bytes.subarray(from, end);
  const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  return decoder.decode(part.subarray(0, part.length - openCharacterBytes(part)));
}

/** The first character of [start, end) that the tokenizer has no token for. */
function unknownCharacter(
  bytes: Uint8Array,
  start: number,
  end: number,
  tokenizer: Tokenizer,
): InvalidArgumentError | undefined {
  const known = new Set<string>();
  let at = start;
  for (const character of decode(bytes, start, end)) {
    if (!known.has(character)) {
      try {
        tokenizer.encode(character);
        known.add(character);
      } catch {
        return new InvalidArgumentError(
          `byte ${at}: the tokenizer has no token for ${quote(character)}`,
        );
      }
    }
    at += Buffer.byteLength(character);
  }
  return undefined;
}
