import * as library from "@huggingface/tokenizers";
import { InvalidArgumentError } from "../../shared/errors.ts";
import { quote } from "../../shared/quote.ts";

/** The part of the library that is used here. Its own types name their files in a way that Node's rules do not find. */
interface LibraryTokenizer {
  encode(
    text: string,
    options: { readonly add_special_tokens: boolean },
  ): { readonly ids: readonly (number | undefined)[]; readonly tokens: readonly string[] };
  decode(ids: number[], options: { readonly clean_up_tokenization_spaces: boolean }): string;
  get_vocab(): Map<string, number>;
}

type LibraryConstructor = new (tokenizer: object, config: object) => LibraryTokenizer;

const { Tokenizer: LibraryTokenizer } = library as unknown as {
  readonly Tokenizer: LibraryConstructor;
};

/** A tokenizer of a Hugging Face `tokenizer.json`. */
export class Tokenizer {
  /** One more than the greatest id, those of added tokens among them. */
  readonly vocabulary: number;
  readonly #tokenizer: LibraryTokenizer;

  /**
   * @param json the file's text
   * @throws InvalidArgumentError when it is none, or uses what the library does not know
   */
  constructor(json: string) {
    const value = parse(json);
    try {
      // A file may leave out what it does not use; the library wants it said.
      const parts = { normalizer: null, pre_tokenizer: null, post_processor: null, decoder: null };
      this.#tokenizer = new LibraryTokenizer({ added_tokens: [], ...parts, ...value }, {});
    } catch (error) {
      throw notUsable(error);
    }
    this.vocabulary =
      1 + [...this.#tokenizer.get_vocab().values()].reduce((a, b) => Math.max(a, b), -1);
    if (this.vocabulary === 0) throw new InvalidArgumentError("is no tokenizer: it has no tokens");
  }

  /**
   * Ids of a text's tokens, without those that mark a text's beginning and end.
   * @throws InvalidArgumentError for a part of the text that the tokenizer has no token for, or no whole id
   */
  encode(text: string): number[] {
    const { ids, tokens } = this.#tokenizer.encode(text, { add_special_tokens: false });
    return ids.map((id, index) => {
      if (id === undefined)
        throw new InvalidArgumentError(`the tokenizer has no token for ${quote(tokens[index])}`);
      // The library takes any number of the file for an id.
      if (!Number.isInteger(id) || id < 0 || id >= this.vocabulary) {
        throw new InvalidArgumentError(
          `the tokenizer gives token ${quote(tokens[index])} the id ${id}; ids are integers from 0 up`,
        );
      }
      return id;
    });
  }

  decode(ids: readonly number[]): string {
    if (ids.length === 0) return "";
    return this.#tokenizer.decode([...ids], { clean_up_tokenization_spaces: false });
  }
}

function parse(json: string): object {
  let value: unknown;
  try {
    value = JSON.parse(json);
  } catch (error) {
    throw notUsable(error);
  }
  if (typeof value !== "object" || value === null || !("model" in value)) {
    throw new InvalidArgumentError("is no tokenizer.json: it holds no model");
  }
  return value;
}

function notUsable(cause: unknown): InvalidArgumentError {
  const reason = cause instanceof Error ? cause.message : String(cause);
  return new InvalidArgumentError(
    `is no tokenizer.json that can be used: ${reason.slice(0, 500)}`,
    {
      cause,
    },
  );
}
