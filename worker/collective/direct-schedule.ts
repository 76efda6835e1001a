import { type CollectiveShape, layoutOf, segmentsOf } from "./chunk-layout.ts";
import type { Lane, Schedule, ScheduledReceive, ScheduledSend } from "./schedule.ts";

/**
 * Every rank sends to every other one at once: one latency. allReduce sends the whole tensor, reduceScatter the
 * receiver's chunk, allGather the own chunk, allToAll the receiver's chunk. Sums are made in the order 0..N-1 of the group on every rank.
 */
export function directSchedule(shape: CollectiveShape): Schedule {
  const { op, size, index, segmentBytes } = shape;
  const sums = op === "allReduce" || op === "reduceScatter";
  const layout = layoutOf(shape);
  const segments = (chunk: number) => segmentsOf(layout, chunk, segmentBytes);
  const sends: Lane<ScheduledSend>[] = [];
  const receives: Lane<ScheduledReceive>[] = [];
  // Each rank begins with the next one, so that they do not all besiege rank 0 first.
  for (let distance = 1; distance < size; distance++) {
    const peer = (index + distance) % size;
    const sent = op === "allReduce" ? 0 : op === "allGather" ? index : peer;
    const received = op === "allReduce" ? 0 : op === "reduceScatter" ? index : peer;
    const action = sums ? "sum" : "store";
    sends.push({ peer, items: segments(sent).map((region) => ({ region, relays: -1 })) });
    receives.push({ peer, items: segments(received).map((region) => ({ region, action })) });
  }
  const sumUnits = !sums || size <= 1 ? [] : segments(op === "allReduce" ? 0 : index);
  return { sends, receives, sumUnits, layout };
}
