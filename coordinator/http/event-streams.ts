import type { IncomingMessage, ServerResponse } from "node:http";
import type { Job } from "../job/job.ts";
import type { JobHistory } from "./job-history.ts";
import type { Snapshots } from "./snapshots.ts";

/** How often open pages are told what is new, unless that takes so long that it would hold up the ranks. */
const TICK_MS = 250;
const MAX_TICK_MS = 1_500;
/** Pauses between rounds, as multiples of what a round took: pages get a small part of the process's time. */
const REST_FACTOR = 24;
const FOLLOW_REST_FACTOR = 3;
/** Events of a job's log taken in at once: some milliseconds of work. */
export const FOLLOW_EVENTS = 5_000;
/** A page that missed more events gets the job's whole history instead of what it missed. */
const MAX_CATCH_UP_EVENTS = 2_000;
/** A comment keeps proxies from closing a stream on which nothing happens. */
const KEEP_ALIVE_MS = 10_000;

export interface EventStreamLimits {
  /** Open streams; more are refused with 503. */
  readonly maxStreams: number;
  /** A client that has not read what it was sent for this long is cut off. */
  readonly slowMs: number;
}

export const STREAM_LIMITS: EventStreamLimits = { maxStreams: 100, slowMs: 15_000 };

/** What streams tell of. */
export type StreamSource = Pick<
  Snapshots,
  "instance" | "now" | "overview" | "job" | "history" | "jobView" | "rankViews"
>;

interface Stream {
  readonly response: ServerResponse;
  /** The job that it shows beside the overview. */
  readonly jobId: string | undefined;
  /** Last event of the job's log that it was sent; undefined: it was sent none. */
  cursor: number | undefined;
  /** What it was sent last, by event name. */
  readonly sent: Map<string, string>;
  lastWriteMs: number;
  /** Since when what it was sent waits to be read. */
  blockedSinceMs: number | undefined;
}

/**
 * Server-sent events to open pages: `clock` first, then `overview`, and of one job `job`, `ranks`, `history` and `update`. Each is sent when it
 * differs from what was sent before. All streams are written on one timer, and what is alike for several is made once.
 *
 * Nothing is queued for a client: while it has not read what it was sent, it is sent nothing, and afterwards what is then
 * current. So a client costs one round of messages at most, however slow it is.
 */
export class EventStreams {
  readonly #snapshots: StreamSource;
  readonly #limits: EventStreamLimits;
  readonly #streams = new Set<Stream>();
  #timer: NodeJS.Timeout | undefined;
  #closed = false;

  constructor(snapshots: StreamSource, limits: EventStreamLimits = STREAM_LIMITS) {
    this.#snapshots = snapshots;
    this.#limits = limits;
  }

  get size(): number {
    return this.#streams.size;
  }

  /** Whether another stream may open. */
  get hasRoom(): boolean {
    return !this.#closed && this.#streams.size < this.#limits.maxStreams;
  }

  /** Answers with a stream. A `Last-Event-ID` of this coordinator continues after that event. */
  open(request: IncomingMessage, response: ServerResponse, jobId: string | undefined): void {
    const stream: Stream = {
      response,
      jobId,
      cursor: this.#resumeAfter(request.headers["last-event-id"]),
      sent: new Map(),
      lastWriteMs: performance.now(),
      blockedSinceMs: undefined,
    };
    response.on("close", () => this.#streams.delete(stream));
    response.on("error", () => this.#streams.delete(stream));
    response.writeHead(200, {
      "content-type": "text/event-stream; charset=utf-8",
      "cache-control": "no-store",
      "x-accel-buffering": "no",
    });
    response.write(`retry: 1000\n\n${eventText("clock", JSON.stringify(this.#snapshots.now()))}`);
    this.#streams.add(stream);
    this.#arm(0);
  }

  close(): void {
    this.#closed = true;
    clearTimeout(this.#timer);
    for (const { response } of this.#streams) response.end();
    this.#streams.clear();
  }

  #resumeAfter(lastEventId: string | string[] | undefined): number | undefined {
    const [instance, id] = String(lastEventId ?? "").split(".");
    const known = instance === this.#snapshots.instance && /^\d{1,15}$/.test(id ?? "");
    return known ? Number(id) : undefined;
  }

  #arm(ms: number): void {
    if (this.#closed || this.#streams.size === 0) return;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#tick(), ms).unref();
  }

  #tick(): void {
    const nowMs = performance.now();
    const watched = new Map<string, WatchedJob | undefined>();
    const encoded = new Map<string, Buffer>();
    let overview: string | undefined;
    let complete = true;
    for (const stream of this.#streams) {
      if (!this.#isReading(stream, nowMs)) continue;
      overview ??= JSON.stringify(this.#snapshots.overview());
      const messages: string[] = [];
      this.#ifNew(stream, messages, "overview", overview);
      const { jobId } = stream;
      if (jobId !== undefined) {
        if (!watched.has(jobId)) watched.set(jobId, this.#watch(jobId));
        const job = watched.get(jobId);
        if (job === undefined) {
          this.#ifNew(stream, messages, "gone", JSON.stringify({ jobId }));
        } else if (job.complete) {
          this.#ifNew(stream, messages, "job", job.job);
          this.#ifNew(stream, messages, "ranks", job.ranks);
          this.#historyOf(stream, messages, job);
        } else complete = false;
      }
      if (messages.length === 0 && nowMs - stream.lastWriteMs > KEEP_ALIVE_MS)
        messages.push(":\n\n");
      if (messages.length === 0) continue;
      const text = messages.join("");
      let bytes = encoded.get(text);
      if (bytes === undefined) {
        bytes = Buffer.from(text);
        encoded.set(text, bytes);
      }
      stream.response.write(bytes);
      stream.lastWriteMs = nowMs;
    }
    const tookMs = performance.now() - nowMs;
    // A long log is taken in piece by piece, with the rest of the process in between.
    this.#arm(
      complete
        ? Math.min(Math.max(TICK_MS, tookMs * REST_FACTOR), MAX_TICK_MS)
        : tookMs * FOLLOW_REST_FACTOR,
    );
  }

  /** Whether a client has read what it was sent. One that does not for too long is cut off. */
  #isReading(stream: Stream, nowMs: number): boolean {
    const { response } = stream;
    if (response.destroyed || response.writableEnded) {
      this.#streams.delete(stream);
      return false;
    }
    if (response.writableLength === 0) {
      stream.blockedSinceMs = undefined;
      return true;
    }
    stream.blockedSinceMs ??= nowMs;
    if (nowMs - stream.blockedSinceMs > this.#limits.slowMs) {
      this.#streams.delete(stream);
      response.destroy();
    }
    return false;
  }

  #watch(jobId: string): WatchedJob | undefined {
    const job = this.#snapshots.job(jobId);
    return job === undefined ? undefined : new WatchedJob(job, this.#snapshots);
  }

  #ifNew(stream: Stream, messages: string[], event: string, data: string): void {
    if (stream.sent.get(event) === data) return;
    stream.sent.set(event, data);
    messages.push(eventText(event, data));
  }

  #historyOf(stream: Stream, messages: string[], { history, whole, since }: WatchedJob): void {
    const { lastId } = history;
    const { cursor } = stream;
    if (cursor === lastId) return;
    const id = `${this.#snapshots.instance}.${lastId}`;
    const isUpdate =
      cursor !== undefined && cursor < lastId && lastId - cursor <= MAX_CATCH_UP_EVENTS;
    const [event, data] = isUpdate ? ["update", since(cursor)] : ["history", whole()];
    messages.push(`id: ${id}\n${eventText(event, data)}`);
    stream.cursor = lastId;
  }
}

/** @param data JSON, and so without line ends */
function eventText(event: string, data: string): string {
  return `event: ${event}\ndata: ${data}\n\n`;
}

/** What streams of one job are sent in one round, made once. */
class WatchedJob {
  readonly history: JobHistory;
  /** Whether all of its log was taken in. */
  readonly complete: boolean;
  readonly job: string;
  readonly ranks: string;
  readonly whole: () => string;
  readonly since: (afterId: number) => string;

  constructor(job: Job, snapshots: StreamSource) {
    const history = snapshots.history(job);
    this.history = history;
    this.complete = history.follow(FOLLOW_EVENTS);
    const view = this.complete ? snapshots.jobView(job) : undefined;
    this.job = JSON.stringify(view ?? null);
    this.ranks = JSON.stringify({
      jobId: job.jobId,
      ranks: view === undefined ? [] : snapshots.rankViews(job, view),
    });
    let whole: string | undefined;
    this.whole = () => {
      whole ??= JSON.stringify(history.view());
      return whole;
    };
    const updates = new Map<number, string>();
    this.since = (afterId) => {
      const update = updates.get(afterId) ?? JSON.stringify(history.since(afterId));
      updates.set(afterId, update);
      return update;
    };
  }
}
