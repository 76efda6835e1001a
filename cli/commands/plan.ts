import { type Command, Option } from "commander";
import { printReport } from "../../coordinator/planning/report.ts";
import { checkLoadedJob } from "../check-job.ts";
import type { CommandContext } from "../command-context.ts";
import { loadJobFile } from "../job-file.ts";
import { wholeNumber } from "../option-values.ts";
import { checkOutputFile, writeJsonFile } from "../output-file.ts";

interface PlanFlags {
  readonly json?: string;
  readonly dataParallel: number;
  readonly tensorParallel: number;
}

export function addPlanCommand(program: Command, context: CommandContext): void {
  const size = (flag: string) =>
    new Option(`${flag} <ranks>`, "size of the axis where the job says auto")
      .default(1)
      .argParser(wholeNumber(1, 4096));
  program
    .command("plan")
    .description(
      "say what each rank of a job would hold and send; starts nothing, reads only headers of its files",
    )
    .argument("<job.yaml>", "job file; its paths are relative to it")
    .option("--json <file>", "write the plan as JSON")
    .addOption(size("--data-parallel"))
    .addOption(size("--tensor-parallel"))
    .action((file: string, flags: PlanFlags) => plan(file, flags, context));
}

async function plan(file: string, flags: PlanFlags, context: CommandContext): Promise<void> {
  await checkOutputFile("--json", flags.json);
  const { plan: planned } = await checkLoadedJob(await loadJobFile(file), {
    sizes: ({ mesh }) => ({
      dataParallel: mesh.dataParallel === "auto" ? flags.dataParallel : mesh.dataParallel,
      tensorParallel: mesh.tensorParallel === "auto" ? flags.tensorParallel : mesh.tensorParallel,
    }),
    depth: "headers",
  });
  const { report } = planned;
  if (flags.json !== undefined) await writeJsonFile(flags.json, report);
  context.stdout.write(`${printReport(report)}\n`);
}
