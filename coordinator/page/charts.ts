import type { EvaluationView } from "./api.ts";
import { type ChartData, type ChartSeries, lineChart } from "./chart.ts";
import { el, setAttributes, type View } from "./dom.ts";
import { formatLoss, formatRate, formatSeconds, formatTick, plural } from "./format.ts";
import type { StepPoint } from "./points.ts";

export interface ChartsData {
  readonly points: readonly StepPoint[];
  /** Steps to a point. */
  readonly stride: number;
  readonly evaluations: readonly EvaluationView[];
  readonly batchSize: number;
}

/** Loss, step time, throughput, and the norm of the gradient where it is reported, over steps. */
export function charts(): View<ChartsData> {
  const all = [
    {
      chart: lineChart({
        title: "Loss",
        id: "loss",
        format: formatLoss,
        tick: formatTick,
        fromZero: false,
      }),
      dataOf: lossChart,
    },
    {
      chart: lineChart({
        title: "Step time",
        id: "step-time",
        format: formatSeconds,
        tick: formatSeconds,
        fromZero: true,
      }),
      dataOf: stepTimeChart,
    },
    {
      chart: lineChart({
        title: "Throughput",
        id: "throughput",
        format: formatRate,
        tick: formatTick,
        fromZero: true,
      }),
      dataOf: throughputChart,
    },
    {
      chart: lineChart({
        title: "Gradient norm",
        id: "grad-norm",
        format: formatLoss,
        tick: formatTick,
        fromZero: true,
      }),
      dataOf: gradNormChart,
    },
  ];
  const element = el("div", { class: "charts" }, ...all.map(({ chart }) => chart.element));
  return {
    element,
    update(data) {
      element.hidden = data.points.length === 0;
      for (const { chart, dataOf } of all) chart.update(dataOf(data));
      const shown = all.filter(({ chart }) => !chart.element.hidden).length;
      setAttributes(element, { "data-count": shown });
    },
  };
}

function lossChart({ points, evaluations, stride }: ChartsData): ChartData {
  const loss: ChartSeries = {
    label: stride === 1 ? "loss" : "mean loss",
    color: "--series-loss",
    steps: points.map((point) => point.last),
    values: points.map((point) => point.loss),
    ...(stride === 1
      ? {}
      : {
          low: points.map((point) => point.lossMin),
          high: points.map((point) => point.lossMax),
        }),
  };
  const heldOut: ChartSeries = {
    label: "held-out",
    color: "--series-held-out",
    steps: evaluations.map(({ step }) => step),
    values: evaluations.map((evaluation) => evaluation.loss),
    sparse: true,
  };
  const nonFinite = points.filter((point) => point.nonFinite > 0);
  const [first] = nonFinite;
  const count = nonFinite.reduce((sum, point) => sum + point.nonFinite, 0);
  const bad =
    first === undefined
      ? ""
      : `The loss of ${plural(count, "step")} is not finite, first at step ${first.first}. `;
  const merged =
    stride === 1
      ? ""
      : `A point is the mean of ${stride} steps; the band spans their least and largest.`;
  return {
    series: evaluations.length === 0 ? [loss] : [loss, heldOut],
    note: `${bad}${merged}`.trim(),
  };
}

function stepTimeChart({ points, stride }: ChartsData): ChartData {
  const longest = points.reduce((most, point) => Math.max(most, point.secondsMax), 0);
  const top = usualTop(points.map((point) => point.seconds));
  return {
    series: [
      {
        label: stride === 1 ? "step" : "mean",
        color: "--series-time",
        steps: points.map((point) => point.last),
        values: points.map((point) => point.seconds),
        ...(stride === 1
          ? {}
          : {
              low: points.map((point) => point.seconds),
              high: points.map((point) => point.secondsMax),
            }),
      },
    ],
    ...(longest > top
      ? { top, note: `The longest step took ${formatSeconds(longest)}, beyond the chart.` }
      : { note: "" }),
  };
}

/** Room for all values but a few far beyond the others, which would press those flat: twice the 95th percentile. */
function usualTop(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  return 2 * (sorted[Math.ceil(0.95 * sorted.length) - 1] ?? 0);
}

function throughputChart({ points, batchSize }: ChartsData): ChartData {
  return {
    series: [
      {
        label: "samples/s",
        color: "--series-rate",
        steps: points.map((point) => point.last),
        values: points.map(({ seconds }) => (seconds > 0 ? batchSize / seconds : null)),
      },
    ],
    note: "",
  };
}

function gradNormChart({ points, stride }: ChartsData): ChartData {
  return {
    series: [
      {
        label: stride === 1 ? "norm" : `largest of ${stride} steps`,
        color: "--series-norm",
        steps: points.map((point) => point.last),
        values: points.map((point) => point.gradNorm),
      },
    ],
    note: "",
  };
}
