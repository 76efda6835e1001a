/** Numbers and tables for people. */
import { padEnd, padStart, textWidth } from "./terminal/text-width.ts";

/** `0:07`, `12:30`, `1:02:03`; whole seconds, rounded up so that a running job never shows 0:00 too early. */
export function formatDuration(seconds: number): string {
  if (!Number.isFinite(seconds)) return "?";
  const total = Math.max(0, Math.ceil(seconds));
  const h = Math.floor(total / 3600);
  const m = Math.floor((total % 3600) / 60);
  const s = String(total % 60).padStart(2, "0");
  return h > 0 ? `${h}:${String(m).padStart(2, "0")}:${s}` : `${m}:${s}`;
}

/** How long ago something was, in its largest unit: `7s`, `12m`, `3h`, `9d`; empty when that is not known. */
export function formatAge(time: Date | undefined, nowMs: number): string {
  if (time === undefined) return "";
  // Another host's clock may be ahead of this one's.
  const seconds = Math.max(0, Math.floor((nowMs - time.getTime()) / 1000));
  if (seconds < 120) return `${seconds}s`;
  if (seconds < 120 * 60) return `${Math.floor(seconds / 60)}m`;
  return seconds < 48 * 3600
    ? `${Math.floor(seconds / 3600)}h`
    : `${Math.floor(seconds / 86_400)}d`;
}

/** Time of one step: `850 ms`, `1.25 s`. */
export function formatStepTime(seconds: number): string {
  if (!Number.isFinite(seconds)) return "?";
  if (seconds < 0.001) return `${(seconds * 1e6).toFixed(0)} us`;
  if (seconds < 1) return `${(seconds * 1e3).toPrecision(3)} ms`;
  return `${seconds.toPrecision(3)} s`;
}

/** Six significant digits, no exponent for everyday sizes. */
export function formatLoss(loss: number): string {
  if (Number.isNaN(loss)) return "NaN";
  if (!Number.isFinite(loss)) return loss > 0 ? "Infinity" : "-Infinity";
  const size = Math.abs(loss);
  return size !== 0 && (size < 1e-4 || size >= 1e7) ? loss.toExponential(5) : loss.toPrecision(6);
}

/** Three significant digits without an exponent. */
export function formatRate(perSecond: number): string {
  if (!Number.isFinite(perSecond)) return "?";
  return perSecond >= 100 ? perSecond.toFixed(0) : perSecond.toPrecision(3);
}

/**
 * Lines of a table with two blanks between columns. Columns whose body cells all look like numbers are set right.
 * An empty body gives the header alone.
 */
export function formatTable(
  header: readonly string[],
  texts: readonly (readonly string[])[],
): string[] {
  const rows = texts.map((row) => row.map(oneLine));
  const widths = header.map((title, column) =>
    Math.max(...[title, ...rows.map((row) => row[column] ?? "")].map(textWidth)),
  );
  const numeric = header.map(
    (_, column) =>
      rows.length > 0 && rows.every((row) => /^-?[\d.,]+$|^-?$/.test(row[column] ?? "")),
  );
  return [header, ...rows].map((row) =>
    row
      .map((cell, column) => {
        const width = widths[column] ?? 0;
        return numeric[column] ? padStart(cell, width) : padEnd(cell, width);
      })
      .join("  ")
      .trimEnd(),
  );
}

/**
 * Text of somebody else's (a job's name, a message) as a terminal may show it: control characters and marks that turn
 * the direction of writing are escaped, line ends stay.
 */
export function printable(text: string): string {
  return text.replace(
    // biome-ignore lint/suspicious/noControlCharactersInRegex: these are what it is about
    /[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u200e\u200f\u2028-\u202e\u2066-\u2069]/g,
    (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
}

/** `printable` on a single line. */
export function oneLine(text: string): string {
  return printable(text).replaceAll("\n", "\\n");
}

/** `1 worker`, `3 workers`. */
export function plural(count: number, noun: string): string {
  return `${count} ${noun}${count === 1 ? "" : "s"}`;
}
