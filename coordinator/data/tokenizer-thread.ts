import { readFileSync } from "node:fs";
import { parentPort, workerData } from "node:worker_threads";
import { InternalError, RankmeshError, ResourceExhaustedError } from "../../shared/errors.ts";
import { tokenizeText } from "./tokenize-text.ts";
import { Tokenizer } from "./tokenizer.ts";

/** What a tokenizer thread is started with. */
export interface TokenizerStart {
  readonly tokenizerPath: string;
  readonly textPath: string;
  /** How many ids the model knows; undefined: as many as the tokenizer has. */
  readonly ids: number | undefined;
  /** How much of the text is tokenized: all, or bytes from its beginning. */
  readonly bytes: number | "all";
}

/** What it answers, once. */
export type TokenizerReply =
  | {
      readonly kind: "tokens";
      /** Uint16 or Uint32 values, by `bytesPerToken`. */
      readonly buffer: ArrayBuffer;
      readonly bytesPerToken: 2 | 4;
    }
  | {
      readonly kind: "fault";
      readonly of: "tokenizer" | "text";
      readonly message: string;
      readonly isTooLarge: boolean;
    };

const port = parentPort;
if (port === null) throw new InternalError("tokenizer-thread.ts runs only as a worker thread");
const reply = run(workerData as TokenizerStart);
port.postMessage(reply, reply.kind === "tokens" ? [reply.buffer] : []);

function run(start: TokenizerStart): TokenizerReply {
  let of: "tokenizer" | "text" = "tokenizer";
  try {
    const tokenizer = new Tokenizer(readFileSync(start.tokenizerPath, "utf8"));
    const { vocabulary } = tokenizer;
    if (start.ids !== undefined && vocabulary > start.ids) {
      const message = `has ids up to ${vocabulary - 1}, and the model's vocabulary is ${start.ids}; use a model of vocab ${vocabulary} or more`;
      return { kind: "fault", of, message, isTooLarge: false };
    }
    of = "text";
    const bytes = start.bytes === 0 ? new Uint8Array(0) : readFileSync(start.textPath);
    const part = start.bytes === "all" ? bytes : bytes.subarray(0, start.bytes);
    const bytesPerToken = vocabulary > 2 ** 16 ? 4 : 2;
    return { kind: "tokens", buffer: allTokens(part, tokenizer, bytesPerToken), bytesPerToken };
  } catch (error) {
    if (!(error instanceof RankmeshError)) throw error;
    const isTooLarge = error instanceof ResourceExhaustedError;
    return { kind: "fault", of, message: error.message, isTooLarge };
  }
}

/** Tokens in an array that grows by doubling. */
function allTokens(bytes: Uint8Array, tokenizer: Tokenizer, bytesPerToken: 2 | 4): ArrayBuffer {
  const TokenArray = bytesPerToken === 2 ? Uint16Array : Uint32Array;
  let tokens = new TokenArray(Math.max(1024, Math.ceil(bytes.length / 3)));
  let count = 0;
  for (const ids of tokenizeText(bytes, tokenizer)) {
    if (count + ids.length > tokens.length) {
      const grown = new TokenArray(2 * (count + ids.length));
      grown.set(tokens.subarray(0, count));
      tokens = grown;
    }
    tokens.set(ids, count);
    count += ids.length;
  }
  return tokens.slice(0, count).buffer;
}
