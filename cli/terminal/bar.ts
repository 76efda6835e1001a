import { type Paint, paint, type TerminalStyle } from "./style.ts";

export interface BarOptions {
  /** Part that is filled, 0 to 1; more is full. */
  readonly fill: number;
  /** Where a mark stands, 0 to 1; undefined: nowhere. */
  readonly mark?: number | undefined;
  /** Part that is shaded where it is not filled. */
  readonly shade?: number;
  readonly columns: number;
  readonly paint?: Paint | undefined;
  readonly style: TerminalStyle;
}

/** U+258F (one eighth) to U+2589 (seven). */
const EIGHTHS = ["", "\u258f", "\u258e", "\u258d", "\u258c", "\u258b", "\u258a", "\u2589"];

/** A bar of exactly `columns` columns. */
export function bar(options: BarOptions): string {
  const { columns, style } = options;
  const fill = clamp(options.fill) * columns;
  const shade = Math.round(clamp(options.shade ?? 0) * columns);
  const mark =
    options.mark === undefined
      ? undefined
      : Math.min(columns - 1, Math.floor(clamp(options.mark) * columns));
  const cells = style.unicode
    ? { full: "\u2588", shade: "\u2592", empty: "\u00b7", mark: "\u2502" }
    : { full: "#", shade: "=", empty: ".", mark: "|" };
  const whole = style.unicode ? Math.floor(fill) : Math.round(fill);
  const eighths = style.unicode ? Math.floor((fill - whole) * 8) : 0;
  // Painted piece by piece, not cell by cell.
  const pieces: { paint: Paint | undefined; text: string }[] = [];
  const put = (color: Paint | undefined, text: string) => {
    const piece = pieces.at(-1);
    if (piece !== undefined && piece.paint === color) piece.text += text;
    else pieces.push({ paint: color, text });
  };
  for (let cell = 0; cell < columns; cell++) {
    if (cell === mark) put("magenta", cells.mark);
    else if (cell < whole) put(options.paint, cells.full);
    else if (cell === whole && eighths > 0) put(options.paint, EIGHTHS[eighths] ?? "");
    else put("dim", cell < shade ? cells.shade : cells.empty);
  }
  return pieces.map((piece) => paint(style, piece.paint, piece.text)).join("");
}

function clamp(part: number): number {
  return Number.isFinite(part) ? Math.min(1, Math.max(0, part)) : 0;
}
