#!/usr/bin/env node
import { Command } from "commander";
import { packageVersion } from "../worker/version.ts";
import { PROCESS_CONTEXT, printLines } from "./command-context.ts";
import { addCoordinatorCommand } from "./commands/coordinator.ts";
import { addDoctorCommand } from "./commands/doctor.ts";
import { addJobCommands } from "./commands/job.ts";
import { addPlanCommand } from "./commands/plan.ts";
import { addQuickstartCommand } from "./commands/quickstart.ts";
import { addRunCommand } from "./commands/run.ts";
import { addWorkerCommand } from "./commands/worker.ts";
import { addWorkersCommand } from "./commands/workers.ts";
import { errorLines } from "./error-text.ts";
import { exitCodeOf } from "./exit-codes.ts";

// `rankmesh ... | head` closes the pipe early; what is left to say then interests nobody.
process.stdout.on("error", (error: NodeJS.ErrnoException) => {
  if (error.code === "EPIPE") process.exit(0);
  throw error;
});

const program = new Command("rankmesh")
  .description("train models whose layers are too big for one device, split over ranks")
  .version(packageVersion())
  .showHelpAfterError("(--help says more)")
  .exitOverride();

addQuickstartCommand(program, PROCESS_CONTEXT);
addRunCommand(program, PROCESS_CONTEXT);
addPlanCommand(program, PROCESS_CONTEXT);
addCoordinatorCommand(program);
addWorkerCommand(program);
addJobCommands(program, PROCESS_CONTEXT);
addWorkersCommand(program, PROCESS_CONTEXT);
addDoctorCommand(program, PROCESS_CONTEXT);

try {
  await program.parseAsync();
} catch (error) {
  printLines(process.stderr, errorLines(error));
  process.exitCode = exitCodeOf(error);
}
