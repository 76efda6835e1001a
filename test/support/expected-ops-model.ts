// What embeddings, norms, gates, dropout and views compute, by plain loops in float64, written apart from the op registry.
import type { Expected } from "./expected-math.ts";

export const MODEL_EXPECTED: Readonly<Record<string, Expected>> = {};
