// Operands on a pretended device, that come to the host and go back in pieces.
import type { Collective } from "../../shared/program/program.ts";
import type { CollectiveBuffers, StagedOperands } from "../../worker/collective/collective.ts";
import {
  type OperandPieces,
  pieceCount,
  pieceRange,
  planPieces,
} from "../../worker/collective/operand-pieces.ts";

/** What no tensor of a test has: bytes of the host that nobody has brought. */
export const POISON = 0xee;

/** One rank's operands of one collective. The host's input is poison until its pieces are brought. */
export class DeviceOperands implements StagedOperands {
  readonly pieces: OperandPieces;
  readonly buffers: CollectiveBuffers;
  /** The device's output: what was in the host's when it was told that a piece is final. */
  readonly returned: Uint8Array;
  /** Pieces of the output in the order in which they became final. */
  readonly finals: number[] = [];
  readonly #deviceInput: Uint8Array;
  #arrived = 0;
  #handler: () => void = () => undefined;

  /** @param host operands whose input is that of the device */
  constructor(host: CollectiveBuffers, pieces: OperandPieces) {
    this.pieces = pieces;
    this.#deviceInput = host.input.slice();
    host.input.fill(POISON);
    host.output.fill(POISON);
    this.returned = new Uint8Array(host.output.length).fill(POISON);
    this.buffers = { ...host, staging: this };
  }

  /** Of a collective as rank `index` of `size` runs it, in as many pieces as 4 KiB make. */
  static of(
    host: CollectiveBuffers,
    collective: Collective,
    place: { readonly size: number; readonly index: number },
    order: (planned: readonly number[]) => readonly number[] = (planned) => planned,
  ): DeviceOperands {
    const { input, output } = host;
    const shared = input.buffer === output.buffer;
    const outputAt = shared ? output.byteOffset - input.byteOffset : undefined;
    const pieces = planPieces(collective, place, outputAt, 1);
    if (pieces === undefined) throw new Error("operands of one piece each");
    return new DeviceOperands(host, { ...pieces, order: order(pieces.order) });
  }

  get all(): boolean {
    return this.#arrived === this.pieces.order.length;
  }

  /** Brings the next piece, and says so unless `quietly`. */
  bring(quietly = false): void {
    const piece = this.pieces.order[this.#arrived];
    if (piece === undefined) throw new Error("all pieces are there");
    const { from, end } = pieceRange(this.pieces.input, piece);
    this.buffers.input.set(this.#deviceInput.subarray(from, end), from);
    this.#arrived++;
    if (!quietly) this.#handler();
  }

  arrived(): number {
    return this.#arrived;
  }

  final(piece: number): void {
    if (this.finals.includes(piece)) throw new Error(`piece ${piece} is final a second time`);
    const { from, end } = pieceRange(this.pieces.output, piece);
    this.returned.set(this.buffers.output.subarray(from, end), from);
    this.finals.push(piece);
  }

  onArrival(handler: () => void): void {
    this.#handler = handler;
  }

  /** Whether every piece of the output is final. */
  get ended(): boolean {
    return this.finals.length === pieceCount(this.pieces.output);
  }
}
