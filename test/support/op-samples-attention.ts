// Samples of rotary embedding, attention and cross-entropy.
import type { Sample } from "./op-samples.ts";

export const ATTENTION_SAMPLES: Readonly<Record<string, readonly Sample[]>> = {};
