import type { Command } from "commander";
import { formatBytes } from "../../shared/format-bytes.ts";
import { type CommandContext, printLines } from "../command-context.ts";
import { formatTable, printable } from "../format.ts";
import { type ConnectionOptions, withAddress, withClient } from "./connection.ts";

export function addWorkersCommand(program: Command, context: CommandContext): void {
  withAddress(program.command("workers"))
    .description("list the coordinator's workers")
    .option("--json", "print JSON", false)
    .action((options: ConnectionOptions & { readonly json: boolean }) => workers(options, context));
}

async function workers(
  options: ConnectionOptions & { readonly json: boolean },
  context: CommandContext,
): Promise<void> {
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
  const rows = list.map((worker) => [
    worker.name,
    worker.state,
    worker.address,
    `${worker.backend} ${worker.device}`.trim(),
    formatBytes(worker.memoryLimitBytes),
    worker.jobId === undefined ? "" : `${worker.jobId} rank ${worker.rank}`,
    `${worker.heartbeatAgeSeconds.toFixed(1)} s`,
  ]);
  const header = ["worker", "state", "address", "device", "memory limit", "serves", "heartbeat"];
  const lost = list.flatMap(({ name, lostReason }) =>
    lostReason === undefined ? [] : [`${name} is lost: ${printable(lostReason)}`],
  );
  printLines(context.stdout, [...formatTable(header, rows), ...lost]);
}
