import type { Instant } from "./job/job-state.ts";

export type Clock = () => Instant;

export const systemClock: Clock = () => ({ wallMs: Date.now(), monotonicMs: performance.now() });
