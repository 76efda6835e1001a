import { InvalidArgumentError } from "../../shared/errors.ts";
import type { Job } from "./job.ts";

/** Steps of ended jobs that are remembered: 48 bytes each. */
const MAX_ENDED_STEPS = 10_000_000;

/** All jobs of this coordinator in the order in which they were accepted; of the ended ones only the newest. */
export class JobStore {
  readonly #maxEnded: number;
  readonly #jobs = new Map<string, { readonly job: Job; readonly number: number }>();
  /** Ended jobs, first ended first. */
  readonly #ended: Job[] = [];
  #endedSteps = 0;
  #nextNumber = 1;

  constructor(maxEnded: number) {
    this.#maxEnded = maxEnded;
  }

  add(job: Job): void {
    this.#jobs.set(job.jobId, { job, number: this.#nextNumber });
    this.#nextNumber += 1;
  }

  get(jobId: string): Job | undefined {
    return this.#jobs.get(jobId)?.job;
  }

  /** Counts a job among the ended ones, and forgets the oldest of them where there are too many. */
  retire(job: Job): void {
    this.#ended.push(job);
    this.#endedSteps += job.machine.stepsDone;
    while (
      this.#ended.length > this.#maxEnded ||
      (this.#endedSteps > MAX_ENDED_STEPS && this.#ended.length > 1)
    ) {
      const oldest = this.#ended.shift();
      if (oldest === undefined) return;
      this.#endedSteps -= oldest.machine.stepsDone;
      this.#jobs.delete(oldest.jobId);
    }
  }

  /** In the order in which they were accepted. */
  all(): Job[] {
    return [...this.#jobs.values()].map(({ job }) => job);
  }

  /** Jobs that wait for workers, first come first. */
  queued(): Job[] {
    return this.all().filter((job) => job.machine.phase === "QUEUED");
  }

  /**
   * Newest first, from after the place that `pageToken` marks.
   * @throws InvalidArgumentError for a token that no page ended with
   */
  page(
    pageSize: number,
    pageToken: string,
  ): { readonly jobs: Job[]; readonly nextPageToken: string } {
    if (pageToken !== "" && !/^[1-9]\d{0,15}$/.test(pageToken)) {
      const message =
        "is not a token of an earlier reply; leave it out to start with the newest job";
      throw new InvalidArgumentError([{ path: "pageToken", message }]);
    }
    const below = pageToken === "" ? Number.POSITIVE_INFINITY : Number(pageToken);
    const older = [...this.#jobs.values()].filter(({ number }) => number < below).reverse();
    const page = older.slice(0, pageSize);
    const last = page.at(-1);
    return {
      jobs: page.map(({ job }) => job),
      nextPageToken: last !== undefined && older.length > page.length ? String(last.number) : "",
    };
  }
}
