import type { RankReport, Worker } from "../../client/job-types.ts";
import { formatBytes } from "../../shared/format-bytes.ts";
import { oneLine, plural } from "../format.ts";
import { bar } from "../terminal/bar.ts";
import { type Paint, paint, type TerminalStyle } from "../terminal/style.ts";
import { cutText, padEnd, padStart, textWidth } from "../terminal/text-width.ts";

/** A rank's memory as it is drawn. */
export interface RankMemory extends RankReport {
  /** Of its worker; undefined where that is not known. */
  readonly limitBytes: number | undefined;
  readonly lost: boolean;
}

/** What the ranks use, beside what their workers may use. */
export function rankMemory(ranks: readonly RankReport[], workers: readonly Worker[]): RankMemory[] {
  const byName = new Map(workers.map((worker) => [worker.name, worker]));
  return ranks.map((rank) => {
    const worker = byName.get(rank.worker);
    return { ...rank, limitBytes: worker?.memoryLimitBytes, lost: worker?.state === "lost" };
  });
}

/** A rank's line needs this many columns; on a wider terminal several are beside each other where they need to be. */
const CELL_COLUMNS = 58;
const GAP = 3;
const MIN_BAR = 8;
const MAX_BAR = 60;
/** Devices of a processor have long names: on a narrow terminal the worker's and the backend's are enough. */
const DEVICE_COLUMNS = 100;
const MAX_LABEL = 40;

function rankColumns(columns: number): number {
  return Math.max(1, Math.floor((columns + GAP) / (CELL_COLUMNS + GAP)));
}

/**
 * A bar for each rank: what it measured of its worker's limit, with a mark where the plan foresaw it. In `rows` lines,
 * as few beside each other as that allows; what does not fit is counted in the last.
 */
export function rankRows(
  ranks: readonly RankMemory[],
  rows: number,
  columns: number,
  style: TerminalStyle,
): string[] {
  if (rows <= 0 || ranks.length === 0) return [];
  const across = Math.min(rankColumns(columns), Math.ceil(ranks.length / rows));
  const fits = across * rows >= ranks.length;
  const shown = fits ? ranks : ranks.slice(0, across * (rows - 1));
  const perColumn = Math.ceil(shown.length / across);
  const width = Math.floor((columns - GAP * (across - 1)) / across);
  const cells = rankCells(shown, width, style);
  const lines = Array.from({ length: perColumn }, (_, row) =>
    Array.from({ length: across }, (_, column) => cells[column * perColumn + row] ?? "").join(
      " ".repeat(GAP),
    ),
  );
  if (!fits) lines.push(paint(style, "dim", cutText(moreText(ranks.slice(shown.length)), columns)));
  return lines;
}

function rankCells(ranks: readonly RankMemory[], columns: number, style: TerminalStyle): string[] {
  // A common scale where a worker's limit is unknown.
  const largest = Math.max(...ranks.map(largestBytes), 1);
  const mark = style.unicode ? "\u2026" : "~";
  const numbers = ranks.map(({ rank }) => String(rank));
  const labels = ranks.map((rank) =>
    oneLine(
      `${rank.worker}  ${rank.backend} ${columns >= DEVICE_COLUMNS ? rank.device : ""}`.trimEnd(),
    ),
  );
  const texts = ranks.map((rank) => memoryText(rank, false));
  const shorts = ranks.map((rank) => memoryText(rank, true));
  const numberWidth = widest(numbers);
  const fixed = numberWidth + 2 + 2;
  const isRoomy = fixed + Math.min(widest(labels), MAX_LABEL) + MIN_BAR + widest(texts) <= columns;
  const right = isRoomy ? texts : shorts;
  const rightWidth = widest(right);
  const labelWidth = Math.max(
    0,
    Math.min(widest(labels), MAX_LABEL, columns - fixed - MIN_BAR - rightWidth),
  );
  const barWidth = Math.max(
    1,
    Math.min(MAX_BAR, columns - fixed - labelWidth - rightWidth - (labelWidth > 0 ? 1 : 0)),
  );
  return ranks.map((rank, index) => {
    const scale =
      rank.limitBytes === undefined || rank.limitBytes === 0 ? largest : rank.limitBytes;
    const drawn = bar({
      fill: rank.peakMemoryBytes / scale,
      mark: rank.predictedPeakMemoryBytes / scale,
      shade: rank.predictedPeakMemoryBytes / scale,
      columns: barWidth,
      paint: paintOf(rank),
      style,
    });
    const label = padEnd(cutText(labels[index] ?? "", labelWidth, mark), labelWidth);
    const cell = [
      padStart(numbers[index] ?? "", numberWidth),
      ...(labelWidth > 0 ? [rank.lost ? paint(style, "red", label) : label] : []),
      `${drawn}  ${padEnd(right[index] ?? "", rightWidth)}`,
    ].join(" ");
    return padEnd(cutText(cell, columns), columns);
  });
}

/** `2.42 GB of 8.00 GB, as predicted` */
function memoryText(rank: RankMemory, short: boolean): string {
  const { peakMemoryBytes: peak, predictedPeakMemoryBytes: predicted, limitBytes } = rank;
  const measured = peak === 0 ? "-" : formatBytes(peak);
  const limit = limitBytes === undefined ? "" : `${short ? "/" : " of "}${formatBytes(limitBytes)}`;
  const lost = rank.lost ? ", worker lost" : "";
  if (short) return `${measured}${limit}${lost}`;
  return `${measured}${limit}, ${peak === predicted ? "as predicted" : `predicted ${formatBytes(predicted)}`}${lost}`;
}

/** `56 more ranks: 2.40 GB to 2.42 GB` */
function moreText(ranks: readonly RankMemory[]): string {
  const peaks = ranks.map(({ peakMemoryBytes }) => peakMemoryBytes);
  const [low, high] = [Math.min(...peaks), Math.max(...peaks)].map(formatBytes);
  return `${plural(ranks.length, "more rank")}: ${low === high ? low : `${low} to ${high}`}`;
}

function paintOf({ peakMemoryBytes, limitBytes, lost }: RankMemory): Paint {
  if (lost) return "red";
  const part = limitBytes === undefined ? 0 : peakMemoryBytes / limitBytes;
  return part >= 0.95 ? "red" : part >= 0.8 ? "yellow" : "green";
}

function largestBytes({
  peakMemoryBytes,
  predictedPeakMemoryBytes,
  limitBytes,
}: RankMemory): number {
  return Math.max(peakMemoryBytes, predictedPeakMemoryBytes, limitBytes ?? 0);
}

function widest(texts: readonly string[]): number {
  return Math.max(0, ...texts.map(textWidth));
}
