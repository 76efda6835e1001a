import type { CollectiveOp } from "../../shared/program/program.ts";
import type { Region } from "./chunk-layout.ts";
import type { StagedOperands } from "./collective.ts";
import { forEachInputRun, forEachOutputRun, pieceCount, pieceRange } from "./operand-pieces.ts";
import type { Schedule, ScheduledReceive } from "./schedule.ts";

/** How far the pieces of one run's operands are: which of the input are there, which of the output are final. */
export class StagedProgress {
  readonly #op: CollectiveOp;
  readonly #schedule: Schedule;
  readonly #staging: StagedOperands;
  readonly #overwritten: ReadonlySet<ScheduledReceive>;
  /** Place in the order of each piece of the input. */
  readonly #places: readonly number[];
  /** Bytes of each piece of the output that are not final. */
  readonly #left: number[];

  constructor(op: CollectiveOp, schedule: Schedule, staging: StagedOperands) {
    this.#op = op;
    this.#schedule = schedule;
    this.#staging = staging;
    this.#overwritten = overwrittenOf(schedule);
    const { order, output } = staging.pieces;
    const places: number[] = [];
    order.forEach((piece, place) => {
      places[piece] = place;
    });
    this.#places = places;
    this.#left = Array.from({ length: pieceCount(output) }, (_, piece) => {
      const { from, end } = pieceRange(output, piece);
      return end - from;
    });
  }

  /** Pieces of the input that are there, and all. */
  get arrived(): { readonly pieces: number; readonly of: number } {
    return { pieces: this.#staging.arrived(), of: this.#places.length };
  }

  /** Whether the input's bytes of a region are there. */
  inputThere(region: Region): boolean {
    const arrived = this.#staging.arrived();
    if (arrived >= this.#places.length) return true;
    let there = true;
    forEachInputRun(this.#op, this.#schedule.layout, region, (offset, length) => {
      there &&= this.#isThere(offset, offset + length, arrived);
    });
    return there;
  }

  /** Whether a region of the output may be written: what comes to its memory as input has come. */
  mayWrite(region: Region): boolean {
    const { outputAt } = this.#staging.pieces;
    const arrived = this.#staging.arrived();
    if (outputAt === undefined || arrived >= this.#places.length) return true;
    let may = true;
    forEachOutputRun(this.#op, this.#schedule.layout, region, (offset, length) => {
      may &&= this.#isThere(outputAt + offset, outputAt + offset + length, arrived);
    });
    return may;
  }

  /** A frame has been written to its region of the output. */
  received(item: ScheduledReceive): void {
    if (!this.#overwritten.has(item)) this.final(item.region);
  }

  /** A region of the output holds its result. */
  final(region: Region): void {
    const { output } = this.#staging.pieces;
    forEachOutputRun(this.#op, this.#schedule.layout, region, (offset, length) => {
      for (let at = offset; at < offset + length; ) {
        const piece = Math.floor(at / output.pieceBytes);
        const end = Math.min(offset + length, (piece + 1) * output.pieceBytes);
        const left = (this.#left[piece] ?? 0) - (end - at);
        this.#left[piece] = left;
        if (left === 0) this.#staging.final(piece);
        at = end;
      }
    });
  }

  /** Whether the input's bytes [from, end), as far as it has such, are among the first `arrived` pieces. */
  #isThere(from: number, end: number, arrived: number): boolean {
    const { bytes, pieceBytes } = this.#staging.pieces.input;
    const last = Math.min(end, bytes) - 1;
    const first = Math.max(0, from);
    for (let piece = Math.floor(first / pieceBytes); piece * pieceBytes <= last; piece++) {
      if ((this.#places[piece] ?? 0) >= arrived) return false;
    }
    return true;
  }
}

const known = new WeakMap<Schedule, ReadonlySet<ScheduledReceive>>();

/** Frames whose place in the output a later one of the same lane takes: partial sums that a ring leaves behind. */
function overwrittenOf(schedule: Schedule): ReadonlySet<ScheduledReceive> {
  let found = known.get(schedule);
  if (found === undefined) {
    const overwritten = new Set<ScheduledReceive>();
    for (const { items } of schedule.receives) {
      const latest = new Map<string, ScheduledReceive>();
      for (const item of items) {
        if (item.action !== "store" && item.action !== "reduce") continue;
        const { chunk, start } = item.region;
        const before = latest.get(`${chunk}:${start}`);
        if (before !== undefined) overwritten.add(before);
        latest.set(`${chunk}:${start}`, item);
      }
    }
    found = overwritten;
    known.set(schedule, found);
  }
  return found;
}
