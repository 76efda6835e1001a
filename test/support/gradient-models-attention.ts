// Small models with rotary embeddings and attention, whose gradients are checked by differences.
import type { ForwardGraph } from "../../shared/graph/graph.ts";

export const ATTENTION_GRADIENTS: Readonly<Record<string, ForwardGraph>> = {};
