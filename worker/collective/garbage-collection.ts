import { setFlagsFromString } from "node:v8";

/** Growth of the old generation, in percent of what lives, before it is collected. */
const GROWTH_PERCENT = 400;

/**
 * Sets V8 up for streams of large messages, for the whole process. V8 counts the buffers of messages as growth of
 * the old generation; with its default of a small share of a worker's small heap it marks the whole heap for every
 * 15 MB of traffic, which takes a third of all processor time: 120 ms in place of 78 per rank for an all-reduce of 64 MiB.
 * Costs some 10 MB of resident memory while such messages flow.
 */
export function relaxGarbageCollection(): void {
  setFlagsFromString(`--heap-growing-percent=${GROWTH_PERCENT}`);
}
