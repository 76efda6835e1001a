import { gunzipSync, gzipSync } from "node:zlib";
import type { Program } from "./program.ts";

/** Programs from this size on are compressed: slots and instructions of equal blocks shrink to a tenth. */
const COMPRESS_BYTES = 64 * 1024;
/** What a program may take once unpacked, so that a small message can't fill a worker's memory. */
const MAX_JSON_BYTES = 128 << 20;

/** A program as it goes over the wire: JSON in UTF-8, by gzip where it is long. */
export function encodeProgram(program: Program): Buffer {
  const json = Buffer.from(JSON.stringify(program));
  return json.length < COMPRESS_BYTES ? json : gzipSync(json);
}

/**
 * The JSON text of an encoded program.
 * @throws Error when it is no gzip after all, too long, or no UTF-8
 */
export function decodeProgramText(bytes: Uint8Array): string {
  const isGzip = bytes[0] === 0x1f && bytes[1] === 0x8b;
  const json = isGzip ? gunzipSync(bytes, { maxOutputLength: MAX_JSON_BYTES }) : bytes;
  return new TextDecoder("utf-8", { fatal: true }).decode(json);
}
