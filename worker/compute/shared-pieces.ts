import type { StagedOperands } from "../collective/collective.ts";
import type { OperandPieces } from "../collective/operand-pieces.ts";
import type { ControlBlock } from "./control-block.ts";

/** Main-thread side of the pieces of one collective's operands, which the compute thread brings and takes. */
export class SharedPieces implements StagedOperands {
  readonly pieces: OperandPieces;
  readonly #control: ControlBlock;
  readonly #collective: number;
  #onArrival: () => void = () => undefined;

  constructor(pieces: OperandPieces, control: ControlBlock, collective: number) {
    this.pieces = pieces;
    this.#control = control;
    this.#collective = collective;
  }

  arrived(): number {
    return this.#control.arrivedPieces(this.#collective);
  }

  final(piece: number): void {
    this.#control.finishPiece(this.#collective, piece);
  }

  onArrival(handler: () => void): void {
    this.#onArrival = handler;
  }

  /** The compute thread says that there are more. It may come after the run, which has seen them by itself. */
  arrivedMore(): void {
    this.#onArrival();
  }
}
