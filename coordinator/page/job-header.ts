import type { ErrorView, JobView, RankView } from "./api.ts";
import { el, setAttributes, setText, type View } from "./dom.ts";
import {
  formatBytes,
  formatCount,
  formatDuration,
  formatLoss,
  formatPercent,
  formatRate,
  formatSeconds,
  formatTime,
  plural,
} from "./format.ts";
import { stateBadge } from "./job-list.ts";

export interface JobHeaderData {
  readonly job: JobView;
  readonly ranks: readonly RankView[];
  /** By the coordinator's clock. */
  readonly now: Date;
}

/** Name, state and progress of a job, what is wrong with it, and its figures of the moment. */
export function jobHeader(): View<JobHeaderData> {
  const title = el("h2", { class: "job-title" });
  const badge = stateBadge();
  const id = el("p", { class: "muted job-id" });
  const reason = el("p", { class: "notice" });
  const error = errorBanner();
  const waiting = el("p", { class: "notice warn" });
  const progress = el("progress", { max: 1, "aria-label": "steps done" });
  const steps = el("p", { class: "progress-text" });
  const time = el("p", { class: "progress-text muted" });
  const bar = el(
    "div",
    { class: "progress" },
    progress,
    el("div", { class: "progress-line" }, steps, time),
  );
  const figures = figureList();
  const notes = el("ul", { class: "notes" });
  const element = el(
    "header",
    { class: "job-head" },
    el("div", { class: "job-title-line" }, title, badge.element),
    id,
    error.element,
    reason,
    waiting,
    bar,
    figures.element,
    notes,
  );
  return {
    element,
    update(data) {
      const { job, now } = data;
      setText(title, job.name);
      setAttributes(title, { title: job.name });
      badge.update(job.state);
      const mesh =
        job.mesh === null
          ? ""
          : ` \u00b7 dataParallel ${job.mesh.dataParallel} \u00d7 tensorParallel ${job.mesh.tensorParallel}`;
      setText(id, `${job.jobId}${mesh} \u00b7 batch ${formatCount(job.batchSize)}`);
      error.update(job);
      const saysWhy = job.error === null && job.reason !== "" && job.state !== "RUNNING";
      reason.hidden = !saysWhy;
      setText(reason, saysWhy ? reasonText(job) : "");
      updateWaiting(waiting, data);
      bar.hidden = job.state === "QUEUED";
      progress.value = job.steps === 0 ? Number(job.endedAt !== null) : job.stepsDone / job.steps;
      setText(steps, `step ${formatCount(job.stepsDone)} of ${formatCount(job.steps)}`);
      setText(time, timeText(job, now));
      figures.update(data);
      updateNotes(notes, job.notes);
    },
  };
}

function reasonText(job: JobView): string {
  switch (job.state) {
    case "QUEUED":
      return `Waits: ${job.reason}`;
    case "STARTING":
      return `Starts: ${job.reason}`;
    default:
      return job.reason;
  }
}

function updateWaiting(element: HTMLElement, { job, ranks, now }: JobHeaderData): void {
  const { waitingFor, lastStepAt } = job;
  element.hidden = waitingFor.length === 0;
  const names = waitingFor.map((rank) => `rank ${rank} (${ranks[rank]?.worker ?? "?"})`);
  const since = lastStepAt === null ? 0 : (now.getTime() - Date.parse(lastStepAt)) / 1000;
  setText(
    element,
    `No step for ${formatDuration(since)}: the others wait for ${names.join(", ")}.`,
  );
}

function timeText(job: JobView, now: Date): string {
  if (job.startedAt === null) return "";
  const started = Date.parse(job.startedAt);
  const end = job.endedAt === null ? now.getTime() : Date.parse(job.endedAt);
  const ran = formatDuration((end - started) / 1000);
  if (job.endedAt !== null) return `ran ${ran}, ended ${formatTime(job.endedAt, now)}`;
  const left = (job.steps - job.stepsDone) * (job.stepSeconds ?? 0);
  return job.stepSeconds === null ? ran : `${ran} so far, about ${formatDuration(left)} to go`;
}

function errorBanner(): View<JobView> {
  const what = el("p", { class: "error-title" });
  const message = el("p", { class: "error-message" });
  const element = el("div", { class: "error-banner", role: "alert" });
  return {
    element,
    update({ error }) {
      element.hidden = error === null;
      if (error === null) {
        element.replaceChildren();
        return;
      }
      setText(what, errorTitle(error));
      setText(message, error.message);
      if (element.childElementCount === 0) element.append(what, message);
    },
  };
}

function errorTitle({ code, rank, worker, step }: ErrorView): string {
  const who = rank === null ? "" : ` \u00b7 rank ${rank}${worker === null ? "" : ` on ${worker}`}`;
  return `Failed${step === null ? "" : ` at step ${formatCount(step)}`}${who} \u00b7 ${code}`;
}

/** Figures of the moment: each with a name, and hidden while there is none. */
function figureList(): View<JobHeaderData> {
  const element = el("dl", { class: "figures" });
  const figures = FIGURES.map(({ name, value }) => {
    const text = el("dd");
    const more = el("dd", { class: "figure-more" });
    const figure = el("div", { class: "figure" }, el("dt", {}, name), text, more);
    element.append(figure);
    return { figure, text, more, value };
  });
  return {
    element,
    update(data) {
      for (const { figure, text, more, value } of figures) {
        const [main, detail = ""] = value(data) ?? [];
        figure.hidden = main === undefined;
        setText(text, main ?? "");
        setText(more, detail);
      }
    },
  };
}

const FIGURES: readonly {
  readonly name: string;
  /** Undefined: the job has no such figure. */
  readonly value: (data: JobHeaderData) => readonly [main: string, more?: string] | undefined;
}[] = [
  {
    name: "Loss",
    value: ({ job }) => (job.stepsDone === 0 ? undefined : [formatLoss(job.loss)]),
  },
  {
    name: "Held-out loss",
    value: ({ job: { evaluation } }) =>
      evaluation === null
        ? undefined
        : [formatLoss(evaluation.loss), `after step ${formatCount(evaluation.step)}`],
  },
  {
    name: "Gradient norm",
    value: ({ job }) => (job.gradNorm === null ? undefined : [formatLoss(job.gradNorm)]),
  },
  {
    name: "Step time",
    value: ({ job }) =>
      job.stepSeconds === null ? undefined : [formatSeconds(job.stepSeconds), "median of last 16"],
  },
  {
    name: "Samples/s",
    value: ({ job }) =>
      job.samplesPerSecond === null
        ? undefined
        : [
            formatRate(job.samplesPerSecond),
            job.tokensPerSecond === null ? "" : `${formatRate(job.tokensPerSecond)} tokens/s`,
          ],
  },
  {
    name: "Peak memory",
    value({ ranks }) {
      const peak = Math.max(0, ...ranks.map((rank) => rank.peakBytes));
      if (peak === 0) return undefined;
      const used = Math.max(
        0,
        ...ranks.map(({ peakBytes, limitBytes }) => (limitBytes > 0 ? peakBytes / limitBytes : 0)),
      );
      return [formatBytes(peak), used === 0 ? "of a rank" : `${formatPercent(used)} of its limit`];
    },
  },
  {
    name: "Ranks",
    value: ({ ranks }) =>
      ranks.length === 0
        ? undefined
        : [formatCount(ranks.length), [...new Set(ranks.map((rank) => rank.backend))].join(", ")],
  },
];

function updateNotes(list: HTMLElement, notes: readonly string[]): void {
  list.hidden = notes.length === 0;
  const key = JSON.stringify(notes);
  if (list.dataset["notes"] === key) return;
  setAttributes(list, { "aria-label": plural(notes.length, "note"), "data-notes": key });
  list.replaceChildren(...notes.map((note) => el("li", {}, note)));
}
