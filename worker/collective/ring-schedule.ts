import { InternalError } from "../../shared/errors.ts";
import { type CollectiveShape, layoutOf, segmentsOf } from "./chunk-layout.ts";
import type { ReceiveAction, Schedule, ScheduledReceive, ScheduledSend } from "./schedule.ts";

/**
 * Frames travel from rank r to rank r + 1. A rank first sends a chunk of its own, then passes on what comes, each
 * segment as soon as it is reduced. Chunk indices are modulo N.
 *
 * - allReduce, 2(N-1) rounds: own chunk r goes out; chunk r-1-j comes in round j. In the first N-1 rounds it is
 *   summed (rank c begins chunk c, rank c-1 ends it), in the others it is the result. No copy is needed for what is passed on:
 *   a chunk of the output is written again only after its bytes have been round the ring.
 * - reduceScatter, N-1 rounds: own chunk r-1 goes out; chunk r-2-j comes in round j, so that chunk c begins at
 *   rank c+1 and ends at rank c. The input is not written: partial sums live in the frames themselves.
 * - allGather, N-1 rounds: own chunk r goes out; chunk r-1-j comes in round j.
 */
export function ringSchedule(shape: CollectiveShape): Schedule {
  const { op, size, index, segmentBytes } = shape;
  const layout = layoutOf(shape);
  if (size <= 1) return { sends: [], receives: [], sumUnits: [], layout };
  const shift = op === "reduceScatter" ? 1 : 0;
  const rounds = op === "allReduce" ? 2 * (size - 1) : size - 1;
  const segments = (chunk: number) => segmentsOf(layout, modulo(chunk, size), segmentBytes);

  const sends: ScheduledSend[] = segments(index - shift).map((region) => ({ region, relays: -1 }));
  const receives: ScheduledReceive[] = [];
  for (let round = 0; round < rounds; round++) {
    const last = round === rounds - 1;
    const action = actionOf(shape, round, last);
    for (const region of segments(index - shift - 1 - round)) {
      if (!last) sends.push({ region, relays: receives.length });
      receives.push({ region, action });
    }
  }
  return {
    sends: [{ peer: modulo(index + 1, size), items: sends }],
    receives: [{ peer: modulo(index - 1, size), items: receives }],
    sumUnits: [],
    layout,
  };
}

function actionOf({ op, size }: CollectiveShape, round: number, last: boolean): ReceiveAction {
  switch (op) {
    case "allReduce":
      return round < size - 1 ? "reduce" : "store";
    case "reduceScatter":
      return last ? "reduce" : "relay";
    case "allGather":
      return "store";
    case "allToAll":
      throw new InternalError("an allToAll is exchanged directly, not in a ring");
  }
}

function modulo(value: number, size: number): number {
  return ((value % size) + size) % size;
}
