/**
 * What a rank sends and receives in one collective, as data: a function of its place in the group and the sizes
 * alone. Transport, sums and memory are the business of `collective-run.ts`. Pure.
 */
import type { ChunkLayout, Region } from "./chunk-layout.ts";

/** One frame to send. */
export interface ScheduledSend {
  /** Its bytes: in the input when `relays` is -1, else those that the named receive brought or made. */
  readonly region: Region;
  /** Index, in the receives of the one lane there is, of the frame that must have come first; -1: none. */
  readonly relays: number;
}

/**
 * What to do with a frame that came:
 * - `store`: it is the result for this region of the output;
 * - `reduce`: output = frame + own input;
 * - `relay`: frame += own input, then it is passed on;
 * - `sum`: one of all ranks' contributions, added in the order of the group when the last is there.
 */
export type ReceiveAction = "store" | "reduce" | "relay" | "sum";

/** One frame to receive. */
export interface ScheduledReceive {
  readonly region: Region;
  readonly action: ReceiveAction;
}

/** The frames from or to one peer, in order; a frame's `segment` is its index here. */
export interface Lane<Item> {
  /** Index in the group. */
  readonly peer: number;
  readonly items: readonly Item[];
}

export interface Schedule {
  readonly sends: readonly Lane<ScheduledSend>[];
  readonly receives: readonly Lane<ScheduledReceive>[];
  /** Regions of the output that are sums of all ranks' contributions; frame i of every lane belongs to unit i. */
  readonly sumUnits: readonly Region[];
  readonly layout: ChunkLayout;
}

/** Payload bytes of all frames of these lanes. */
export function laneBytes(lanes: readonly Lane<{ readonly region: Region }>[]): number {
  let bytes = 0;
  for (const lane of lanes) {
    for (const { region } of lane.items) bytes += region.end - region.start;
  }
  return bytes;
}
