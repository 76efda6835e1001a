import type { JobLine, JobStateName, OverviewView, PlanView } from "./api.ts";
import { charts } from "./charts.ts";
import { Connection, type ConnectionState } from "./connection.ts";
import { byId, el, setAttributes, setText } from "./dom.ts";
import { eventList } from "./event-list.ts";
import { formatTime } from "./format.ts";
import { jobHeader } from "./job-header.ts";
import { jobList } from "./job-list.ts";
import { meshGrid } from "./mesh-grid.ts";
import { JobModel } from "./model.ts";
import { planTables } from "./plan-tables.ts";
import { rankTable } from "./rank-table.ts";
import { stepTable } from "./step-table.ts";
import { workerList } from "./worker-list.ts";

/** Redraws of what tells the time. */
const CLOCK_MS = 1_000;

/** The page: what the stream tells goes into a few fields, and once a frame what changed is drawn from them. */
class Page {
  readonly #connection: Connection;
  readonly #jobs = jobList();
  readonly #workers = workerList();
  readonly #header = jobHeader();
  readonly #charts = charts();
  readonly #mesh = meshGrid();
  readonly #ranks = rankTable();
  readonly #steps = stepTable();
  readonly #plan = planTables();
  readonly #events = eventList();
  readonly #message = el("div", { class: "panel empty-job" });
  readonly #details: HTMLElement;
  #overview: OverviewView | undefined;
  #model: JobModel | undefined;
  /** The job that the coordinator said it does not know. */
  #gone: string | undefined;
  #frame: number | undefined;
  #lostSince: Date | undefined;
  #announced = "";
  #clockAheadMs = 0;

  constructor() {
    this.#details = el(
      "div",
      { class: "job" },
      this.#header.element,
      this.#charts.element,
      this.#mesh.element,
      this.#ranks.element,
      this.#plan.element,
      this.#events.element,
      this.#steps.element,
    );
    byId("jobs").append(this.#jobs.element);
    byId("workers").append(this.#workers.element);
    byId("job").append(this.#message, this.#details);
    this.#connection = new Connection({
      state: (state) => this.#connected(state),
      clockAhead: (ms) => {
        this.#clockAheadMs = ms;
      },
      overview: (overview) => this.#hear(() => this.#takeOverview(overview)),
      job: (job) =>
        this.#hear(() => {
          const model = this.#modelOf(job.jobId);
          if (model === undefined) return;
          const before = model.job;
          model.job = job;
          // The mesh, and with it the plan, is settled when the job starts.
          if (before === undefined || before.state !== job.state) this.#fetchPlan(model);
        }),
      ranks: ({ jobId, ranks }) =>
        this.#hear(() => {
          const model = this.#modelOf(jobId);
          if (model !== undefined) model.ranks = ranks;
        }),
      history: (history) => this.#hear(() => this.#modelOf(history.jobId)?.replace(history)),
      update: (history) => this.#hear(() => this.#modelOf(history.jobId)?.extend(history)),
      gone: (jobId) =>
        this.#hear(() => {
          this.#gone = jobId;
        }),
    });
    addEventListener("hashchange", () => this.#select());
    setInterval(() => this.#draw(), CLOCK_MS);
    this.#select();
  }

  /** The job that the address names; undefined: the newest one is followed. */
  get #pinned(): string | undefined {
    const { hash } = location;
    if (!hash.startsWith("#job=")) return undefined;
    try {
      return decodeURIComponent(hash.slice("#job=".length));
    } catch {
      return undefined;
    }
  }

  #select(): void {
    const jobId = this.#pinned ?? newestJob(this.#overview?.jobs ?? []);
    if (jobId !== this.#model?.jobId) {
      this.#model = jobId === undefined ? undefined : new JobModel(jobId);
      this.#gone = undefined;
    }
    this.#connection.show(jobId);
    this.#draw();
  }

  #takeOverview(overview: OverviewView): void {
    this.#overview = overview;
    if (this.#pinned === undefined) {
      const newest = newestJob(overview.jobs);
      if (newest !== this.#model?.jobId) this.#select();
    }
  }

  #modelOf(jobId: string): JobModel | undefined {
    return this.#model?.jobId === jobId ? this.#model : undefined;
  }

  #hear(change: () => void): void {
    change();
    this.#draw();
  }

  #fetchPlan(model: JobModel): void {
    const load = async (): Promise<void> => {
      const response = await fetch(`/api/v1/jobs/${encodeURIComponent(model.jobId)}/plan`);
      if (!response.ok) return;
      const plan = (await response.json()) as PlanView;
      this.#hear(() => {
        model.plan = plan;
      });
    };
    // A plan that cannot be had now comes with the next connection.
    load().catch(() => undefined);
  }

  #connected(state: ConnectionState): void {
    if (state === "lost") this.#lostSince ??= new Date();
    else this.#lostSince = undefined;
    if (state === "live") this.#gone = undefined;
    setAttributes(byId("connection"), { "data-state": state });
    this.#draw();
  }

  /** Draws at the next frame, once for all that has changed by then. */
  #draw(): void {
    this.#frame ??= requestAnimationFrame(() => {
      this.#frame = undefined;
      this.#drawNow();
    });
  }

  #drawNow(): void {
    const overview = this.#overview;
    const now = new Date();
    this.#drawConnection(now);
    const model = this.#model;
    const follows = this.#pinned === undefined;
    setAttributes(byId("follow"), { "aria-current": follows ? "true" : undefined });
    setText(byId("follow"), follows ? "following the newest" : "follow the newest");
    if (overview !== undefined) {
      this.#jobs.update({ overview, selected: model?.jobId });
      this.#workers.update(overview);
      setText(
        byId("coordinator"),
        `coordinator ${overview.grpcAddress} \u00b7 ${overview.version}`,
      );
      const live = overview.workers.filter(({ state }) => state !== "lost").length;
      const idle = overview.workers.filter(({ state }) => state === "idle").length;
      setText(
        byId("workers-count"),
        overview.workers.length === 0 ? "" : `${live} here, ${idle} idle`,
      );
    }
    const job = this.#gone === model?.jobId ? undefined : model?.job;
    this.#details.hidden = job === undefined;
    this.#message.hidden = job !== undefined;
    setText(this.#message, this.#messageText());
    if (model === undefined || job === undefined) {
      document.title = "rankmesh";
      return;
    }
    const { ranks, points, evaluations, notes, plan } = model;
    this.#header.update({ job, ranks, now: new Date(now.getTime() + this.#clockAheadMs) });
    const chartsData = {
      points: points.all,
      stride: points.stride,
      evaluations,
      batchSize: job.batchSize,
    };
    this.#charts.update(chartsData);
    this.#steps.update(chartsData);
    this.#mesh.update({ mesh: job.mesh, ranks });
    this.#ranks.update(ranks);
    this.#plan.update(plan);
    this.#events.update(notes);
    document.title = `${titleMark(job)} ${job.name} \u00b7 rankmesh`;
    this.#announce(
      `Job ${job.name}: ${job.state}${job.error === null ? "" : `. ${job.error.message}`}`,
    );
  }

  #drawConnection(now: Date): void {
    const element = byId("connection");
    const since = this.#lostSince;
    const isLost = since !== undefined;
    document.body.classList.toggle("stale", isLost);
    setText(
      element,
      isLost
        ? `no connection since ${formatTime(since.toISOString(), now)}; trying again`
        : this.#overview === undefined
          ? "connecting"
          : "live",
    );
  }

  #messageText(): string {
    if (this.#gone !== undefined) {
      return `This coordinator knows no job ${this.#gone}: it was restarted, or has forgotten it among many newer ones.`;
    }
    if (this.#overview === undefined) return "Waiting for the coordinator.";
    if (this.#model === undefined) return "No job yet. The first one shows up here by itself.";
    return "Loading.";
  }

  /** For screen readers: what state the job is in, said once. */
  #announce(text: string): void {
    if (text === this.#announced) return;
    this.#announced = text;
    setText(byId("announcement"), text);
  }
}

/** The newest job that runs; else the newest that waits or has ended. `jobs` are newest first. */
function newestJob(jobs: readonly JobLine[]): string | undefined {
  const active: readonly JobStateName[] = ["RUNNING", "STARTING"];
  return (jobs.find(({ state }) => active.includes(state)) ?? jobs[0])?.jobId;
}

function titleMark({ state, steps, stepsDone }: JobLine): string {
  if (state !== "RUNNING") return state;
  return steps === 0 ? "" : `${Math.floor((stepsDone / steps) * 100)}%`;
}

new Page();
