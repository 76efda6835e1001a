import { countRounds, type RoundSchedule, roundName } from "../../shared/job/rounds.ts";
import { EventLog } from "./event-log.ts";
import type {
  EvaluationDone,
  Instant,
  JobFailure,
  JobPhase,
  MeshSizes,
  RankSummary,
  StepDone,
} from "./job-state.ts";
import { type RankComplaint, rootCause } from "./root-cause.ts";
import { type EvaluationReport, RoundLedger, type StepReport } from "./round-ledger.ts";

/** How long a job waits for whom, in milliseconds. */
export interface JobDeadlines {
  /** To open the job's data, and from then to the last rank being ready. */
  readonly readyMs: number;
  /** From the delivery of a round's batch to its last report. */
  readonly stepMs: number;
  /** After the first complaint about a peer: time for the peer's own death to show. */
  readonly graceMs: number;
  /** From abort or release to the last rank's answer; then the job ends without it. */
  readonly releaseMs: number;
}

const NO_ROUNDS: RoundSchedule = { steps: 0, evaluateEvery: 0, evaluationBatches: 0 };

/** Changes of the reason for waiting that the log keeps. */
const MAX_QUEUED_EVENTS = 100;

/** The worker that serves a rank. */
export interface GangMember {
  readonly worker: string;
  readonly backend: string;
  readonly device: string;
  /** Of its rank: arena and workspace. */
  readonly predictedPeakBytes: number;
  readonly workspaceBytes: number;
}

/** What can happen to a job. Everything that a rank says carries its generation: a stale one is ignored. */
export type JobInput =
  | { readonly kind: "waits"; readonly reason: string }
  | {
      readonly kind: "start";
      readonly sizes: MeshSizes;
      readonly gang: readonly GangMember[];
      /** Ranks compute alike: what they report of a step is bit-equal. @default true */
      readonly alike?: boolean;
      /** Instead of the deadlines' own: a large model takes longer to load. */
      readonly readyMs?: number;
      /** Time to open the job's data, where that takes longer: a text is tokenized. */
      readonly openMs?: number;
    }
  /** The job's data is open, and the ranks are now told of the job. */
  | { readonly kind: "opened"; readonly generation: number; readonly evaluationBatches: number }
  | { readonly kind: "ready"; readonly generation: number; readonly rank: number }
  | {
      readonly kind: "batchSent";
      readonly generation: number;
      readonly rank: number;
      readonly round: number;
      readonly hash: number;
    }
  | { readonly kind: "step"; readonly generation: number; readonly report: StepReport }
  | { readonly kind: "evaluation"; readonly generation: number; readonly report: EvaluationReport }
  | {
      readonly kind: "finished";
      readonly generation: number;
      readonly rank: number;
      readonly peakBytes: number;
      readonly rssBytes: number;
      readonly collectiveBytes: number;
    }
  | { readonly kind: "complaint"; readonly generation: number; readonly complaint: RankComplaint }
  | {
      readonly kind: "lost";
      readonly generation: number;
      readonly rank: number;
      readonly why: string;
    }
  | { readonly kind: "outputWritten"; readonly generation: number }
  /** The work that `assign` or `writeOutput` asked for is over, whatever came of it; nothing of it is left behind. */
  | { readonly kind: "settled"; readonly generation: number }
  | { readonly kind: "released"; readonly generation: number; readonly rank: number }
  | {
      readonly kind: "log";
      readonly level: "info" | "warn" | "error";
      readonly message: string;
      readonly rank?: number;
    }
  | { readonly kind: "fail"; readonly failure: JobFailure }
  | { readonly kind: "cancel"; readonly reason: string }
  | { readonly kind: "tick" };

/** What the shell is to do. Events were appended to the log already. */
export type JobEffect =
  /** Send the assignments of this generation; answer with `settled`. */
  | { readonly kind: "assign" }
  | { readonly kind: "startSteps" }
  /** Pull the weights and write the output; answer with `outputWritten` or `fail`, then `settled`. */
  | { readonly kind: "writeOutput" }
  | { readonly kind: "abort"; readonly ranks: readonly number[]; readonly reason: string }
  | { readonly kind: "release"; readonly ranks: readonly number[] }
  | { readonly kind: "stepDone"; readonly step: StepDone }
  | { readonly kind: "evaluationDone"; readonly evaluation: EvaluationDone }
  | { readonly kind: "ended" };

/**
 * Inside a phase: RUNNING is `stepping`, then `writing` the output, then `releasing` the ranks. A job that failed or was
 * cancelled is `ending` (in the phase it had) until its ranks are free, and only then reaches its terminal phase.
 */
type Stage = "queued" | "starting" | "stepping" | "writing" | "releasing" | "ending" | "ended";

interface RankState extends GangMember {
  ready: boolean;
  finished: boolean;
  /** Free again: released, or lost with its worker. */
  free: boolean;
  peakBytes: number;
  rssBytes: number;
  collectiveBytes: number;
}

/**
 * One job from submit to its end. Pure: no clock, no I/O; time comes with each input, and what is to be done comes back.
 *
 * Invariants: exactly one terminal phase, and no event after it. No step starts before all ranks are ready. SUCCEEDED
 * only after the output is written. The first cause that ends a job is the one it reports.
 */
export class JobMachine {
  readonly log = new EventLog();
  readonly steps: number;
  readonly #evaluateEvery: number;
  readonly #deadlines: JobDeadlines;
  #stage: Stage = "queued";
  #phase: JobPhase = "QUEUED";
  #reason = "";
  #generation = 0;
  #sizes: MeshSizes | undefined;
  #alike = true;
  #readyMs = 0;
  #openMs = 0;
  /** Whether this generation's data is open: before that no rank knows of it. */
  #isOpen = false;
  #ranks: RankState[] = [];
  #ledger = new RoundLedger(0, NO_ROUNDS);
  #rounds = 0;
  /** Whether the shell is at work on `assign` or `writeOutput`: the job does not end under it. */
  #working = false;
  #outcome:
    | {
        readonly phase: "FAILED" | "CANCELLED" | "SUCCEEDED";
        readonly reason: string;
        readonly failure?: JobFailure;
      }
    | undefined;
  #complaints: RankComplaint[] = [];
  #deadlineMs: number | undefined;
  #graceEndMs: number | undefined;
  #endedAtMs: number | undefined;

  /** @param options.evaluateEvery steps between evaluations; 0: none */
  constructor(options: {
    steps: number;
    evaluateEvery?: number;
    deadlines: JobDeadlines;
    now: Instant;
  }) {
    this.steps = options.steps;
    this.#evaluateEvery = options.evaluateEvery ?? 0;
    this.#deadlines = options.deadlines;
    this.#enter("queued", "QUEUED", "accepted", options.now);
  }

  get phase(): JobPhase {
    return this.#phase;
  }

  get reason(): string {
    return this.#reason;
  }

  /** Set when FAILED. */
  get failure(): JobFailure | undefined {
    return this.#stage === "ended" ? this.#outcome?.failure : undefined;
  }

  /** Grows by one at each start of the gang; 0 before the first. */
  get generation(): number {
    return this.#generation;
  }

  /** Once started. */
  get sizes(): MeshSizes | undefined {
    return this.#sizes;
  }

  get stepsDone(): number {
    return this.log.numSteps;
  }

  /** Rounds (steps, and batches of evaluations) that `rank` has reported. */
  roundsReported(rank: number): number {
    return this.#ledger.reported(rank);
  }

  /** Wall time of the end; undefined before it. */
  get endedAtMs(): number | undefined {
    return this.#endedAtMs;
  }

  /** Whether the job is on its way to FAILED or CANCELLED. */
  get ending(): boolean {
    return this.#stage === "ending";
  }

  /** Monotonic time at which a `tick` is due; undefined when nothing is waited for. */
  get nextDeadlineMs(): number | undefined {
    if (this.#graceEndMs === undefined) return this.#deadlineMs;
    return Math.min(this.#graceEndMs, this.#deadlineMs ?? Number.POSITIVE_INFINITY);
  }

  ranks(): RankSummary[] {
    return this.#ranks.map((r, rank) => ({
      rank,
      worker: r.worker,
      backend: r.backend,
      device: r.device,
      predictedPeakBytes: r.predictedPeakBytes,
      workspaceBytes: r.workspaceBytes,
      peakBytes: r.peakBytes,
      rssBytes: r.rssBytes,
      collectiveBytes: r.collectiveBytes,
    }));
  }

  /** Takes one input at one moment and returns what is to be done, in order. */
  apply(input: JobInput, now: Instant): JobEffect[] {
    if (this.#stage === "ended") return [];
    if ("generation" in input && input.generation !== this.#generation) return [];
    switch (input.kind) {
      case "waits":
        return this.#waits(input.reason, now);
      case "start":
        return this.#start(input, now);
      case "opened":
        return this.#opened(input.evaluationBatches, now);
      case "ready":
        return this.#ready(input.rank, now);
      case "batchSent":
        return this.#batchSent(input.rank, input.round, input.hash, now);
      case "step":
      case "evaluation":
        return this.#report(input.report, now);
      case "finished":
        return this.#finished(input, now);
      case "complaint":
        return this.#complaint(input.complaint, now);
      case "lost":
        return this.#lost(input.rank, input.why, now);
      case "outputWritten":
        return this.#outputWritten(now);
      case "settled":
        this.#working = false;
        return this.#endWhenFree(now);
      case "released":
        return this.#released(input.rank, now);
      case "log":
        this.log.append(input, now.wallMs);
        return [];
      case "fail":
        return this.#end(
          { phase: "FAILED", reason: input.failure.message, failure: input.failure },
          now,
        );
      case "cancel":
        return this.#end({ phase: "CANCELLED", reason: input.reason }, now);
      case "tick":
        return this.#tick(now);
    }
  }

  #waits(reason: string, now: Instant): JobEffect[] {
    if (this.#stage !== "queued" || reason === this.#reason) return [];
    // A job may wait through thousands of others: the reason stays current, the log does not grow for ever.
    if (this.log.lastId < MAX_QUEUED_EVENTS) this.#enter("queued", "QUEUED", reason, now);
    else this.#reason = reason;
    return [];
  }

  #start(input: Extract<JobInput, { kind: "start" }>, now: Instant): JobEffect[] {
    if (this.#stage !== "queued") return [];
    this.#generation += 1;
    this.#isOpen = false;
    this.#sizes = input.sizes;
    this.#alike = input.alike ?? true;
    this.#ranks = input.gang.map((member) => ({
      ...member,
      ready: false,
      finished: false,
      free: false,
      peakBytes: 0,
      rssBytes: 0,
      collectiveBytes: 0,
    }));
    const { dataParallel, tensorParallel } = input.sizes;
    const numRanks = this.#ranks.length;
    this.#enter(
      "starting",
      "STARTING",
      `${numRanks} ${numRanks === 1 ? "rank" : "ranks"}: dataParallel ${dataParallel} x tensorParallel ${tensorParallel}`,
      now,
    );
    this.#readyMs = input.readyMs ?? this.#deadlines.readyMs;
    this.#openMs = Math.max(input.openMs ?? 0, this.#readyMs);
    this.#deadlineMs = now.monotonicMs + this.#openMs;
    this.#working = true;
    return [{ kind: "assign" }];
  }

  #opened(evaluationBatches: number, now: Instant): JobEffect[] {
    if (this.#stage !== "starting") return [];
    const { steps } = this;
    const schedule = { steps, evaluateEvery: this.#evaluateEvery, evaluationBatches };
    this.#isOpen = true;
    this.#rounds = countRounds(schedule);
    this.#ledger = new RoundLedger(this.#ranks.length, schedule, this.#alike);
    this.#deadlineMs = now.monotonicMs + this.#readyMs;
    return [];
  }

  #ready(rank: number, now: Instant): JobEffect[] {
    const state = this.#ranks[rank];
    if (this.#stage !== "starting" || !this.#isOpen || state === undefined) return [];
    state.ready = true;
    if (!this.#ranks.every((r) => r.ready)) return [];
    this.#enter("stepping", "RUNNING", "all ranks are ready", now);
    this.#armRound(now);
    return [{ kind: "startSteps" }];
  }

  #batchSent(rank: number, round: number, hash: number, now: Instant): JobEffect[] {
    const before = this.#ledger.batchDelivered();
    this.#ledger.batchSent(rank, round, hash);
    if (this.#stage === "stepping" && !before && this.#ledger.batchDelivered()) this.#armRound(now);
    return [];
  }

  #report(report: StepReport | EvaluationReport, now: Instant): JobEffect[] {
    const state = this.#ranks[report.rank];
    if (this.#stage !== "stepping" || state === undefined) return [];
    if (report.evaluation === undefined) {
      state.peakBytes = Math.max(state.peakBytes, report.peakBytes);
    }
    const outcome = this.#ledger.report(report);
    if (outcome === undefined) return [];
    this.#armRound(now);
    const effects: JobEffect[] = [];
    const { done } = outcome;
    if (done !== undefined) {
      this.log.append(done, now.wallMs);
      effects.push(
        done.kind === "step"
          ? { kind: "stepDone", step: done }
          : { kind: "evaluationDone", evaluation: done },
      );
    }
    if (outcome.failure !== undefined) {
      effects.push(...this.#fail(this.#withWorker(outcome.failure), now));
    }
    return effects;
  }

  #finished(input: Extract<JobInput, { kind: "finished" }>, now: Instant): JobEffect[] {
    const state = this.#ranks[input.rank];
    if (this.#stage !== "stepping" || state === undefined) return [];
    if (this.#ledger.next(input.rank) !== undefined) {
      return this.#fail(
        this.#withWorker({
          code: "INTERNAL",
          message: `internal: rank ${input.rank} finished after ${this.#ledger.reported(input.rank)} of ${this.#rounds} rounds`,
          rank: input.rank,
        }),
        now,
      );
    }
    state.finished = true;
    state.peakBytes = Math.max(state.peakBytes, input.peakBytes);
    state.rssBytes = input.rssBytes;
    state.collectiveBytes = input.collectiveBytes;
    if (!this.#ranks.every((r) => r.finished)) return [];
    this.#stage = "writing";
    this.#deadlineMs = undefined;
    this.#working = true;
    return [{ kind: "writeOutput" }];
  }

  #complaint(complaint: RankComplaint, now: Instant): JobEffect[] {
    if (this.#ranks[complaint.rank] === undefined || !this.#live()) return [];
    if (complaint.peer !== undefined && this.#ranks[complaint.peer] === undefined) {
      const { peer: _, ...own } = complaint;
      this.#complaints.push(own);
    } else {
      this.#complaints.push(complaint);
    }
    if (complaint.peer === undefined) return this.#settleComplaints(now);
    this.#graceEndMs ??= now.monotonicMs + this.#deadlines.graceMs;
    return [];
  }

  #lost(rank: number, why: string, now: Instant): JobEffect[] {
    const state = this.#ranks[rank];
    if (state === undefined || state.free) return [];
    state.free = true;
    if (!this.#live()) return this.#endWhenFree(now);
    const round = this.#ledger.next(rank) ?? { step: this.steps, evaluation: undefined };
    const when =
      this.#stage === "starting"
        ? "before the first step"
        : this.#stage === "writing"
          ? "while its weights were read"
          : `at ${roundName(round)}`;
    return this.#fail(
      this.#withWorker({
        code: "UNAVAILABLE",
        message: `rank ${rank} (worker ${state.worker}) was lost ${when}: ${why}`,
        rank,
        ...(this.#stage === "stepping" ? { step: round.step } : {}),
      }),
      now,
    );
  }

  #outputWritten(now: Instant): JobEffect[] {
    if (this.#stage !== "writing") return [];
    this.#stage = "releasing";
    this.#outcome = { phase: "SUCCEEDED", reason: "" };
    this.#deadlineMs = now.monotonicMs + this.#deadlines.releaseMs;
    return [{ kind: "release", ranks: this.#busyRanks() }, ...this.#endWhenFree(now)];
  }

  #released(rank: number, now: Instant): JobEffect[] {
    const state = this.#ranks[rank];
    if (state === undefined || state.free) return [];
    state.free = true;
    const complained = this.#complaints.some((c) => c.rank === rank);
    if (this.#live() && !complained) {
      return this.#fail(
        this.#withWorker({
          code: "INTERNAL",
          message: `internal: rank ${rank} left the job without being asked`,
          rank,
        }),
        now,
      );
    }
    return this.#endWhenFree(now);
  }

  #tick(now: Instant): JobEffect[] {
    if (this.#graceEndMs !== undefined && now.monotonicMs >= this.#graceEndMs)
      return this.#settleComplaints(now);
    if (this.#deadlineMs === undefined || now.monotonicMs < this.#deadlineMs) return [];
    switch (this.#stage) {
      case "starting": {
        if (!this.#isOpen) {
          const message = `the job's data could not be opened within ${this.#seconds(this.#openMs)}`;
          return this.#fail({ code: "DEADLINE_EXCEEDED", message }, now);
        }
        const missing = this.#ranks.flatMap((r, rank) => (r.ready ? [] : [rank]));
        return this.#fail(
          this.#silent(
            missing,
            `not ready within ${this.#seconds(this.#readyMs)} of their assignment`,
          ),
          now,
        );
      }
      case "stepping": {
        const round = this.#ledger.current;
        if (round !== undefined && !this.#ledger.batchDelivered()) {
          // The data source is slow, or a client has not pushed yet: that is nobody's stall.
          this.#armRound(now);
          return [];
        }
        const missing =
          round === undefined
            ? this.#ranks.flatMap((r, rank) => (r.finished ? [] : [rank]))
            : this.#ledger.laggards();
        const what = round === undefined ? "no end of the run" : `no report of ${roundName(round)}`;
        return this.#fail(
          {
            ...this.#silent(missing, `${what} within ${this.#seconds(this.#deadlines.stepMs)}`),
            step: round?.step ?? this.steps,
          },
          now,
        );
      }
      case "releasing":
      case "ending":
        for (const rank of this.#busyRanks()) {
          const message = `rank ${rank} (worker ${this.#ranks[rank]?.worker}) did not let go within ${this.#seconds(this.#deadlines.releaseMs)}`;
          this.log.append({ kind: "log", level: "warn", message, rank }, now.wallMs);
        }
        return this.#conclude(now);
      default:
        return [];
    }
  }

  /** Whether the job is still on its way to success with its ranks at work. */
  #live(): boolean {
    return this.#stage === "starting" || this.#stage === "stepping" || this.#stage === "writing";
  }

  #settleComplaints(now: Instant): JobEffect[] {
    this.#graceEndMs = undefined;
    const [first, ...rest] = this.#complaints;
    if (first === undefined) return [];
    return this.#fail(
      rootCause([first, ...rest], (rank) => this.#ranks[rank]?.worker),
      now,
    );
  }

  #fail(failure: JobFailure, now: Instant): JobEffect[] {
    return this.#end({ phase: "FAILED", reason: failure.message, failure }, now);
  }

  /** Ends the job unless its end is decided already: aborts the ranks that still work and waits for them. */
  #end(
    outcome: {
      readonly phase: "FAILED" | "CANCELLED";
      readonly reason: string;
      readonly failure?: JobFailure;
    },
    now: Instant,
  ): JobEffect[] {
    if (this.#outcome !== undefined) return [];
    this.#outcome = outcome;
    this.#graceEndMs = undefined;
    if (this.#stage === "queued") return this.#conclude(now);
    this.#stage = "ending";
    this.#reason = outcome.reason;
    this.#deadlineMs = now.monotonicMs + this.#deadlines.releaseMs;
    const ranks = this.#busyRanks();
    const abort: JobEffect[] =
      ranks.length > 0 ? [{ kind: "abort", ranks, reason: outcome.reason }] : [];
    return [...abort, ...this.#endWhenFree(now)];
  }

  #endWhenFree(now: Instant): JobEffect[] {
    const waiting = this.#stage === "ending" || this.#stage === "releasing";
    const free = !this.#working && this.#busyRanks().length === 0;
    return waiting && free ? this.#conclude(now) : [];
  }

  #conclude(now: Instant): JobEffect[] {
    const outcome = this.#outcome;
    if (outcome === undefined) return [];
    this.#stage = "ended";
    this.#phase = outcome.phase;
    this.#reason = outcome.reason;
    this.#deadlineMs = undefined;
    this.#endedAtMs = now.wallMs;
    this.log.append(
      {
        kind: "state",
        phase: outcome.phase,
        reason: outcome.reason,
        ...(outcome.failure === undefined ? {} : { failure: outcome.failure }),
        ranks: this.ranks(),
      },
      now.wallMs,
    );
    return [{ kind: "ended" }];
  }

  #enter(stage: Stage, phase: JobPhase, reason: string, now: Instant): void {
    this.#stage = stage;
    this.#phase = phase;
    this.#reason = reason;
    this.log.append({ kind: "state", phase, reason }, now.wallMs);
  }

  #armRound(now: Instant): void {
    this.#deadlineMs = now.monotonicMs + this.#deadlines.stepMs;
  }

  #busyRanks(): number[] {
    return this.#ranks.flatMap((r, rank) => (r.free ? [] : [rank]));
  }

  #silent(ranks: readonly number[], what: string): JobFailure {
    const names = ranks.map((rank) => `rank ${rank} (worker ${this.#ranks[rank]?.worker})`);
    const failure = { code: "DEADLINE_EXCEEDED", message: `${names.join(", ")}: ${what}` };
    const rank = ranks[0];
    return rank === undefined ? failure : this.#withWorker({ ...failure, rank });
  }

  #withWorker(failure: JobFailure): JobFailure {
    const worker = failure.rank === undefined ? undefined : this.#ranks[failure.rank]?.worker;
    return worker === undefined ? failure : { ...failure, worker };
  }

  #seconds(ms: number): string {
    return `${ms / 1000} s`;
  }
}
