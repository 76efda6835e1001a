// Cases of rotary embedding, attention and cross-entropy.
import type { OpCase } from "./conformance.ts";

export const ATTENTION_CASES: readonly OpCase[] = [];

/** Long enough that several threads share the work. */
export const LARGE_ATTENTION_CASES: readonly OpCase[] = [];
