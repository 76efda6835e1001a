// Cases of embeddings, norms, gates, dropout and views.
import type { OpCase } from "./conformance.ts";

export const MODEL_CASES: readonly OpCase[] = [];

/** Long enough that several threads share the work. */
export const LARGE_MODEL_CASES: readonly OpCase[] = [];
