/**
 * `rankmesh.v1.PullFramesResponse` by hand. The header has a fixed length: varints are padded, as protobuf allows, so that
 * with gRPC's 5-byte prefix the payload begins at a multiple of 8 and can be added without being copied first.
 */
import { DataLossError } from "../../shared/errors.ts";
import type { Frame } from "./collective.ts";

/** A frame and the generation it belongs to. */
export interface TaggedFrame extends Frame {
  readonly generation: number;
}

const LONG_VARINT_BYTES = 10;
const SHORT_VARINT_BYTES = 5;

/** Bytes before the payload. */
export const FRAME_HEADER_BYTES = 2 * (1 + LONG_VARINT_BYTES) + 4 * (1 + SHORT_VARINT_BYTES) + 5;

/**
 * A frame as gRPC's server takes it: it asks a serialized message for its `byteLength` and copies it behind the
 * message prefix. Answering both here copies the payload once, from the tensor into the message.
 */
export class OutgoingFrame {
  readonly #frame: TaggedFrame;
  readonly byteLength: number;
  /** The message it was copied into. */
  message: Uint8Array | undefined;

  constructor(frame: TaggedFrame) {
    this.#frame = frame;
    this.byteLength = FRAME_HEADER_BYTES + frame.payload.length;
  }

  /** Writes the message into `target` at `at`, as Buffer.copy would. @returns bytes written */
  copy(target: Uint8Array, at = 0): number {
    const { generation, step, microbatch, collective, segment, batchHash, payload } = this.#frame;
    let position = at;
    const varint = (tag: number, value: number, width: number): void => {
      target[position++] = tag;
      let rest = value;
      for (let i = 1; i < width; i++) {
        target[position++] = (rest % 128) | 0x80;
        rest = Math.floor(rest / 128);
      }
      target[position++] = rest;
    };
    varint(0x08, generation, LONG_VARINT_BYTES);
    varint(0x10, step, LONG_VARINT_BYTES);
    varint(0x18, microbatch, SHORT_VARINT_BYTES);
    varint(0x20, collective, SHORT_VARINT_BYTES);
    varint(0x28, segment, SHORT_VARINT_BYTES);
    target[position++] = 0x35;
    target[position++] = batchHash & 0xff;
    target[position++] = (batchHash >>> 8) & 0xff;
    target[position++] = (batchHash >>> 16) & 0xff;
    target[position++] = batchHash >>> 24;
    varint(0x7a, payload.length, SHORT_VARINT_BYTES);
    target.set(payload, position);
    this.message = target;
    return this.byteLength;
  }
}

/** The message as bytes of its own. */
export function encodeFrame(frame: TaggedFrame): Buffer {
  const message = new OutgoingFrame(frame);
  const bytes = Buffer.allocUnsafe(message.byteLength);
  message.copy(bytes);
  return bytes;
}

/**
 * Reads a message of any encoder; unknown fields are skipped. The payload is a view of `bytes`.
 * @throws DataLossError when it is not a message
 */
export function decodeFrame(bytes: Uint8Array): TaggedFrame {
  const reader = new FieldReader(bytes);
  let generation = 0;
  let step = 0;
  let microbatch = 0;
  let collective = 0;
  let segment = 0;
  let batchHash = 0;
  let payload = bytes.subarray(0, 0);
  while (reader.more) {
    const tag = reader.varint();
    switch (tag) {
      case 0x08:
        generation = reader.varint();
        break;
      case 0x10:
        step = reader.varint();
        break;
      case 0x18:
        microbatch = reader.varint();
        break;
      case 0x20:
        collective = reader.varint();
        break;
      case 0x28:
        segment = reader.varint();
        break;
      case 0x35:
        batchHash = reader.fixed32();
        break;
      case 0x7a:
        payload = reader.bytes();
        break;
      default:
        reader.skip(tag);
    }
  }
  return { generation, step, microbatch, collective, segment, batchHash, payload };
}

class FieldReader {
  readonly #bytes: Uint8Array;
  #position = 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
  }

  get more(): boolean {
    return this.#position < this.#bytes.length;
  }

  /** A value that a double holds exactly. */
  varint(): number {
    let value = 0;
    let scale = 1;
    for (let i = 0; i < LONG_VARINT_BYTES; i++) {
      const byte = this.#bytes[this.#position++];
      if (byte === undefined) throw this.#broken("ends inside a number");
      value += (byte & 0x7f) * scale;
      scale *= 128;
      if (byte < 0x80) {
        if (!Number.isSafeInteger(value)) throw this.#broken("holds a number past 2^53");
        return value;
      }
    }
    throw this.#broken("holds a number of more than 10 bytes");
  }

  fixed32(): number {
    const at = this.#take(4);
    const [a = 0, b = 0, c = 0, d = 0] = this.#bytes.subarray(at, at + 4);
    return (a | (b << 8) | (c << 16) | (d << 24)) >>> 0;
  }

  bytes(): Uint8Array {
    const length = this.varint();
    const at = this.#take(length);
    return this.#bytes.subarray(at, at + length);
  }

  skip(tag: number): void {
    switch (tag % 8) {
      case 0:
        this.varint();
        return;
      case 1:
        this.#take(8);
        return;
      case 2:
        this.bytes();
        return;
      case 5:
        this.#take(4);
        return;
      default:
        throw this.#broken(`holds a field of wire type ${tag % 8}`);
    }
  }

  #take(length: number): number {
    const at = this.#position;
    if (length > this.#bytes.length - at) {
      throw this.#broken(
        `ends ${length - (this.#bytes.length - at)} bytes before its field at ${at}`,
      );
    }
    this.#position += length;
    return at;
  }

  #broken(what: string): DataLossError {
    return new DataLossError(`a frame of ${this.#bytes.length} bytes ${what}`);
  }
}
