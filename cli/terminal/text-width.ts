/** How many columns of a terminal a text takes, and texts of exactly as many. */
import { eastAsianWidth } from "get-east-asian-width";

/** Sequences that set colours: the only ones that our own texts hold, and no others' text does after `printable`. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: escape is what such a sequence begins with
const STYLE = /(\x1b\[[0-9;]*m)/g;

const graphemes = new Intl.Segmenter(undefined, { granularity: "grapheme" });

/** Columns that a text takes: 2 for wide characters, 0 for marks that combine and for colours. */
export function textWidth(text: string): number {
  // Nearly all texts, a thousand times faster.
  if (/^[\x20-\x7e]*$/.test(text)) return text.length;
  let width = 0;
  for (const { segment } of graphemes.segment(text.replace(STYLE, ""))) width += charWidth(segment);
  return width;
}

/**
 * The text, cut to `columns` columns with `mark` at its end where it is longer. Colours are kept and ended.
 *
 * @param columns at least 0
 */
export function cutText(text: string, columns: number, mark = ""): string {
  if (textWidth(text) <= columns) return text;
  const end = textWidth(mark) <= columns ? mark : "";
  const room = columns - textWidth(end);
  let cut = "";
  let width = 0;
  let styled = false;
  for (const part of text.split(STYLE)) {
    if (part.startsWith("\x1b[")) {
      cut += part;
      styled = part !== "\x1b[0m";
      continue;
    }
    for (const { segment } of graphemes.segment(part)) {
      const next = width + charWidth(segment);
      if (next > room) return `${cut}${end}${styled ? "\x1b[0m" : ""}`;
      cut += segment;
      width = next;
    }
  }
  return cut;
}

/** The text followed by blanks up to `columns`. */
export function padEnd(text: string, columns: number): string {
  return text + " ".repeat(Math.max(0, columns - textWidth(text)));
}

/** The text after blanks, `columns` wide. */
export function padStart(text: string, columns: number): string {
  return " ".repeat(Math.max(0, columns - textWidth(text))) + text;
}

/** Of one grapheme. */
function charWidth(grapheme: string): number {
  const codePoint = grapheme.codePointAt(0) ?? 0;
  // Variation selector 16 asks for the picture of a character, which is wide.
  if (/\p{Emoji_Presentation}|\ufe0f/u.test(grapheme)) return 2;
  if (/^[\p{Mark}\p{Cf}\p{Cc}]/u.test(grapheme)) return 0;
  return eastAsianWidth(codePoint);
}
