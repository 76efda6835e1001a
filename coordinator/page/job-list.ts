import type { JobLine, JobStateName, OverviewView } from "./api.ts";
import { el, KeyedList, setAttributes, setText, type View } from "./dom.ts";
import { formatCount, formatLoss, plural } from "./format.ts";

/** A mark of its own for each state, so that colour does not tell it alone. */
const STATE_MARKS: Readonly<Record<JobStateName, string>> = {
  QUEUED: "\u25cc",
  STARTING: "\u25d4",
  RUNNING: "\u25b6",
  SUCCEEDED: "\u2713",
  FAILED: "\u2717",
  CANCELLED: "\u2013",
};

const GROUPS: readonly { readonly title: string; readonly states: readonly JobStateName[] }[] = [
  { title: "Running", states: ["RUNNING", "STARTING"] },
  { title: "Queued", states: ["QUEUED"] },
  { title: "Ended", states: ["SUCCEEDED", "FAILED", "CANCELLED"] },
];

export function stateBadge(): View<JobStateName> {
  const mark = el("span", { "aria-hidden": "true", class: "mark" });
  const name = el("span");
  const element = el("span", { class: "state" }, mark, name);
  return {
    element,
    update(state) {
      setAttributes(element, { "data-state": state });
      setText(mark, STATE_MARKS[state]);
      setText(name, state);
    },
  };
}

export function jobHref(jobId: string): string {
  return `#job=${encodeURIComponent(jobId)}`;
}

interface JobItem {
  readonly job: JobLine;
  readonly selected: boolean;
}

interface ShownJobs {
  readonly overview: OverviewView;
  readonly selected: string | undefined;
}

/** All jobs by state, as links that select one. */
export function jobList(): View<ShownJobs> {
  const groups = GROUPS.map(({ title, states }) => {
    const count = el("span", { class: "muted" });
    const list = el("ul", { class: "job-list" });
    const element = el(
      "section",
      { "aria-label": `${title} jobs` },
      el("h3", { class: "group" }, title, " ", count),
      list,
    );
    const items = new KeyedList<JobItem>(list, ({ job }) => job.jobId, jobItem);
    return { states, count, element, items };
  });
  const none = el(
    "div",
    { class: "empty" },
    el("p", {}, "No job yet. Submit one:"),
    el("pre", { class: "command", tabindex: "0" }),
  );
  const leftOut = el("p", { class: "muted small" });
  const element = el("div", {}, none, ...groups.map((group) => group.element), leftOut);
  let shownJob: string | undefined;
  return {
    element,
    update({ overview, selected }) {
      const { jobs, jobsByState, jobsLeftOut, grpcAddress } = overview;
      none.hidden = jobs.length > 0;
      const command = none.querySelector("pre");
      if (command) setText(command, `npx rankmesh job submit JOB.yaml --address ${grpcAddress}`);
      const focused = focusedJob(element);
      for (const group of groups) {
        const shown = jobs.filter((job) => group.states.includes(job.state));
        const total = group.states.reduce((sum, state) => sum + jobsByState[state], 0);
        group.element.hidden = total === 0;
        setText(group.count, formatCount(total));
        group.items.update(shown.map((job) => ({ job, selected: job.jobId === selected })));
      }
      refocus(element, focused);
      if (selected !== shownJob && scrollTo(linkOf(element, selected))) shownJob = selected;
      leftOut.hidden = jobsLeftOut === 0;
      setText(leftOut, `${plural(jobsLeftOut, "older job")} not listed`);
    },
  };
}

function focusedJob(list: Element): string | undefined {
  const { activeElement } = document;
  if (!(activeElement instanceof HTMLElement) || !list.contains(activeElement)) return undefined;
  return activeElement.dataset["job"];
}

/** A job that goes from one group to another gets another link: the focus goes along. */
function refocus(list: Element, jobId: string | undefined): void {
  if (jobId === undefined || list.contains(document.activeElement)) return;
  linkOf(list, jobId)?.focus({ preventScroll: true });
}

function linkOf(list: Element, jobId: string | undefined): HTMLElement | undefined {
  return [...list.querySelectorAll("a")].find((link) => link.dataset["job"] === jobId);
}

/** Moves the list, not the page, until the link is seen whole; false: there is none. */
function scrollTo(link: HTMLElement | undefined): boolean {
  const box = link?.closest("#jobs");
  if (!link || !box) return false;
  const { top, bottom } = link.getBoundingClientRect();
  const seen = box.getBoundingClientRect();
  if (top < seen.top) box.scrollTop -= seen.top - top;
  else if (bottom > seen.bottom) box.scrollTop += bottom - seen.bottom;
  return true;
}

function jobItem(): View<JobItem> {
  const badge = stateBadge();
  const name = el("span", { class: "job-name" });
  const detail = el("span", { class: "job-detail" });
  const bar = el("span", { class: "job-bar", "aria-hidden": "true" });
  const link = el("a", {}, name, badge.element, detail, bar);
  return {
    element: el("li", {}, link),
    update({ job, selected }) {
      setAttributes(link, {
        href: jobHref(job.jobId),
        "data-job": job.jobId,
        "aria-current": selected ? "true" : undefined,
        title: `${job.name} (${job.jobId})`,
      });
      setText(name, job.name);
      badge.update(job.state);
      setText(detail, detailOf(job));
      bar.style.setProperty("--done", String(job.steps === 0 ? 0 : job.stepsDone / job.steps));
      bar.hidden = job.state !== "RUNNING";
    },
  };
}

function detailOf(job: JobLine): string {
  if (job.state === "QUEUED") return job.reason;
  const steps = `${formatCount(job.stepsDone)}/${formatCount(job.steps)}`;
  const ranks =
    job.mesh === null
      ? ""
      : `${plural(job.mesh.dataParallel * job.mesh.tensorParallel, "rank")} \u00b7 `;
  return `${ranks}${steps}${job.stepsDone > 0 ? ` \u00b7 loss ${formatLoss(job.loss)}` : ""}`;
}
