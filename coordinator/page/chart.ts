import type Plot from "uplot";
import { el, panel, setAttributes, setText, type View } from "./dom.ts";
import { formatCount, formatTick } from "./format.ts";

/** From uPlot.iife.min.js, which index.html loads before this. */
declare const uPlot: typeof Plot;

/** Values over steps: columns of equal length, as uPlot takes them. */
export interface ChartSeries {
  readonly label: string;
  /** Custom property of the stylesheet that holds its colour. */
  readonly color: string;
  readonly steps: readonly number[];
  readonly values: readonly (number | null)[];
  /** Least and largest of the steps that a point stands for. */
  readonly low?: readonly (number | null)[];
  readonly high?: readonly (number | null)[];
  /** Few values with much between them: joined by a line, each with a dot. */
  readonly sparse?: boolean;
}

export interface ChartData {
  readonly series: readonly ChartSeries[];
  /** Said below the chart; empty: nothing. */
  readonly note: string;
  /** Upper end of the axis; undefined: as the values want it. */
  readonly top?: number;
}

export interface ChartOptions {
  readonly title: string;
  readonly id: string;
  readonly format: (value: number) => string;
  /** Shorter, for the axis. */
  readonly tick: (value: number) => string;
  readonly fromZero: boolean;
}

const HEIGHT = 190;
/** Beyond this many points a line has no dots. */
const MAX_DOTS = 60;
const STEP_INCREMENTS = Array.from({ length: 10 }, (_, e) =>
  [1, 2, 5].map((m) => m * 10 ** e),
).flat();
/** One cursor for all charts: the same step is read in each. */
const CURSOR_GROUP = "steps";
/** What screen readers are told of a chart changes no more often than this. */
const DESCRIBE_MS = 5_000;

const charts = new Set<{ redraw(): void }>();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  for (const chart of charts) chart.redraw();
});

/** A line chart over steps with a readout of the point under the cursor, and a text that says what it shows. */
export function lineChart(options: ChartOptions): View<ChartData> {
  const { title, id, format } = options;
  const readout = el("p", { class: "readout", "aria-hidden": "true" });
  const box = el("div", { class: "chart", role: "img" });
  const note = el("p", { class: "chart-note" });
  const { element, head } = panel(title, id, box, note);
  element.classList.add("chart-panel");
  head.append(readout);
  let plot: Plot | undefined;
  let shown: ChartData = { series: [], note: "" };
  let shape = "";
  let describedMs = Number.NEGATIVE_INFINITY;

  const read = (index: number | null | undefined): void => {
    const columns = plot?.data;
    readout.replaceChildren(...readoutParts(shown, columns, index ?? undefined, format));
  };
  const draw = (): void => {
    const data = columnsOf(shown.series);
    const wanted = JSON.stringify(shown.series.map(({ label, low }) => [label, low !== undefined]));
    const width = box.clientWidth;
    if (width === 0) return;
    if (plot === undefined || wanted !== shape) {
      plot?.destroy();
      shape = wanted;
      const top = (): number | undefined => shown.top;
      plot = new uPlot(plotOptions(options, shown.series, width, read, top), data, box);
    } else plot.setData(data);
    read(plot.cursor.idx);
  };
  new ResizeObserver(() => {
    const width = box.clientWidth;
    if (plot === undefined) draw();
    else if (width > 0 && width !== plot.width) plot.setSize({ width, height: HEIGHT });
  }).observe(box);
  charts.add({ redraw: () => plot?.redraw(false, true) });
  return {
    element,
    update(data) {
      const hasValues = data.series.some(({ values }) => values.some((value) => value !== null));
      element.hidden = !hasValues && data.note === "";
      shown = data;
      setText(note, data.note);
      note.hidden = data.note === "";
      draw();
      const nowMs = performance.now();
      if (nowMs - describedMs < DESCRIBE_MS && data.series[0]?.steps.length !== 0) return;
      describedMs = nowMs;
      setAttributes(box, { "aria-label": `${title}. ${describe(data, format)}` });
    },
  };
}

/** All series on one axis of steps; with each that has them its bounds. */
function columnsOf(series: readonly ChartSeries[]): Plot.AlignedData {
  const tables = series.map(({ steps, values, low, high }): Plot.AlignedData => {
    const bounds = low !== undefined && high !== undefined ? [[...low], [...high]] : [];
    return [[...steps], [...values], ...bounds];
  });
  const [first] = tables;
  if (first === undefined) return [[]];
  return tables.length === 1 ? first : uPlot.join(tables);
}

function plotOptions(
  { tick, fromZero }: ChartOptions,
  series: readonly ChartSeries[],
  width: number,
  read: (index: number | null | undefined) => void,
  top: () => number | undefined,
): Plot.Options {
  const lines: Plot.Series[] = [{}];
  const bands: Plot.Band[] = [];
  for (const { label, color, low, sparse } of series) {
    const stroke = (): string => css(color);
    lines.push({
      label,
      stroke,
      width: 1.75,
      spanGaps: sparse === true,
      points: {
        show: (self, index) => sparse === true || dots(self, index),
        size: sparse === true ? 6 : 4,
        stroke,
        fill: stroke,
      },
    });
    if (low === undefined) continue;
    const at = lines.length;
    // Drawn as the band between them alone.
    lines.push({ label: `${label}, least`, points: { show: false } });
    lines.push({ label: `${label}, largest`, points: { show: false } });
    bands.push({ series: [at + 1, at], fill: () => css(`${color}-soft`) });
  }
  const axis = {
    stroke: () => css("--muted"),
    font: `11px ${css("--font")}`,
    ticks: { show: false },
    grid: { stroke: () => css("--grid-line"), width: 1 },
  };
  return {
    width,
    height: HEIGHT,
    // To the right, half of the last step's label.
    padding: [10, 20, 0, 0],
    legend: { show: false },
    cursor: {
      sync: { key: CURSOR_GROUP },
      drag: { x: false, y: false, setScale: false },
      y: false,
      points: { size: 7 },
    },
    scales: {
      x: { time: false, range: (_, min, max) => (min === max ? [min - 1, max + 1] : [min, max]) },
      y: fromZero ? { range: (_, __, max) => [0, top() ?? ((max ?? 1) * 1.1 || 1)] } : {},
    },
    axes: [
      {
        ...axis,
        incrs: STEP_INCREMENTS,
        space: 56,
        size: 22,
        values: (_, ticks) => ticks.map(stepTick),
      },
      {
        ...axis,
        space: 36,
        size: (self, labels) => axisWidth(self, labels),
        values: (_, ticks) => ticks.map(tick),
      },
    ],
    series: lines,
    bands,
    hooks: { setCursor: [(self) => read(self.cursor.idx)] },
  };
}

function dots(self: Plot, index: number): boolean {
  const values = self.data[index] ?? [];
  return values.length <= MAX_DOTS;
}

function stepTick(step: number): string {
  return Number.isInteger(step) ? formatTick(step) : "";
}

/** As wide as the longest label, so that nothing is cut off. */
function axisWidth(self: Plot, labels: readonly string[] | null): number {
  const longest = Math.max(0, ...(labels ?? []).map((label) => label.length));
  self.ctx.save();
  self.ctx.font = `11px ${css("--font")}`;
  const width = self.ctx.measureText("0".repeat(longest)).width;
  self.ctx.restore();
  return Math.ceil(Math.max(width, 20)) + 14;
}

/** Step and values under the cursor, or the last ones. */
function readoutParts(
  { series }: ChartData,
  columns: Plot.AlignedData | undefined,
  index: number | undefined,
  format: (value: number) => string,
): HTMLElement[] {
  if (columns === undefined) return [];
  const at = index ?? columns[0].length - 1;
  const step = columns[0][at];
  if (step === undefined) return [];
  const parts = [el("span", { class: "readout-step" }, `step ${formatCount(step)}`)];
  let column = 1;
  for (const { label, color, low } of series) {
    const value = valueAt(columns[column], at, index === undefined);
    column += low === undefined ? 1 : 3;
    if (value === undefined) continue;
    const key = el("span", { class: "key" });
    key.style.setProperty("background", `var(${color})`);
    parts.push(
      el("span", {}, key, `${label} `, el("b", {}, value === null ? "not finite" : format(value))),
    );
  }
  return parts;
}

/** Without a cursor the last value there is. */
function valueAt(
  column: ArrayLike<number | null | undefined> | undefined,
  at: number,
  orBefore: boolean,
): number | null | undefined {
  if (column === undefined) return undefined;
  for (let i = at; i >= 0; i--) {
    const value = column[i];
    if (value !== undefined || !orBefore) return value;
  }
  return undefined;
}

/** What the chart shows, in words. */
function describe({ series }: ChartData, format: (value: number) => string): string {
  return series
    .map(({ label, steps, values, low, high }) => {
      const known = values.flatMap((value, i) =>
        value === null ? [] : [{ value, step: steps[i] ?? 0 }],
      );
      const [first] = known;
      const last = known.at(-1);
      if (first === undefined || last === undefined) return `${label}: no finite value yet.`;
      const least = Math.min(...(low ?? values).filter((value) => value !== null));
      const most = Math.max(...(high ?? values).filter((value) => value !== null));
      return (
        `${label}: ${format(first.value)} at step ${first.step}, ${format(last.value)} at step ${last.step}, ` +
        `between ${format(least)} and ${format(most)}.`
      );
    })
    .join(" ");
}

function css(property: string): string {
  return getComputedStyle(document.documentElement).getPropertyValue(property).trim();
}
