import type { PlannedCollectiveView, PlanView, ShardView } from "./api.ts";
import { el, panel, setText, table, type View } from "./dom.ts";
import { formatBytes, formatCount, plural } from "./format.ts";

/** What the compiler made of the job: what a rank holds, what it sends, and how parameters are split. */
export function planTables(): View<PlanView | undefined> {
  const summary = el("p", { class: "plan-summary" });
  const kinds = el("div", { class: "kinds" });
  const collectives = table("Collectives of a step", [
    { title: "Phase" },
    { title: "Collective" },
    { title: "Of" },
    { title: "Axis" },
    { title: "Times", numeric: true },
    { title: "Tensor", numeric: true },
    { title: "A rank sends", numeric: true },
  ]);
  const shards = table("Parameters", [
    { title: "Parameter" },
    { title: "Whole" },
    { title: "On a rank" },
    { title: "dp, tp" },
  ]);
  const { element } = panel(
    "Plan",
    "plan",
    summary,
    kinds,
    scrollable("Collectives of a step", collectives.element),
    scrollable("Parameters", shards.element),
  );
  let shown: PlanView | undefined;
  return {
    element,
    update(plan) {
      element.hidden = plan === undefined;
      if (plan === undefined || plan === shown) return;
      shown = plan;
      setText(
        summary,
        `${formatCount(plan.parameters)} parameters. Of every rank: ${formatBytes(plan.arenaBytes)} of memory, ` +
          `${formatBytes(plan.collectiveBytesPerStep)} sent a step.`,
      );
      kinds.replaceChildren(memoryByKind(plan));
      collectives.body.replaceChildren(
        ...(plan.collectives.length === 0
          ? [el("tr", {}, el("td", { colspan: 7 }, "none: no rank needs another's results"))]
          : plan.collectives.map(collectiveRow)),
      );
      shards.body.replaceChildren(...plan.shards.map(shardRow));
    },
  };
}

/** A wide table scrolls in a frame of its own, by keyboard too, and not the page. */
function scrollable(label: string, child: HTMLElement): HTMLElement {
  return el("div", { class: "scroll", role: "region", "aria-label": label, tabindex: "0" }, child);
}

function memoryByKind(plan: PlanView): HTMLElement {
  const kinds = Object.entries(plan.memoryByKind).filter(([, bytes]) => bytes > 0);
  const bar = el("div", { class: "kind-bar", "aria-hidden": "true" });
  const list = el("ul", { class: "kind-list", "aria-label": "Memory of a rank by kind" });
  for (const [index, [kind, bytes]] of kinds.entries()) {
    const part = el("span", { class: "kind-part", "data-kind": index % 6 });
    part.style.setProperty("--share", String(bytes / plan.arenaBytes));
    bar.append(part);
    const key = el("span", { class: "key", "data-kind": index % 6, "aria-hidden": "true" });
    list.append(el("li", {}, key, `${kind} ${formatBytes(bytes)}`));
  }
  return el("div", {}, bar, list);
}

function collectiveRow(c: PlannedCollectiveView): HTMLElement {
  const numeric = (text: string): HTMLElement => el("td", { class: "num" }, text);
  return el(
    "tr",
    {},
    el("td", {}, c.phase),
    el("th", { scope: "row" }, `${c.op}, ${c.algorithm}`),
    el("td", { class: "name" }, c.label),
    el("td", {}, c.axes.join(" \u00d7 ")),
    numeric(`\u00d7${formatCount(c.timesPerStep)}`),
    numeric(formatBytes(c.payloadBytes)),
    numeric(formatBytes(c.wireBytes * c.timesPerStep)),
  );
}

function shardRow({ name, count, globalShape, localShape, layout }: ShardView): HTMLElement {
  const many =
    count === 1 ? null : el("span", { class: "muted" }, ` ${plural(count, "parameter")}`);
  return el(
    "tr",
    {},
    el("th", { scope: "row", class: "name" }, name, many),
    el("td", { class: "shape" }, shapeText(globalShape)),
    el("td", { class: "shape" }, shapeText(localShape)),
    el("td", {}, layout.map(placementText).join(", ")),
  );
}

function shapeText(shape: readonly number[]): string {
  return `[${shape.map(String).join(", ")}]`;
}

/** `S0`: split along its first dimension; `R`: whole on every rank. */
function placementText(placement: string): string {
  return placement.replace(/^S(\d+)$/, "S($1)");
}
