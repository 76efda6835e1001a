import type { Job, JobState } from "../../client/job-types.ts";
import { type CommandContext, printLines } from "../command-context.ts";
import { formatAge, formatLoss, oneLine } from "../format.ts";
import { styleOf } from "../terminal/style.ts";
import { type Column, renderTable, type TableOptions } from "../terminal/table.ts";
import { STATE_PAINT } from "../watch/job-picture.ts";
import { type ConnectionOptions, withClient } from "./connection.ts";

export interface ListOptions extends ConnectionOptions {
  readonly json: boolean;
  readonly color: boolean;
}

/** `job list` */
export async function listJobs(options: ListOptions, context: CommandContext): Promise<void> {
  const jobs: Job[] = [];
  await withClient(options, async (client) => {
    for await (const job of client.list()) jobs.push(job);
  });
  if (options.json) {
    context.stdout.write(`${JSON.stringify(jobs.map(listedJob), null, 2)}\n`);
    return;
  }
  printLines(context.stdout, jobTable(jobs, Date.now(), tableOptions(context, options.color)));
}

/** How tables are written: on a terminal cut to its width, else whole and without colours. */
export function tableOptions({ stdout }: CommandContext, color: boolean): TableOptions {
  const style = styleOf(process.env, color && stdout.isTTY === true);
  const columns = stdout.isTTY === true && (stdout.columns ?? 0) > 0 ? stdout.columns : undefined;
  return { columns, style };
}

/** @param nowMs wall time that ages are counted to */
export function jobTable(jobs: readonly Job[], nowMs: number, options: TableOptions): string[] {
  const states = (job: Job) => STATE_PAINT[job.state];
  const columns: readonly Column<Job>[] = [
    // An id that the coordinator made is shown whole; a long one of the user's must not push out all else.
    { title: "job", cell: ({ jobId }) => oneLine(jobId), min: 24 },
    { title: "name", cell: ({ name }) => oneLine(name), min: 8, optional: 3 },
    { title: "state", cell: ({ state }) => state satisfies JobState, paint: states },
    {
      title: "age",
      cell: ({ createdAt }) => formatAge(createdAt, nowMs),
      align: "right",
      optional: 4,
    },
    { title: "steps", cell: ({ stepsDone, steps }) => `${stepsDone}/${steps}`, align: "right" },
    {
      title: "loss",
      cell: ({ lastLoss }) => (lastLoss === undefined ? "" : formatLoss(lastLoss)),
      align: "right",
      optional: 2,
    },
    {
      title: "mesh",
      cell: ({ mesh }) =>
        mesh === undefined ? "" : `${mesh.dataParallel} x ${mesh.tensorParallel}`,
      optional: 5,
    },
    { title: "reason", cell: ({ reason }) => oneLine(reason), min: 12, optional: 1 },
  ];
  return renderTable(columns, jobs, options);
}

/** An entry of `job list --json`. */
function listedJob(job: Job) {
  const { jobId, name, state, reason, mesh, steps, stepsDone, createdAt, endedAt, lastLoss } = job;
  return {
    jobId,
    name,
    state,
    reason,
    mesh: mesh ?? null,
    steps,
    stepsDone,
    createdAt: createdAt ?? null,
    endedAt: endedAt ?? null,
    lastLoss: lastLoss !== undefined && Number.isFinite(lastLoss) ? lastLoss : null,
  };
}
