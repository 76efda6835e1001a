import type { Logger } from "pino";
import { CancelledError, FailedPreconditionError } from "../shared/errors.ts";
import type { Assign__Output } from "../shared/rpc/gen/rankmesh/v1/Assign.ts";
import type { Heartbeat } from "../shared/rpc/gen/rankmesh/v1/Heartbeat.ts";
import type { RankServiceClient } from "../shared/rpc/gen/rankmesh/v1/RankService.ts";
import type { SessionRequest } from "../shared/rpc/gen/rankmesh/v1/SessionRequest.ts";
import type { SessionResponse__Output } from "../shared/rpc/gen/rankmesh/v1/SessionResponse.ts";
import { statusName } from "../shared/rpc/status.ts";
import { type AssignmentKey, parseAssignment } from "./assignment.ts";
import { type RankReports, RankRunner, type RankRunnerOptions } from "./rank-runner.ts";

/** What every runner of this worker shares. */
export type RunnerEnvironment = Omit<RankRunnerOptions, "assignment" | "client" | "reports">;

/** A live session, as the host sees it. */
export interface SessionPort {
  /** Whether the session still lasts. */
  readonly live: boolean;
  send(message: SessionRequest): void;
  /** For bulk streams from the same coordinator. */
  readonly bulkClient: RankServiceClient;
}

/**
 * Holds the worker's one assignment and turns the coordinator's messages into its life. Messages about anything
 * else are answered, never obeyed: a worker belongs to one generation of one job at a time.
 */
export class RankHost {
  readonly #environment: RunnerEnvironment;
  readonly #logger: Logger;
  #runner: RankRunner | undefined;
  #closed = false;

  constructor(environment: RunnerEnvironment) {
    this.#environment = environment;
    this.#logger = environment.logger;
  }

  get runner(): RankRunner | undefined {
    return this.#runner;
  }

  heartbeat(): Heartbeat {
    const runner = this.#runner;
    if (runner === undefined) return { jobId: "", stepsDone: 0, waitingFor: "" };
    return {
      jobId: runner.assignment.jobId,
      stepsDone: runner.stepsDone,
      waitingFor: runner.waitingFor.join(","),
    };
  }

  /** Acts on one message of the coordinator. Never throws: what cannot be served is reported back or logged. */
  handle(message: SessionResponse__Output, port: SessionPort): void {
    try {
      switch (message.message) {
        case "assign":
          if (message.assign) this.#assign(message.assign, port);
          return;
        case "start":
          if (message.start) {
            const { ncclUniqueIds } = message.start;
            this.#withRunner(message.start, "StartSteps", (runner) => runner.start(ncclUniqueIds));
          }
          return;
        case "abort":
          if (message.abort) this.#abort(message.abort, port);
          return;
        case "release":
          if (message.release) {
            const release = message.release;
            const held = this.#withRunner(release, "Release", (runner) => runner.release());
            if (!held) sendReleased(port, release);
          }
          return;
        default:
          this.#logger.warn(
            { kind: message.message },
            "the coordinator sent a message that this version does not know",
          );
      }
    } catch (error) {
      this.#logger.error(
        { err: error, kind: message.message },
        "a message of the coordinator could not be handled",
      );
    }
  }

  /** The session is lost, and the coordinator with it: frees everything, says nothing. */
  async abandon(reason: string): Promise<void> {
    this.#runner?.abort(new CancelledError(reason));
    await this.#runner?.done;
  }

  /** Takes no more assignments. */
  retire(): void {
    this.#closed = true;
  }

  /** Takes no more assignments; ends the running one with `cause` as its failure, and frees everything. */
  async close(cause: Error): Promise<void> {
    this.retire();
    this.#runner?.fail(cause);
    await this.#runner?.done;
  }

  #assign(assign: Assign__Output, port: SessionPort): void {
    // An assignment that had to wait for an older one may find the session over.
    if (this.#closed || !port.live) return;
    const { jobId, generation, rank } = assign;
    const current = this.#runner?.assignment;
    const refuse = (error: unknown): void => {
      const text = error instanceof Error ? error.message : String(error);
      this.#logger.error({ job: jobId, generation, rank, reason: text }, "assignment refused");
      port.send({ failed: { jobId, generation, rank, code: statusName(error), message: text } });
      sendReleased(port, { jobId, generation });
    };
    if (this.#runner !== undefined && current !== undefined) {
      if (current.jobId === jobId && current.generation === generation) {
        this.#logger.warn(
          { job: jobId, generation },
          "assigned twice; the first assignment goes on",
        );
        return;
      }
      if (current.jobId === jobId && current.generation < generation) {
        // The coordinator has given up the older generation: nothing of it may go on.
        this.#runner.abort(new CancelledError(`superseded by generation ${generation}`));
        void this.#runner.done.then(() => this.#assign(assign, port));
        return;
      }
      refuse(
        new FailedPreconditionError(
          `this worker serves rank ${current.rank} of job ${current.jobId}, generation ${current.generation}; ` +
            "release it first",
        ),
      );
      return;
    }
    try {
      const assignment = parseAssignment(assign);
      const reports = reportsTo(port, { jobId, generation }, rank);
      const runner = new RankRunner({
        ...this.#environment,
        assignment,
        client: port.bulkClient,
        reports: {
          ...reports,
          released: () => {
            if (this.#runner === runner) this.#runner = undefined;
            reports.released();
          },
        },
      });
      this.#runner = runner;
    } catch (error) {
      refuse(error);
    }
  }

  #abort(abort: AssignmentKey & { readonly reason: string }, port: SessionPort): void {
    const held = this.#withRunner(abort, "Abort", (runner) =>
      runner.abort(new CancelledError(abort.reason)),
    );
    // It failed and was freed already, or it never came: either way the coordinator waits for this answer.
    if (!held) sendReleased(port, abort);
  }

  /** Runs `action` on the runner that the message means; false when there is none. */
  #withRunner(key: AssignmentKey, what: string, action: (runner: RankRunner) => void): boolean {
    const runner = this.#runner;
    const { jobId, generation } = key;
    if (runner?.assignment.jobId !== jobId || runner.assignment.generation !== generation) {
      this.#logger.debug({ job: jobId, generation }, `${what} for an assignment that is not held`);
      return false;
    }
    action(runner);
    return true;
  }
}

function sendReleased(port: SessionPort, { jobId, generation }: AssignmentKey): void {
  port.send({ released: { jobId, generation } });
}

/** The reports of one rank as messages of the session that assigned it. */
function reportsTo(
  port: SessionPort,
  { jobId, generation }: AssignmentKey,
  rank: number,
): RankReports {
  const at = { jobId, generation, rank };
  return {
    ready: (ncclUniqueIds) => port.send({ ready: { ...at, ncclUniqueIds } }),
    step: ({ step, loss, gradNorm, seconds, batchHash, peakMemoryBytes }) =>
      port.send({
        step: {
          ...at,
          step,
          loss,
          ...(gradNorm === undefined ? {} : { gradNorm }),
          seconds,
          batchHash,
          peakMemoryBytes,
        },
      }),
    evaluation: (result) => port.send({ evaluation: { ...at, ...result } }),
    finished: (memory, rssBytes, collectiveBytes) =>
      port.send({
        finished: { ...at, peakMemoryBytes: memory.peakBytes, rssBytes, collectiveBytes },
      }),
    failed: ({ code, message, peer, step }) =>
      port.send({
        failed: {
          ...at,
          code,
          message,
          ...(peer === undefined ? {} : { peer }),
          ...(step === undefined ? {} : { step }),
        },
      }),
    released: () => sendReleased(port, { jobId, generation }),
  };
}
