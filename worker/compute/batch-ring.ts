import { InternalError } from "../../shared/errors.ts";
import type { Round } from "../../shared/job/rounds.ts";

/** Receives one record of the ring; `bytes` is valid only within the call. */
export interface BatchVisitor {
  /** Bytes of an input, `offsetBytes` from the start of its slot. A piece may come in two calls. */
  piece(round: Round, input: number, offsetBytes: number, bytes: Uint8Array): void;
  /** All pieces of the round's batch have come. */
  end(round: Round, batchHash: number): void;
}

// Positions and lengths count in units, so that headers stay aligned and 32-bit words reach far.
const UNIT_BYTES = 8;
const HEADER_UNITS = 5;

const READ = 0;
const WRITE = 1;
const STALLED = 2;
const CONTROL_BYTES = 16;

const KIND_PIECE = 0;
const KIND_END = 1;

/** Stands for the number of a batch in its evaluation where the batch belongs to a step. */
const NO_EVALUATION = -1;

const NOTHING = new Uint8Array(0);

/**
 * A bounded queue of batch pieces in shared memory: the main thread puts in what the coordinator streams, the
 * compute thread copies it into the input slots. One writer, one reader, no locks.
 *
 * A record is a header and its data, padded to a unit; both may wrap round the end. One unit always stays free,
 * so that full and empty differ.
 */
export class BatchRing {
  readonly buffer: SharedArrayBuffer;
  readonly #control: Int32Array;
  readonly #data: Uint8Array;
  readonly #units: number;
  readonly #header = new DataView(new ArrayBuffer(HEADER_UNITS * UNIT_BYTES));
  readonly #headerBytes = new Uint8Array(this.#header.buffer);

  /** A fresh ring of `capacityBytes`, or the ring that the other thread made. */
  constructor(source: { readonly capacityBytes: number } | SharedArrayBuffer) {
    this.buffer =
      source instanceof SharedArrayBuffer
        ? source
        : new SharedArrayBuffer(CONTROL_BYTES + toUnits(source.capacityBytes) * UNIT_BYTES);
    this.#control = new Int32Array(this.buffer, 0, CONTROL_BYTES / 4);
    this.#data = new Uint8Array(this.buffer, CONTROL_BYTES);
    this.#units = this.#data.length / UNIT_BYTES;
    if (this.#units < 4 * HEADER_UNITS) {
      throw new InternalError(`a batch ring of ${this.#data.length} bytes is too small`);
    }
  }

  // --- Writer ---

  /**
   * Puts in a piece, or as much of its front as there is room for. Returns the bytes taken; 0 means that the
   * ring is full, and that `takeStalled` will tell the reader so once it has made room.
   */
  writePiece(round: Round, input: number, offsetBytes: number, bytes: Uint8Array): number {
    // A few bytes at a time would cost more than they bring: wait until a fair part fits.
    const wanted = HEADER_UNITS + Math.min(toUnits(bytes.length), this.#units >> 2);
    if (!this.#hasRoom(wanted)) return 0;
    const taken = Math.min(bytes.length, (this.#freeUnits() - HEADER_UNITS) * UNIT_BYTES);
    this.#put(KIND_PIECE, round, input, offsetBytes, bytes.subarray(0, taken));
    return taken;
  }

  /** Puts in the end of a round's batch; false when the ring is full. */
  writeEnd(round: Round, batchHash: number): boolean {
    if (!this.#hasRoom(HEADER_UNITS)) return false;
    this.#put(KIND_END, round, 0, batchHash, NOTHING);
    return true;
  }

  // --- Reader ---

  get empty(): boolean {
    return Atomics.load(this.#control, READ) === Atomics.load(this.#control, WRITE);
  }

  /** Takes the next record. The room it held is free when `visitor` has returned. */
  take(visitor: BatchVisitor): void {
    if (this.empty) throw new InternalError("took from an empty batch ring");
    const read = Atomics.load(this.#control, READ);
    for (let i = 0; i < HEADER_UNITS; i++) {
      const at = ((read + i) % this.#units) * UNIT_BYTES;
      this.#headerBytes.set(this.#data.subarray(at, at + UNIT_BYTES), i * UNIT_BYTES);
    }
    const input = this.#header.getInt32(4, true);
    const length = this.#header.getFloat64(8, true);
    const step = this.#header.getFloat64(16, true);
    const value = this.#header.getFloat64(24, true);
    const evaluation = this.#header.getFloat64(32, true);
    const round = { step, evaluation: evaluation === NO_EVALUATION ? undefined : evaluation };
    const start = (read + HEADER_UNITS) % this.#units;
    if (this.#header.getInt32(0, true) === KIND_END) {
      visitor.end(round, value);
    } else {
      const first = Math.min(length, this.#data.length - start * UNIT_BYTES);
      const at = start * UNIT_BYTES;
      visitor.piece(round, input, value, this.#data.subarray(at, at + first));
      if (first < length)
        visitor.piece(round, input, value + first, this.#data.subarray(0, length - first));
    }
    Atomics.store(this.#control, READ, (start + toUnits(length)) % this.#units);
  }

  /** True once after the writer found the ring full: the reader must wake it. */
  takeStalled(): boolean {
    return Atomics.exchange(this.#control, STALLED, 0) !== 0;
  }

  #freeUnits(): number {
    const read = Atomics.load(this.#control, READ);
    const write = Atomics.load(this.#control, WRITE);
    return (read - write - 1 + this.#units) % this.#units;
  }

  #hasRoom(units: number): boolean {
    if (this.#freeUnits() >= units) return true;
    // The flag first, then a second look: the reader may have made room in between and seen no flag.
    Atomics.store(this.#control, STALLED, 1);
    return this.#freeUnits() >= units;
  }

  /** Copies a record behind the write position, then moves the position: the reader sees whole records only. */
  #put(kind: number, round: Round, input: number, value: number, bytes: Uint8Array): void {
    this.#header.setInt32(0, kind, true);
    this.#header.setInt32(4, input, true);
    this.#header.setFloat64(8, bytes.length, true);
    this.#header.setFloat64(16, round.step, true);
    this.#header.setFloat64(24, value, true);
    this.#header.setFloat64(32, round.evaluation ?? NO_EVALUATION, true);
    const write = Atomics.load(this.#control, WRITE);
    for (let i = 0; i < HEADER_UNITS; i++) {
      const at = ((write + i) % this.#units) * UNIT_BYTES;
      this.#data.set(this.#headerBytes.subarray(i * UNIT_BYTES, (i + 1) * UNIT_BYTES), at);
    }
    const start = (write + HEADER_UNITS) % this.#units;
    const first = Math.min(bytes.length, this.#data.length - start * UNIT_BYTES);
    this.#data.set(bytes.subarray(0, first), start * UNIT_BYTES);
    if (first < bytes.length) this.#data.set(bytes.subarray(first), 0);
    Atomics.store(this.#control, WRITE, (start + toUnits(bytes.length)) % this.#units);
  }
}

function toUnits(bytes: number): number {
  return Math.ceil(bytes / UNIT_BYTES);
}
