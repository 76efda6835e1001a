/** How byte-level tokenizers write each byte: printable ones as they are, the rest past 255. */
const BYTE_CHARACTERS: readonly string[] = (() => {
  const isPrintable = (b: number): boolean =>
    (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || (b >= 174 && b <= 255);
  let next = 256;
  return Array.from({ length: 256 }, (_, b) => String.fromCharCode(isPrintable(b) ? b : next++));
})();

export interface TestTokenizer {
  /** Merges as pairs of plain text, in order; `[" t", "he"]`. */
  readonly merges: readonly (readonly [string, string])[];
  readonly addedTokens?: readonly string[];
  /** Puts this before each text, as old Llama tokenizers do. */
  readonly prefix?: string;
}

/** A tokenizer.json in the form of GPT-2's: ids 0 to 255 are the bytes, then come the merges, then the added tokens. */
export function tokenizerJson({ merges, addedTokens = [], prefix }: TestTokenizer): string {
  const written = (text: string): string =>
    [...Buffer.from(text)].map((byte) => BYTE_CHARACTERS[byte] ?? "").join("");
  const vocab: Record<string, number> = {};
  BYTE_CHARACTERS.forEach((character, byte) => {
    vocab[character] = byte;
  });
  merges.forEach(([a, b], index) => {
    vocab[written(a + b)] = 256 + index;
  });
  return JSON.stringify({
    version: "1.0",
    added_tokens: addedTokens.map((content, index) => ({
      id: 256 + merges.length + index,
      content,
      single_word: false,
      lstrip: false,
      rstrip: false,
      normalized: false,
      special: true,
    })),
    normalizer: prefix === undefined ? null : { type: "Prepend", prepend: prefix },
    pre_tokenizer: { type: "ByteLevel", add_prefix_space: false, use_regex: true },
    post_processor: null,
    decoder: { type: "ByteLevel" },
    model: {
      type: "BPE",
      unk_token: null,
      vocab,
      merges: merges.map(([a, b]) => `${written(a)} ${written(b)}`),
    },
  });
}
