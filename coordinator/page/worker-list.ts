import type { OverviewView, WorkerLine } from "./api.ts";
import { el, KeyedList, setAttributes, setText, type View } from "./dom.ts";
import { formatBytes, plural } from "./format.ts";
import { jobHref } from "./job-list.ts";

const MARKS: Readonly<Record<WorkerLine["state"], string>> = {
  idle: "\u25cb",
  busy: "\u25cf",
  lost: "\u2717",
};

export function workerList(): View<OverviewView> {
  const none = el(
    "div",
    { class: "empty" },
    el("p", {}, "No worker is here. Start one on each device:"),
    el("pre", { class: "command", tabindex: "0" }),
  );
  const list = el("ul", { class: "worker-list" });
  const leftOut = el("p", { class: "muted small" });
  const items = new KeyedList<WorkerLine>(list, ({ name }) => name, workerItem);
  return {
    element: el("div", {}, none, list, leftOut),
    update({ workers, workersLeftOut, grpcAddress }) {
      none.hidden = workers.length > 0;
      const command = none.querySelector("pre");
      if (command) setText(command, `npx rankmesh worker --coordinator ${grpcAddress}`);
      items.update(workers);
      leftOut.hidden = workersLeftOut === 0;
      setText(leftOut, `${plural(workersLeftOut, "more worker")} not listed`);
    },
  };
}

function workerItem(): View<WorkerLine> {
  const mark = el("span", { "aria-hidden": "true", class: "mark" });
  const state = el("span");
  const badge = el("span", { class: "state small" }, mark, state);
  const name = el("span", { class: "worker-name" });
  const device = el("span", { class: "worker-detail" });
  const serves = el("a");
  const lost = el("span", { class: "worker-lost" });
  const element = el("li", {}, name, badge, device, serves, lost);
  return {
    element,
    update(worker) {
      setText(name, worker.name);
      setAttributes(element, {
        title: [deviceText(worker), worker.backendReason].filter(Boolean).join("; "),
      });
      setAttributes(badge, { "data-state": worker.state });
      setText(mark, MARKS[worker.state]);
      setText(state, worker.state);
      const limit = worker.memoryLimitBytes;
      setText(
        device,
        [deviceText(worker), limit > 0 ? formatBytes(limit) : ""].filter(Boolean).join(" \u00b7 "),
      );
      serves.hidden = worker.jobId === null;
      setAttributes(serves, { href: worker.jobId === null ? undefined : jobHref(worker.jobId) });
      setText(serves, worker.rank === null ? "" : `rank ${worker.rank}`);
      lost.hidden = worker.lostReason === null;
      setText(lost, worker.lostReason ?? "");
    },
  };
}

/** Backend and device, said once where the device's name begins with the backend's. */
export function deviceText({
  backend,
  device,
}: {
  readonly backend: string;
  readonly device: string;
}): string {
  if (device === "" || device === backend) return backend;
  return device.startsWith(backend) ? device : `${backend} \u00b7 ${device}`;
}
