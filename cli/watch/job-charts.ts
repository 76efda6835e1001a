import { formatLoss, formatStepTime } from "../format.ts";
import { lineChart } from "../terminal/line-chart.ts";
import { Series } from "../terminal/series.ts";
import type { TerminalStyle } from "../terminal/style.ts";
import type { Layout } from "./layout.ts";

/** The first steps load pages, caches and connections: beside them the others would be a flat line. */
const WARMUP_STEPS = 2;
const GAP = 3;

/** Loss and step time of a job over its steps. */
export class JobCharts {
  readonly #loss = new Series();
  readonly #heldOut = new Series(256);
  readonly #stepSeconds = new Series();
  #firstStepSeconds: number | undefined;
  #notFinite: number | undefined;

  /** @param step 0-based */
  step(step: number, loss: number, seconds: number): void {
    this.#loss.push(step, loss);
    if (!Number.isFinite(loss)) this.#notFinite ??= step;
    if (step >= WARMUP_STEPS) this.#stepSeconds.push(step, seconds);
    else if (step === 0) this.#firstStepSeconds = seconds;
  }

  /** @param stepsDone before it; it stands beside the loss of the last of them */
  evaluation(stepsDone: number, loss: number): void {
    this.#heldOut.push(Math.max(0, stepsDone - 1), loss);
  }

  /** Both beside each other or not, or the loss alone; an empty line first. */
  lines(layout: Layout, columns: number, style: TerminalStyle): string[] {
    const { charts, sideBySide, plotRows } = layout;
    if (charts === 0) return [];
    const width = sideBySide ? Math.floor((columns - GAP) / 2) : columns;
    const heldOut = this.#heldOut.buckets;
    const loss = lineChart({
      title: heldOut.length === 0 ? "loss" : `loss, ${style.unicode ? "\u25cf" : "o"} held-out`,
      note: this.#lossNote(),
      buckets: this.#loss.buckets,
      marks: heldOut,
      log: true,
      paint: "cyan",
      columns: width,
      plotRows,
      style,
      format: axisNumber,
    });
    if (charts === 1) return ["", ...loss];
    const time = lineChart({
      title: "step time",
      note: this.#stepTimeNote(),
      buckets: this.#stepSeconds.buckets,
      peaks: true,
      minSpread: 0.1,
      paint: "green",
      columns: width,
      plotRows,
      style,
      format: formatStepTime,
    });
    if (!sideBySide) return ["", ...loss, ...time];
    return ["", ...loss.map((line, index) => `${line}${" ".repeat(GAP)}${time[index] ?? ""}`)];
  }

  #lossNote(): string {
    if (this.#notFinite !== undefined) return `not finite at step ${this.#notFinite + 1}`;
    const { first, last } = this.#loss;
    if (first === undefined || last === undefined || this.#loss.buckets.length < 2) return "";
    return `${axisNumber(first)} -> ${axisNumber(last)}`;
  }

  #stepTimeNote(): string {
    const { largest } = this.#stepSeconds;
    const first = this.#firstStepSeconds;
    const parts: string[] = [];
    if (largest !== undefined) {
      parts.push(`longest ${formatStepTime(largest.value)} (step ${largest.at + 1})`);
    }
    if (first !== undefined) parts.push(`first ${formatStepTime(first)}`);
    return parts.join(", ");
  }
}

/** At most seven columns: `2.314`, `-0.125`, `1.2e+5`. */
function axisNumber(value: number): string {
  const size = Math.abs(value);
  if (!Number.isFinite(value)) return formatLoss(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e5)) return value.toExponential(1);
  return value.toPrecision(4);
}
