import type { Command } from "commander";
import type { Worker } from "../../client/job-types.ts";
import { formatBytes } from "../../shared/format-bytes.ts";
import { type CommandContext, printLines } from "../command-context.ts";
import { oneLine, printable } from "../format.ts";
import type { Paint } from "../terminal/style.ts";
import { type Column, renderTable, type TableOptions } from "../terminal/table.ts";
import { type ConnectionOptions, withAddress, withClient } from "./connection.ts";
import { tableOptions } from "./job-list.ts";

interface WorkersOptions extends ConnectionOptions {
  readonly json: boolean;
  readonly color: boolean;
}

const STATE_PAINT: Readonly<Record<string, Paint>> = { idle: "green", busy: "cyan", lost: "red" };

export function addWorkersCommand(program: Command, context: CommandContext): void {
  withAddress(program.command("workers"))
    .description("list the coordinator's workers")
    .option("--json", "print JSON", false)
    .option("--no-color", "no colours (also: NO_COLOR)")
    .action((options: WorkersOptions) => workers(options, context));
}

async function workers(options: WorkersOptions, context: CommandContext): Promise<void> {
  const list = await withClient(options, (client) => client.workers());
  if (options.json) {
    const items = list.map((worker) => ({
      ...worker,
      jobId: worker.jobId ?? null,
      rank: worker.rank ?? null,
    }));
    context.stdout.write(`${JSON.stringify(items, null, 2)}\n`);
    return;
  }
  printLines(context.stdout, workerTable(list, tableOptions(context, options.color)));
}

/** A line for each worker, and below why those are lost that are. */
export function workerTable(workers: readonly Worker[], options: TableOptions): string[] {
  const columns: readonly Column<Worker>[] = [
    { title: "worker", cell: ({ name }) => oneLine(name), min: 12 },
    {
      title: "state",
      cell: ({ state }) => oneLine(state),
      paint: ({ state }) => STATE_PAINT[state],
    },
    { title: "address", cell: ({ address }) => oneLine(address), min: 15, optional: 3 },
    { title: "backend", cell: ({ backend }) => oneLine(backend) },
    { title: "device", cell: ({ device }) => oneLine(device), min: 8, optional: 4 },
    {
      title: "memory limit",
      cell: ({ memoryLimitBytes }) => formatBytes(memoryLimitBytes),
      align: "right",
      optional: 1,
    },
    { title: "job", cell: ({ jobId }) => oneLine(jobId ?? ""), min: 12 },
    {
      title: "rank",
      cell: ({ jobId, rank }) => (jobId === undefined ? "" : String(rank)),
      align: "right",
    },
    {
      title: "heartbeat",
      cell: ({ heartbeatAgeSeconds }) => `${heartbeatAgeSeconds.toFixed(1)} s ago`,
      align: "right",
      optional: 2,
    },
  ];
  const lost = workers.flatMap(({ name, lostReason }) =>
    lostReason === undefined ? [] : [`${oneLine(name)} is lost: ${printable(lostReason)}`],
  );
  return [...renderTable(columns, workers, options), ...lost];
}
