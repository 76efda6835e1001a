import { AlreadyExistsError } from "../../shared/errors.ts";
import type { SchedulableWorker } from "./scheduler.ts";

/** What a worker says about itself when it joins. */
export interface WorkerInfo extends SchedulableWorker {
  /** host:port at which peers and the coordinator reach it. */
  readonly address: string;
  /** host:port of its metrics; empty when off. */
  readonly httpAddress: string;
  readonly device: string;
  /** Why it is this backend; empty: it did not say. */
  readonly backendReason: string;
  readonly version: string;
  /** NCCL that its device can exchange over; undefined: it cannot. */
  readonly ncclVersion?: string | undefined;
  /** `GPU-...` */
  readonly deviceUuid?: string | undefined;
}

/** The rank that a worker serves. */
export interface Assignment {
  readonly jobId: string;
  readonly generation: number;
  readonly rank: number;
}

export type WorkerState = "idle" | "busy" | "lost";

export interface WorkerView extends WorkerInfo {
  readonly state: WorkerState;
  /** Why it is lost; undefined when it is not. */
  readonly lostReason: string | undefined;
  readonly assignment: Assignment | undefined;
  readonly heartbeatAgeMs: number;
}

interface Entry {
  readonly info: WorkerInfo;
  /** The session that speaks for it. A later worker of the same name has another one. */
  readonly sessionId: number;
  assignment: Assignment | undefined;
  lastHeartbeatMs: number;
  lostMs: number | undefined;
  lostReason: string | undefined;
  /** Shuts down: still connected, but takes nothing more. */
  leaving: boolean;
}

/**
 * Who is there, who serves what, and whose lease has run out. Pure: times are passed in, on a monotonic clock.
 *
 * Invariant: a name belongs to at most one live session, and a worker serves at most one rank.
 */
export class WorkerRegistry {
  readonly #leaseMs: number;
  readonly #rememberLostMs: number;
  readonly #workers = new Map<string, Entry>();

  /**
   * @param options.leaseMs a worker silent for longer is lost
   * @param options.rememberLostMs how long a lost worker stays in the list, for people to see
   */
  constructor(options: { leaseMs: number; rememberLostMs: number }) {
    this.#leaseMs = options.leaseMs;
    this.#rememberLostMs = options.rememberLostMs;
  }

  /** @throws AlreadyExistsError when a live worker has this name */
  register(info: WorkerInfo, sessionId: number, nowMs: number): void {
    const present = this.#workers.get(info.name);
    if (present !== undefined && present.lostMs === undefined) {
      throw new AlreadyExistsError(
        `worker name ${JSON.stringify(info.name)} is taken by the worker at ${present.info.address}; ` +
          "give each worker a --name of its own",
      );
    }
    this.#workers.set(info.name, {
      info,
      sessionId,
      assignment: undefined,
      lastHeartbeatMs: nowMs,
      lostMs: undefined,
      lostReason: undefined,
      leaving: false,
    });
  }

  heartbeat(name: string, sessionId: number, nowMs: number): void {
    const entry = this.#live(name, sessionId);
    if (entry !== undefined) entry.lastHeartbeatMs = nowMs;
  }

  /** Marks a worker as lost and returns what it was serving. Nothing happens for a session that is not its current one. */
  lose(name: string, sessionId: number, nowMs: number, why: string): Assignment | undefined {
    const entry = this.#live(name, sessionId);
    if (entry === undefined) return undefined;
    entry.lostMs = nowMs;
    entry.lostReason = why;
    const { assignment } = entry;
    entry.assignment = undefined;
    return assignment;
  }

  /** Gives a worker nothing more, as it is about to leave, and returns what it was serving. */
  retire(name: string, sessionId: number): Assignment | undefined {
    const entry = this.#live(name, sessionId);
    if (entry === undefined) return undefined;
    entry.leaving = true;
    const { assignment } = entry;
    entry.assignment = undefined;
    return assignment;
  }

  /** Forgets a worker that left in good order and returns what it was serving. */
  leave(name: string, sessionId: number): Assignment | undefined {
    const entry = this.#live(name, sessionId);
    if (entry === undefined) return undefined;
    this.#workers.delete(name);
    return entry.assignment;
  }

  /** Binds an idle live worker to a rank; false when it is not one. */
  assign(name: string, assignment: Assignment): boolean {
    const entry = this.#workers.get(name);
    if (entry === undefined || !isPlaceable(entry) || entry.assignment !== undefined) return false;
    entry.assignment = assignment;
    return true;
  }

  /** Frees a worker from this generation of this job; false when it serves another one or none. */
  free(name: string, jobId: string, generation: number): boolean {
    const entry = this.#workers.get(name);
    const assignment = entry?.assignment;
    if (entry === undefined || assignment?.jobId !== jobId || assignment.generation !== generation)
      return false;
    entry.assignment = undefined;
    return true;
  }

  /** Live workers whose lease has run out at `nowMs`. */
  expired(
    nowMs: number,
  ): { readonly name: string; readonly sessionId: number; readonly silentMs: number }[] {
    return [...this.#workers.values()]
      .filter(
        (entry) => entry.lostMs === undefined && nowMs - entry.lastHeartbeatMs > this.#leaseMs,
      )
      .map((entry) => ({
        name: entry.info.name,
        sessionId: entry.sessionId,
        silentMs: nowMs - entry.lastHeartbeatMs,
      }));
  }

  /** Drops workers that have been lost for long enough and returns their names. */
  forgetLost(nowMs: number): string[] {
    const old = [...this.#workers].filter(
      ([, entry]) => entry.lostMs !== undefined && nowMs - entry.lostMs > this.#rememberLostMs,
    );
    for (const [name] of old) this.#workers.delete(name);
    return old.map(([name]) => name);
  }

  /** The live worker of this name and the session that speaks for it. */
  find(name: string):
    | {
        readonly info: WorkerInfo;
        readonly sessionId: number;
        readonly assignment: Assignment | undefined;
      }
    | undefined {
    const entry = this.#workers.get(name);
    return entry === undefined || entry.lostMs !== undefined ? undefined : entry;
  }

  /** Live workers that stay. */
  registered(): WorkerInfo[] {
    return [...this.#workers.values()].filter(isPlaceable).map((e) => e.info);
  }

  /** Live workers that stay and serve nothing. */
  idle(): WorkerInfo[] {
    return [...this.#workers.values()]
      .filter((e) => isPlaceable(e) && e.assignment === undefined)
      .map((e) => e.info);
  }

  /** All workers, lost ones too, by name. */
  list(nowMs: number): WorkerView[] {
    return [...this.#workers.values()]
      .map((entry) => ({
        ...entry.info,
        state: stateOf(entry),
        lostReason: entry.lostReason,
        assignment: entry.assignment,
        heartbeatAgeMs: nowMs - entry.lastHeartbeatMs,
      }))
      .sort((a, b) => (a.name < b.name ? -1 : 1));
  }

  #live(name: string, sessionId: number): Entry | undefined {
    const entry = this.#workers.get(name);
    return entry?.sessionId === sessionId && entry.lostMs === undefined ? entry : undefined;
  }
}

function stateOf(entry: Entry): WorkerState {
  if (entry.lostMs !== undefined) return "lost";
  return entry.assignment === undefined && !entry.leaving ? "idle" : "busy";
}

function isPlaceable(entry: Entry): boolean {
  return entry.lostMs === undefined && !entry.leaving;
}
