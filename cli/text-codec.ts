import { readFile } from "node:fs/promises";
import { Tokenizer } from "../coordinator/data/tokenizer.ts";
import { InvalidArgumentError } from "../shared/errors.ts";

/** Text to token ids and back. */
export interface TextCodec {
  /** One more than the greatest id; undefined where a model may know fewer and still be meant. */
  readonly vocabulary: number | undefined;
  encode(text: string): number[];
  /** Of a text that starts with the given tokens, which are not given back. */
  decoder(prompt: readonly number[]): TokenDecoder;
}

/** Turns tokens into text as they come. */
export interface TokenDecoder {
  /** What of the text is settled by one more token: a character may take several. */
  push(id: number): string;
  /** The rest, when no more tokens come. */
  end(): string;
}

/** Stands for what is no character, or not yet. */
const REPLACEMENT = "\u{fffd}";

/** Every byte of UTF-8 is a token. */
export const BYTE_CODEC: TextCodec = {
  vocabulary: undefined,
  encode: (text) => [...Buffer.from(text)],
  decoder() {
    const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
    return {
      push: (id) =>
        id < 256
          ? decoder.decode(Uint8Array.of(id), { stream: true })
          : decoder.decode() + REPLACEMENT,
      end: () => decoder.decode(),
    };
  },
};

/** @throws InvalidArgumentError naming the file, when it is no tokenizer that can be used */
export async function readTokenizer(path: string): Promise<TextCodec> {
  const within = (error: unknown): InvalidArgumentError => {
    const isMissing = error instanceof Error && "code" in error && error.code === "ENOENT";
    const text = error instanceof Error ? error.message : String(error);
    const reason = isMissing ? "there is no such file" : text;
    return new InvalidArgumentError(`tokenizer ${path}: ${reason}`, { cause: error });
  };
  try {
    const tokenizer = new Tokenizer(await readFile(path, "utf8"));
    return {
      vocabulary: tokenizer.vocabulary,
      encode(text) {
        try {
          return tokenizer.encode(text);
        } catch (error) {
          throw within(error);
        }
      },
      decoder: (prompt) => new WindowDecoder(tokenizer, prompt),
    };
  } catch (error) {
    throw within(error);
  }
}

/**
 * Decodes a window of the last tokens: what a token looks like depends on those before it (blanks between words), and a
 * character may be cut between tokens.
 */
class WindowDecoder implements TokenDecoder {
  readonly #tokenizer: Tokenizer;
  /** Tokens whose text is given back, as far as those after them depend on it, and those that wait. */
  #window: number[];
  #numGiven: number;

  constructor(tokenizer: Tokenizer, prompt: readonly number[]) {
    this.#tokenizer = tokenizer;
    this.#window = prompt.slice(-CONTEXT_TOKENS);
    this.#numGiven = this.#window.length;
  }

  push(id: number): string {
    this.#window.push(id);
    const text = this.#waiting();
    if (text === undefined) {
      // A model may have more ids than its tokenizer; those are no text.
      this.#window.pop();
      return "";
    }
    const isCut = text.endsWith(REPLACEMENT) && this.#window.length - this.#numGiven < MAX_WAITING;
    return isCut ? "" : this.#give(text);
  }

  end(): string {
    return this.#give(this.#waiting() ?? "");
  }

  /** Text of the tokens not given back yet; undefined when there is a token among them that has none. */
  #waiting(): string | undefined {
    try {
      const given = this.#tokenizer.decode(this.#window.slice(0, this.#numGiven));
      return this.#tokenizer.decode(this.#window).slice(given.length);
    } catch {
      return undefined;
    }
  }

  #give(text: string): string {
    this.#window = this.#window.slice(-CONTEXT_TOKENS);
    this.#numGiven = this.#window.length;
    return text;
  }
}

/** Tokens before a new one that its text may depend on. */
const CONTEXT_TOKENS = 4;
/** A character takes at most four bytes, each a token at worst: what waits longer is none. */
const MAX_WAITING = 4;
