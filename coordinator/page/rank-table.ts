import type { RankView } from "./api.ts";
import { el, KeyedList, panel, setAttributes, setText, table, type View } from "./dom.ts";
import { formatBytes, formatCount, formatPercent } from "./format.ts";
import { memoryLevel, usedShare } from "./memory.ts";
import { RANK_MARKS } from "./mesh-grid.ts";
import { deviceText } from "./worker-list.ts";

/** Rows drawn unless all are asked for: the grid above shows every rank. */
const FIRST_ROWS = 32;

/** Memory of every rank as bars: measured and predicted, on a scale that ends at the limit. */
export function rankTable(): View<readonly RankView[]> {
  const { element: ranksTable, body } = table("Memory of each rank at its peak", [
    { title: "Rank" },
    { title: "Worker" },
    { title: "Memory" },
  ]);
  const legend = el(
    "p",
    { class: "bar-legend", "aria-hidden": "true" },
    el("span", { class: "key key-measured" }),
    "measured",
    el("span", { class: "key key-predicted" }),
    "predicted",
    el("span", { class: "key key-limit" }),
    "limit",
  );
  const all = el("button", { type: "button", class: "more" });
  const { element, head } = panel("Memory by rank", "ranks", ranksTable, all);
  head.append(legend);
  const rows = new KeyedList<RankView>(body, ({ rank }) => String(rank), rankRow);
  let shown: readonly RankView[] = [];
  let showsAll = false;
  const draw = (): void => {
    rows.update(showsAll ? shown : shown.slice(0, FIRST_ROWS));
    all.hidden = showsAll || shown.length <= FIRST_ROWS;
    setText(all, `Show all ${formatCount(shown.length)} ranks`);
  };
  all.addEventListener("click", () => {
    showsAll = true;
    draw();
  });
  return {
    element,
    update(ranks) {
      element.hidden = ranks.length === 0;
      shown = ranks;
      draw();
    },
  };
}

function rankRow(): View<RankView> {
  const rankNumber = el("th", { scope: "row", class: "rank-number" });
  const worker = el("span", { class: "rank-worker" });
  const device = el("span", { class: "rank-device" });
  const mark = el("span", { class: "mark", "aria-hidden": "true" });
  const stateText = el("span");
  const state = el("span", { class: "state small" }, mark, stateText);
  const fill = el("span", { class: "bar-fill" });
  const tick = el("span", { class: "bar-tick" });
  const bar = el("span", { class: "bar", "aria-hidden": "true" }, fill, tick);
  const text = el("span", { class: "bar-text" });
  const element = el(
    "tr",
    {},
    rankNumber,
    el("td", { class: "rank-who" }, el("span", { class: "rank-name" }, worker, state), device),
    el("td", { class: "rank-memory" }, text, bar),
  );
  return {
    element,
    update(rank) {
      const { peakBytes, predictedPeakBytes, limitBytes } = rank;
      setText(rankNumber, String(rank.rank));
      setAttributes(rankNumber, { title: `dp ${rank.dataParallel}, tp ${rank.tensorParallel}` });
      setText(worker, rank.worker);
      setText(device, deviceText(rank));
      setAttributes(device, { title: deviceText(rank) });
      setAttributes(state, { "data-state": rank.state });
      setText(mark, RANK_MARKS[rank.state]);
      setText(stateText, rank.state);
      const full = Math.max(limitBytes, predictedPeakBytes, peakBytes, 1);
      fill.style.setProperty("--share", String(peakBytes / full));
      tick.style.setProperty("--share", String(predictedPeakBytes / full));
      const share = usedShare(rank);
      setAttributes(bar, {
        "data-level": memoryLevel(share) ?? "none",
        "data-limit": limitBytes > 0 ? "known" : "unknown",
      });
      setText(text, memoryText(rank, share));
    },
  };
}

function memoryText(rank: RankView, share: number | undefined): string {
  const { peakBytes, predictedPeakBytes, limitBytes, rssBytes } = rank;
  const measured =
    peakBytes === 0
      ? `predicted ${formatBytes(predictedPeakBytes)}, not measured yet`
      : peakBytes === predictedPeakBytes
        ? `${formatBytes(peakBytes)} measured, as predicted to the byte`
        : `${formatBytes(peakBytes)} measured, predicted ${formatBytes(predictedPeakBytes)}`;
  const limit =
    limitBytes === 0
      ? "no limit named"
      : `limit ${formatBytes(limitBytes)}${share === undefined ? "" : ` (${formatPercent(share)} used)`}`;
  const resident = rssBytes > 0 ? ` \u00b7 process ${formatBytes(rssBytes)}` : "";
  return `${measured} \u00b7 ${limit}${resident}`;
}
