import type { EvaluationView } from "./api.ts";
import type { ChartsData } from "./charts.ts";
import { el, table, type View } from "./dom.ts";
import { formatCount, formatLoss, formatSeconds } from "./format.ts";
import type { StepPoint } from "./points.ts";

const LAST_POINTS = 20;

/** The last points of all charts as numbers, for those who would rather read them; made only while it is open. */
export function stepTable(): View<ChartsData> {
  const { element: steps, body } = table("The last steps, newest first", [
    { title: "Step", numeric: true },
    { title: "Loss", numeric: true },
    { title: "Held-out", numeric: true },
    { title: "Gradient norm", numeric: true },
    { title: "Step time", numeric: true },
  ]);
  const scroll = el(
    "div",
    { class: "scroll", role: "region", "aria-label": "The last steps", tabindex: "0" },
    steps,
  );
  const element = el(
    "details",
    { class: "panel steps" },
    el("summary", {}, "Steps as a table"),
    scroll,
  );
  let latest: ChartsData | undefined;
  const draw = (): void => {
    if (!element.open || latest === undefined) return;
    const { points, evaluations } = latest;
    body.replaceChildren(
      ...points
        .slice(-LAST_POINTS)
        .reverse()
        .map((point) => stepRow(point, evaluations)),
    );
  };
  element.addEventListener("toggle", draw);
  return {
    element,
    update(data) {
      element.hidden = data.points.length === 0;
      latest = data;
      draw();
    },
  };
}

function stepRow(point: StepPoint, evaluations: readonly EvaluationView[]): HTMLElement {
  const { first, last } = point;
  const cell = (text: string): HTMLElement => el("td", { class: "num" }, text);
  const steps =
    first === last ? formatCount(last) : `${formatCount(first)}\u2013${formatCount(last)}`;
  const heldOut = evaluations.findLast(({ step }) => step >= first && step <= last);
  return el(
    "tr",
    {},
    el("th", { scope: "row", class: "num" }, steps),
    cell(formatLoss(point.loss)),
    cell(heldOut === undefined ? "" : formatLoss(heldOut.loss)),
    cell(point.gradNorm === null ? "" : formatLoss(point.gradNorm)),
    cell(formatSeconds(point.seconds)),
  );
}
