import type { MeshView, RankView } from "./api.ts";
import { el, panel, setAttributes, setText, type View } from "./dom.ts";
import { formatBytes, formatPercent } from "./format.ts";
import { MEMORY_SCALE, memoryLevel, usedShare } from "./memory.ts";
import { deviceText } from "./worker-list.ts";

/** Beyond this many columns a cell shows its rank and a share alone. */
const ROOMY_COLUMNS = 8;

/** Marks of what is not plain running; words stand in the cell's text for those who do not see them. */
export const RANK_MARKS: Readonly<Record<RankView["state"], string>> = {
  starting: "\u25d4",
  running: "\u25b6",
  done: "\u2713",
  stopped: "\u2013",
  "waited for": "\u23f3",
  lost: "\u2717",
  failed: "\u2717",
};

export interface MeshData {
  readonly mesh: MeshView | null;
  readonly ranks: readonly RankView[];
}

/** The mesh as a grid, a row for each data-parallel coordinate, every rank coloured by the memory it has used. */
export function meshGrid(): View<MeshData> {
  const grid = el("div", { class: "mesh-wrap" });
  const scale = el(
    "ul",
    { class: "scale", "aria-label": "Colours: peak memory of a rank's limit" },
    ...MEMORY_SCALE.map(({ label }, level) =>
      el(
        "li",
        {},
        el("span", { class: "swatch", "data-level": level, "aria-hidden": "true" }),
        label,
      ),
    ),
  );
  const { element, head } = panel("Mesh", "mesh", grid);
  head.append(scale);
  let shape = "";
  let cells: View<RankView>[] = [];
  return {
    element,
    update({ mesh, ranks }) {
      element.hidden = mesh === null || ranks.length === 0;
      if (mesh === null) return;
      const wanted = `${mesh.dataParallel}x${mesh.tensorParallel}`;
      if (wanted !== shape) {
        shape = wanted;
        cells = ranks.map(() => rankCell());
        grid.replaceChildren(gridTable(mesh, cells));
        // A wide one scrolls in its frame, by keyboard too.
        const wide = mesh.tensorParallel > ROOMY_COLUMNS;
        setAttributes(grid, {
          role: wide ? "region" : undefined,
          "aria-label": wide ? "Ranks of the mesh" : undefined,
          tabindex: wide ? 0 : undefined,
        });
      }
      ranks.forEach((rank, index) => {
        cells[index]?.update(rank);
      });
    },
  };
}

function gridTable(mesh: MeshView, cells: readonly View<RankView>[]): HTMLElement {
  const { dataParallel, tensorParallel } = mesh;
  const columns = Array.from({ length: tensorParallel }, (_, tp) => tp);
  const rows = Array.from({ length: dataParallel }, (_, dp) =>
    el(
      "tr",
      {},
      el("th", { scope: "row" }, axisLabel("dp", "dataParallel", dp)),
      ...columns.flatMap((tp) => cells[dp * tensorParallel + tp]?.element ?? []),
    ),
  );
  const grid = el(
    "table",
    { class: tensorParallel > ROOMY_COLUMNS ? "grid dense" : "grid" },
    el(
      "caption",
      { class: "visually-hidden" },
      `Ranks of the mesh: ${dataParallel} rows along dataParallel, ${tensorParallel} columns along tensorParallel`,
    ),
    el(
      "thead",
      {},
      el(
        "tr",
        {},
        el("td"),
        ...columns.map((tp) => el("th", { scope: "col" }, axisLabel("tp", "tensorParallel", tp))),
      ),
    ),
    el("tbody", {}, ...rows),
  );
  grid.style.setProperty("--columns", String(tensorParallel));
  return grid;
}

function axisLabel(short: string, long: string, index: number): HTMLElement {
  return el("abbr", { title: `${long} ${index}` }, `${short} ${index}`);
}

function rankCell(): View<RankView> {
  const mark = el("span", { class: "cell-mark", "aria-hidden": "true" });
  const rankNumber = el("span", { class: "cell-rank" });
  const used = el("span", { class: "cell-used" });
  const bytes = el("span", { class: "cell-bytes" });
  const worker = el("span", { class: "cell-worker" });
  const device = el("span", { class: "cell-device" });
  const state = el("span", { class: "cell-state" });
  const inner = el(
    "div",
    { class: "cell" },
    el("span", { class: "cell-top" }, rankNumber, mark),
    used,
    bytes,
    worker,
    device,
    state,
  );
  const element = el("td", {}, inner);
  return {
    element,
    update(rank) {
      const share = usedShare(rank);
      setAttributes(inner, {
        "data-level": memoryLevel(share) ?? "none",
        "data-state": rank.state,
        title: describe(rank),
      });
      setText(mark, RANK_MARKS[rank.state]);
      setText(rankNumber, String(rank.rank));
      setText(used, share === undefined ? "\u2013" : formatPercent(share));
      setText(bytes, rank.peakBytes > 0 ? formatBytes(rank.peakBytes) : "not measured yet");
      setText(worker, rank.worker);
      setText(device, deviceText(rank));
      setText(state, rank.state);
    },
  };
}

function describe(rank: RankView): string {
  const { worker, state, peakBytes, limitBytes } = rank;
  const memory = peakBytes > 0 ? `peak ${formatBytes(peakBytes)}` : "memory not measured yet";
  const limit = limitBytes > 0 ? ` of ${formatBytes(limitBytes)}` : "";
  return `rank ${rank.rank}: ${worker}, ${deviceText(rank)}, ${state}, ${memory}${limit}`;
}
