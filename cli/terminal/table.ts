import { type Paint, paint, type TerminalStyle } from "./style.ts";
import { cutText, padEnd, padStart, textWidth } from "./text-width.ts";

export interface Column<T> {
  readonly title: string;
  /** The cell of a row, printable and on one line. */
  cell(row: T): string;
  readonly align?: "left" | "right";
  /** The least that it may be cut to; left out: it is never cut. */
  readonly min?: number;
  /** Columns with a larger number are left out sooner when there is no room; left out: it always stays. */
  readonly optional?: number;
  paint?(row: T): Paint | undefined;
}

export interface TableOptions {
  /** Width that lines are fitted to; undefined: as wide as they are. */
  readonly columns: number | undefined;
  readonly style: TerminalStyle;
}

const GAP = "  ";

interface Laid<T> {
  readonly column: Column<T>;
  readonly cells: readonly string[];
  width: number;
}

/**
 * A header and a line for each row, columns two blanks apart. Where it is too wide, the widest columns that may be cut are cut;
 * if that is not enough, columns are left out.
 */
export function renderTable<T>(
  columns: readonly Column<T>[],
  rows: readonly T[],
  options: TableOptions,
): string[] {
  const { style } = options;
  const laid = fitColumns(columns, rows, options.columns);
  const mark = style.unicode ? "\u2026" : "~";
  const line = (cells: readonly string[], paints: readonly (Paint | undefined)[]) => {
    const texts = laid.map(({ column, width }, index) => {
      const text = cutText(cells[index] ?? "", width, mark);
      const padded = column.align === "right" ? padStart(text, width) : padEnd(text, width);
      const isLast = index === laid.length - 1;
      return paint(style, paints[index], isLast ? padded.trimEnd() : padded);
    });
    const whole = texts.join(GAP).trimEnd();
    return options.columns === undefined ? whole : cutText(whole, options.columns, mark);
  };
  return [
    line(
      laid.map(({ column }) => column.title),
      laid.map(() => "bold"),
    ),
    ...rows.map((row, index) =>
      line(
        laid.map(({ cells }) => cells[index] ?? ""),
        laid.map(({ column }) => column.paint?.(row)),
      ),
    ),
  ];
}

function fitColumns<T>(
  columns: readonly Column<T>[],
  rows: readonly T[],
  limit: number | undefined,
): Laid<T>[] {
  let laid = columns.map((column) => {
    const cells = rows.map((row) => column.cell(row));
    return { column, cells, width: Math.max(...[column.title, ...cells].map(textWidth)) };
  });
  if (limit === undefined) return laid;
  for (;;) {
    const least = laid.map(({ column, width }) => Math.min(width, leastWidth(column)));
    if (total(least) <= limit) break;
    const victim = laid
      .filter(({ column }) => column.optional !== undefined)
      .sort((a, b) => (b.column.optional ?? 0) - (a.column.optional ?? 0))[0];
    if (victim === undefined) break;
    laid = laid.filter((one) => one !== victim);
  }
  while (total(laid.map(({ width }) => width)) > limit) {
    const widest = laid
      .filter(({ column, width }) => width > leastWidth(column))
      .sort((a, b) => b.width - a.width)[0];
    if (widest === undefined) break;
    widest.width -= 1;
  }
  return laid;
}

/** Of a column that may be cut: its title stays whole. */
function leastWidth<T>({ min, title }: Column<T>): number {
  return min === undefined ? Number.POSITIVE_INFINITY : Math.max(min, textWidth(title));
}

function total(widths: readonly number[]): number {
  return widths.reduce((sum, width) => sum + width, 0) + GAP.length * (widths.length - 1);
}
