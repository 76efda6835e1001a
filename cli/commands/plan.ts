import { type Command, Option } from "commander";
import { planJob, printReport } from "../../coordinator/planning/plan-job.ts";
import { sizesFor } from "../../coordinator/gang/scheduler.ts";
import { type Fault, InvalidArgumentError } from "../../shared/errors.ts";
import type { JobSpec } from "../../shared/job/job-spec.ts";
import { resolveJobSpec } from "../../shared/job/resolve.ts";
import { type CommandContext, printLines } from "../command-context.ts";
import { type LoadedJob, loadJobFile } from "../job-file.ts";
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
    .description("say what each rank of a job would hold and send; starts nothing, reads only headers of its files")
    .argument("<job.yaml>", "job file; its paths are relative to it")
    .option("--json <file>", "write the plan as JSON")
    .addOption(size("--data-parallel"))
    .addOption(size("--tensor-parallel"))
    .action((file: string, flags: PlanFlags) => plan(file, flags, context));
}
