import { DotCanvas } from "./dot-canvas.ts";
import type { Bucket } from "./series.ts";
import { type Paint, paint, type TerminalStyle } from "./style.ts";
import { cutText, padEnd, padStart, textWidth } from "./text-width.ts";

export interface LineChartOptions {
  readonly title: string;
  /** Said at the right of the title. */
  readonly note?: string;
  readonly buckets: readonly Bucket[];
  /** Single values drawn over the line, in another colour. */
  readonly marks?: readonly Bucket[];
  /** Whether single values count: those that are larger than their neighbours get a dot, and may lie beyond the scale. */
  readonly peaks?: boolean;
  /** Whether a scale of several powers of ten may be logarithmic. */
  readonly log?: boolean;
  /** Least height of the scale as a part of its values, so that noise does not fill the chart. */
  readonly minSpread?: number;
  readonly paint?: Paint;
  /** Width of all of it, in columns. */
  readonly columns: number;
  /** Rows of the plot; title and axis take one each besides. */
  readonly plotRows: number;
  readonly style: TerminalStyle;
  /** Of a value at an axis. */
  format(value: number): string;
}

/** Where a value lies: 0 at the bottom of the scale, 1 at its top. */
interface Scale {
  readonly low: number;
  readonly high: number;
  readonly isLog: boolean;
  at(value: number): number;
}

/** Several powers of ten: on a linear scale only the first of them would be seen. */
const LOG_RATIO = 100;

/**
 * A line over steps: the mean of what falls into one column of dots. `plotRows + 2` lines of exactly `columns` columns.
 */
export function lineChart(options: LineChartOptions): string[] {
  const { buckets, columns, plotRows, style, format } = options;
  const marks = options.marks ?? [];
  const scale = scaleOf(buckets, marks, options);
  const labels = scale === undefined ? ["", ""] : [format(scale.high), format(scale.low)];
  const gutter = Math.min(Math.max(...labels.map(textWidth), 4), Math.floor(columns / 3));
  const plotColumns = Math.max(1, columns - gutter - 2);
  const canvas = new DotCanvas(plotColumns, plotRows, style.unicode);
  const from = Math.min(...[...buckets, ...marks].map(({ first }) => first));
  const to = Math.max(...[...buckets, ...marks].map(({ last }) => last));
  if (scale !== undefined) {
    const x = (step: number) => Math.round(((step - from) / (to - from || 1)) * (canvas.width - 1));
    const y = (value: number) => {
      const at = Math.min(1, Math.max(0, scale.at(value)));
      return Math.round((1 - at) * (canvas.height - 1));
    };
    drawLine(canvas, buckets, options.peaks === true, x, y);
    const glyph = paint(style, "magenta", style.unicode ? "\u25cf" : "o");
    for (const { first, last, mean } of marks) canvas.mark(x((first + last) / 2), y(mean), glyph);
  }
  const axis = axisMarks(style);
  const rows = canvas
    .rows((dots) => paint(style, options.paint, dots))
    .map((row, index) => {
      const label = index === 0 ? labels[0] : index === plotRows - 1 ? labels[1] : "";
      const tick = (label ?? "") === "" ? axis.line : axis.tick;
      const text = padStart(cutText(label ?? "", gutter), gutter);
      return `${paint(style, "dim", `${text} ${tick}`)}${row}`;
    });
  const title = scale?.isLog === true ? `${options.title} (log)` : options.title;
  return [
    titleLine(title, options.note ?? "", columns, style),
    ...rows,
    stepAxis(buckets.length + marks.length === 0 ? undefined : [from, to], gutter, options),
  ];
}

function drawLine(
  canvas: DotCanvas,
  buckets: readonly Bucket[],
  peaks: boolean,
  x: (step: number) => number,
  y: (value: number) => number,
): void {
  let before: { readonly x: number; readonly y: number } | undefined;
  for (const point of pointsOf(buckets, x)) {
    const at = { x: point.x, y: y(point.mean) };
    canvas.line(before?.x ?? at.x, before?.y ?? at.y, at.x, at.y);
    if (peaks) canvas.dot(at.x, y(point.max));
    before = at;
  }
}

/** Buckets by column of dots. */
function pointsOf(
  buckets: readonly Bucket[],
  x: (step: number) => number,
): { readonly x: number; readonly mean: number; readonly max: number }[] {
  const points: { x: number; sum: number; count: number; max: number }[] = [];
  for (const { first, last, mean, max, count } of buckets) {
    const column = x((first + last) / 2);
    const point = points.at(-1);
    if (point?.x !== column) {
      points.push({ x: column, sum: mean * count, count, max });
      continue;
    }
    point.sum += mean * count;
    point.count += count;
    point.max = Math.max(point.max, max);
  }
  return points.map(({ x: column, sum, count, max }) => ({ x: column, mean: sum / count, max }));
}

function scaleOf(
  buckets: readonly Bucket[],
  marks: readonly Bucket[],
  options: LineChartOptions,
): Scale | undefined {
  const values = [...buckets, ...marks].map(({ mean }) => mean).sort((a, b) => a - b);
  let low = values[0];
  let high = values.at(-1);
  if (low === undefined || high === undefined) return undefined;
  const median = values[Math.floor(values.length / 2)] ?? high;
  if (options.peaks === true && high > 3 * median) {
    high = Math.max(values[Math.floor(0.95 * (values.length - 1))] ?? median, 1.5 * median);
    high = Math.min(high, 3 * median);
  }
  const isLog = options.log === true && low > 0 && high / low > LOG_RATIO;
  const spread = Math.max(Math.abs(high), Math.abs(low)) * (options.minSpread ?? 1e-6) || 1;
  if (high - low < spread) {
    const middle = (low + high) / 2;
    // What is never negative gets no scale below zero.
    low = low >= 0 ? Math.max(0, middle - spread / 2) : middle - spread / 2;
    high = middle + spread / 2;
  }
  const [bottom, top] = isLog ? [Math.log(low), Math.log(high)] : [low, high];
  const at = (value: number) => {
    const place = isLog ? (value > 0 ? Math.log(value) : bottom) : value;
    return (place - bottom) / (top - bottom);
  };
  return { low, high, isLog, at };
}

function titleLine(title: string, note: string, columns: number, style: TerminalStyle): string {
  const head = cutText(title, columns);
  const room = columns - textWidth(head) - 2;
  const tail = room < 8 ? "" : cutText(note, room, style.unicode ? "\u2026" : "~");
  const gap = " ".repeat(columns - textWidth(head) - textWidth(tail));
  return `${paint(style, "bold", head)}${gap}${paint(style, "dim", tail)}`;
}

/** The line below a plot: the first and the last step, 1-based as steps done are counted. */
function stepAxis(
  range: readonly [number, number] | undefined,
  gutter: number,
  { columns, style }: LineChartOptions,
): string {
  const axis = axisMarks(style);
  const room = columns - gutter - 2;
  const [first, last] = range === undefined ? ["", ""] : range.map((step) => String(step + 1));
  const line = `${first}${axis.bottom.repeat(Math.max(1, room - (first ?? "").length - (last ?? "").length))}${last}`;
  return paint(
    style,
    "dim",
    padEnd(cutText(`${" ".repeat(gutter + 1)}${axis.corner}${line}`, columns), columns),
  );
}

function axisMarks({ unicode }: TerminalStyle): {
  readonly line: string;
  readonly tick: string;
  readonly corner: string;
  readonly bottom: string;
} {
  return unicode
    ? { line: "\u2502", tick: "\u2524", corner: "\u2514", bottom: "\u2500" }
    : { line: "|", tick: "+", corner: "+", bottom: "-" };
}
