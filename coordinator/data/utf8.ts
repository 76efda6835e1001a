import { isUtf8 } from "node:buffer";

/** Most bytes of a character. */
export const MAX_CHARACTER_BYTES = 4;

/**
 * Where UTF-8 breaks: index of the first byte of what is no character, -1 for none.
 * @param goesOn whether more bytes follow: a character that is cut off at the end is then no fault
 */
export function brokenUtf8(bytes: Uint8Array, goesOn: boolean): number {
  const end = goesOn ? bytes.length - openCharacterBytes(bytes) : bytes.length;
  const whole = bytes.subarray(0, end);
  // The runtime's own check is some hundred times faster than the search.
  return isUtf8(whole) ? -1 : firstBroken(whole);
}

/** Continuation bytes at the front: the rest of a character that began before, if there are at most three. */
export function continuationBytes(bytes: Uint8Array): number {
  let count = 0;
  while (count < MAX_CHARACTER_BYTES - 1 && isContinuation(bytes[count])) count += 1;
  return count;
}

/** Bytes at the end that may begin a character whose rest is still to come. */
export function openCharacterBytes(bytes: Uint8Array): number {
  for (let back = 1; back < MAX_CHARACTER_BYTES && back <= bytes.length; back++) {
    const byte = bytes[bytes.length - back];
    if (isContinuation(byte)) continue;
    return characterBytes(byte ?? 0) > back ? back : 0;
  }
  return 0;
}

function firstBroken(bytes: Uint8Array): number {
  for (let at = 0; at < bytes.length; ) {
    const length = characterBytes(bytes[at] ?? 0);
    if (length === 0 || at + length > bytes.length) return at;
    if (length > 1 && !isUtf8(bytes.subarray(at, at + length))) return at;
    at += length;
  }
  return -1;
}

function isContinuation(byte: number | undefined): boolean {
  return byte !== undefined && byte >= 0x80 && byte < 0xc0;
}

/** Bytes of the character that `first` begins; 0 when it begins none. */
function characterBytes(first: number): number {
  if (first < 0x80) return 1;
  if (first < 0xc2 || first > 0xf4) return 0;
  if (first < 0xe0) return 2;
  return first < 0xf0 ? 3 : 4;
}
