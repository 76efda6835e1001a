/** What a terminal can show: colours, and characters beyond ASCII. */

export interface TerminalStyle {
  readonly color: boolean;
  /** Whether lines, blocks and braille may be drawn; else ASCII stands for them. */
  readonly unicode: boolean;
}

export const PLAIN_STYLE: TerminalStyle = { color: false, unicode: false };

const CODES = {
  bold: 1,
  dim: 2,
  red: 31,
  green: 32,
  yellow: 33,
  blue: 34,
  magenta: 35,
  cyan: 36,
} as const;

export type Paint = keyof typeof CODES;

/**
 * What the environment says of a terminal: https://no-color.org, and the locale that C programs go by.
 *
 * @param color false for `--no-color`
 */
export function styleOf(env: NodeJS.ProcessEnv, color: boolean): TerminalStyle {
  const locale = env["LC_ALL"] || env["LC_CTYPE"] || env["LANG"] || "";
  const dumb = env["TERM"] === "dumb";
  return {
    color: color && !env["NO_COLOR"] && !dumb,
    unicode: !dumb && (/utf-?8/i.test(locale) || process.platform === "win32"),
  };
}

/** The text in a colour, where there are colours. */
export function paint(style: TerminalStyle, paint: Paint | undefined, text: string): string {
  if (!style.color || paint === undefined || text === "") return text;
  return `\x1b[${CODES[paint]}m${text}\x1b[0m`;
}
