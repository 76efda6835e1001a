import type { DataSourceSpec, TextData } from "../../shared/job/job-spec.ts";

/** Name of the built-in tokenizer: every byte is a token. */
const BYTES = "bytes";

/** Whether a source is a text that a tokenizer's file cuts into tokens. */
export function tokenizes(source: DataSourceSpec): source is { readonly text: TextData } {
  return "text" in source && source.text.tokenizer !== BYTES;
}
