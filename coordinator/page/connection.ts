import type { ClockView, HistoryView, JobView, OverviewView, RankView } from "./api.ts";

export type ConnectionState = "connecting" | "live" | "lost";

/** What the coordinator's stream tells, event by event. */
export interface StreamHandlers {
  readonly state: (state: ConnectionState) => void;
  /** The coordinator's clock, ahead of this machine's by so much. */
  readonly clockAhead: (ms: number) => void;
  readonly overview: (overview: OverviewView) => void;
  readonly job: (job: JobView) => void;
  readonly ranks: (ranks: { readonly jobId: string; readonly ranks: readonly RankView[] }) => void;
  /** All of a job's history: what was there before is void. */
  readonly history: (history: HistoryView) => void;
  /** What was added to it since. */
  readonly update: (history: HistoryView) => void;
  /** The coordinator knows no such job. */
  readonly gone: (jobId: string) => void;
}

/** After an answer that the browser does not try again by itself: too many open pages, or another server at the port. */
const RETRY_MS = 3_000;

/** The page's one connection. It is given up while the page is hidden, and comes back by itself. */
export class Connection {
  readonly #handlers: StreamHandlers;
  #jobId: string | undefined;
  #source: EventSource | undefined;
  #retry: ReturnType<typeof setTimeout> | undefined;

  constructor(handlers: StreamHandlers) {
    this.#handlers = handlers;
    document.addEventListener("visibilitychange", () => {
      if (document.hidden) this.#close();
      else if (this.#source === undefined) this.#open();
    });
  }

  /** Shows another job from now on; undefined: none. */
  show(jobId: string | undefined): void {
    if (this.#source !== undefined && jobId === this.#jobId) return;
    this.#jobId = jobId;
    this.#close();
    this.#open();
  }

  #close(): void {
    clearTimeout(this.#retry);
    this.#source?.close();
    this.#source = undefined;
  }

  #open(): void {
    const { state, gone, clockAhead, ...handlers } = this.#handlers;
    const query = this.#jobId === undefined ? "" : `?job=${encodeURIComponent(this.#jobId)}`;
    const source = new EventSource(`/api/v1/events${query}`);
    this.#source = source;
    const on = <T>(event: string, handle: (value: T) => void): void => {
      source.addEventListener(event, (message: MessageEvent<string>) => {
        if (this.#source === source) handle(JSON.parse(message.data) as T);
      });
    };
    on<ClockView>("clock", ({ now }) => clockAhead(Date.parse(now) - Date.now()));
    on("overview", handlers.overview);
    on("job", handlers.job);
    on("ranks", handlers.ranks);
    on("history", handlers.history);
    on("update", handlers.update);
    on<{ jobId: string }>("gone", ({ jobId }) => gone(jobId));
    source.addEventListener("open", () => state("live"));
    source.addEventListener("error", () => {
      if (this.#source !== source) return;
      state("lost");
      if (source.readyState !== EventSource.CLOSED) return;
      this.#close();
      this.#retry = setTimeout(() => this.#open(), RETRY_MS);
    });
  }
}
