/** How the operands of a collective are cut where a device brings and takes them while it runs. Pure. */
import type { Collective, CollectiveOp } from "../../shared/program/program.ts";
import { type ChunkLayout, forEachRun, type Region } from "./chunk-layout.ts";
import type { Schedule } from "./schedule.ts";
import { scheduleOf, shapeOf } from "./schedule-of.ts";

/** An operand in pieces of equal size but for the last, from its first byte on. */
export interface PieceGrid {
  /** Of the operand. */
  readonly bytes: number;
  readonly pieceBytes: number;
}

/** The pieces of one rank's operands. */
export interface OperandPieces {
  readonly input: PieceGrid;
  /** Indices of the input's pieces in the order in which they are brought: that in which the schedule first needs them. */
  readonly order: readonly number[];
  readonly output: PieceGrid;
  /** Where the output begins, from the input's first byte on, where they share memory; undefined: they are apart. */
  readonly outputAt: number | undefined;
}

/** Smaller pieces would spend more on their calls and messages than they hide. */
export const MIN_PIECE_BYTES = 1 << 20;
/** Pieces of an operand: as many as a word of the control block has bits. */
const MAX_PIECES = 32;
/** No element lies in two pieces. */
const ALIGN = 4096;

/**
 * The pieces of a collective as rank `index` of a group of `size` runs it; undefined where each operand is one piece.
 * @param outputAt as in OperandPieces
 * @param leastBytes of a piece, but for the last
 */
export function planPieces(
  descriptor: Collective,
  { size, index }: { readonly size: number; readonly index: number },
  outputAt?: number,
  leastBytes = MIN_PIECE_BYTES,
): OperandPieces | undefined {
  const shape = shapeOf(descriptor, size, index);
  const chunk = shape.outer * shape.chunkElements * shape.elementBytes;
  const full = shape.op === "allReduce" ? chunk : chunk * size;
  const inputBytes = shape.op === "allGather" ? chunk : full;
  const whole = { bytes: inputBytes, pieceBytes: Math.max(1, inputBytes) };
  const input = keepsInputApart(descriptor, size) ? whole : gridOf(inputBytes, leastBytes);
  const output = gridOf(shape.op === "reduceScatter" ? chunk : full, leastBytes);
  if (pieceCount(input) <= 1 && pieceCount(output) <= 1) return undefined;
  return { input, order: orderOf(shape.op, scheduleOf(shape), input), output, outputAt };
}

/** Whether a run begins by copying its whole input, because its sums would overwrite what is still to be sent. */
export function keepsInputApart({ op, algorithm }: Collective, size: number): boolean {
  return op === "allReduce" && algorithm === "direct" && size > 2;
}

export function pieceCount({ bytes, pieceBytes }: PieceGrid): number {
  return Math.ceil(bytes / pieceBytes);
}

/** Bytes [from, end) of piece `index`. */
export function pieceRange(
  { bytes, pieceBytes }: PieceGrid,
  index: number,
): { readonly from: number; readonly end: number } {
  return { from: index * pieceBytes, end: Math.min(bytes, (index + 1) * pieceBytes) };
}

/** Visits the runs of a region of the schedule in the input: from byte `offset` on, `length` bytes. */
export function forEachInputRun(
  op: CollectiveOp,
  layout: ChunkLayout,
  region: Region,
  visit: (offset: number, length: number) => void,
): void {
  if (op === "allGather") visit(region.start, region.end - region.start);
  else forEachRun(layout, region, (offset, _, length) => visit(offset, length));
}

/** The same in the output. */
export function forEachOutputRun(
  op: CollectiveOp,
  layout: ChunkLayout,
  region: Region,
  visit: (offset: number, length: number) => void,
): void {
  if (op === "reduceScatter") visit(region.start, region.end - region.start);
  else forEachRun(layout, region, (offset, _, length) => visit(offset, length));
}

function gridOf(bytes: number, leastBytes: number): PieceGrid {
  const pieceBytes = Math.max(leastBytes, Math.ceil(bytes / MAX_PIECES));
  return { bytes, pieceBytes: Math.max(1, Math.ceil(pieceBytes / ALIGN)) * ALIGN };
}

/**
 * A piece is first needed by the first frame that sends some of it or is summed with it. The frames at one place of
 * their lanes, sent or received, travel at about the same time; what no frame needs (a rank's own chunk of what it
 * gathers) comes last.
 */
function orderOf(op: CollectiveOp, schedule: Schedule, grid: PieceGrid): number[] {
  const needed = Array.from({ length: pieceCount(grid) }, () => Number.POSITIVE_INFINITY);
  const need = (region: Region, place: number): void => {
    forEachInputRun(op, schedule.layout, region, (offset, length) => {
      if (length === 0) return;
      const last = Math.floor((offset + length - 1) / grid.pieceBytes);
      for (let piece = Math.floor(offset / grid.pieceBytes); piece <= last; piece++) {
        needed[piece] = Math.min(needed[piece] ?? 0, place);
      }
    });
  };
  for (const { items } of schedule.sends) {
    items.forEach(({ region, relays }, place) => {
      if (relays < 0) need(region, place);
    });
  }
  for (const { items } of schedule.receives) {
    items.forEach(({ region, action }, place) => {
      if (action === "reduce" || action === "relay") need(region, place);
    });
  }
  schedule.sumUnits.forEach(need);
  const at = (piece: number): number => needed[piece] ?? 0;
  return [...needed.keys()].sort((a, b) => (at(a) === at(b) ? a - b : at(a) - at(b)));
}
