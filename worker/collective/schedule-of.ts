import { type Collective, dtypeBytes } from "../../shared/program/program.ts";
import type { CollectiveShape } from "./chunk-layout.ts";
import { directSchedule } from "./direct-schedule.ts";
import { ringSchedule } from "./ring-schedule.ts";
import type { Schedule } from "./schedule.ts";

/** The schedule of one rank. A group of one has nothing to send. */
export function scheduleOf(shape: CollectiveShape): Schedule {
  return shape.algorithm === "ring" ? ringSchedule(shape) : directSchedule(shape);
}

/** A program's collective as rank `index` of a group of `size` runs it. */
export function shapeOf(descriptor: Collective, size: number, index: number): CollectiveShape {
  const { op, algorithm, outer, chunkElements, dtype, segmentBytes } = descriptor;
  const elementBytes = dtypeBytes(dtype);
  return { op, algorithm, size, index, outer, chunkElements, elementBytes, segmentBytes };
}
