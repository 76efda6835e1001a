import type { DataSourceSpec, ModelSpec } from "./job-spec.ts";

/** Whether a built-in model takes `tokens` [rows, T] and is trained to tell the next one. */
export function takesTokens(model: ModelSpec): boolean {
  return "llama" in model || "gpt2" in model || "huggingFace" in model;
}

/** Tokens of a row as the spec says; undefined where the data itself tells them (a safetensors file) or has none. */
export function sequenceLength(source: DataSourceSpec): number | undefined {
  if ("text" in source) return source.text.seqLen;
  if ("tokens" in source) return source.tokens.seqLen;
  if ("random" in source) return source.random.seqLen;
  if ("stream" in source) return source.stream.seqLen;
  return undefined;
}

/** The key that says where rows come from. */
export function sourceKey(source: DataSourceSpec): string {
  if ("text" in source) return "text";
  if ("tokens" in source) return "tokens";
  if ("random" in source) return "random";
  return "stream" in source ? "stream" : "safetensors";
}
