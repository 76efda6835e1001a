// Samples of embeddings, norms, gates, dropout and views.
import type { Sample } from "./op-samples.ts";

export const MODEL_SAMPLES: Readonly<Record<string, readonly Sample[]>> = {};
