#!/usr/bin/env node
import { Command } from "commander";
import { packageVersion } from "../shared/version.ts";
import { PROCESS_CONTEXT, printLines } from "./command-context.ts";
import { errorLines } from "./error-text.ts";
import { exitCodeOf } from "./exit-codes.ts";

type AddCommand = (program: Command) => void;

/** In the order of the help. Each is loaded when it is needed: a worker holds no compiler in its memory. */
const COMMANDS: Readonly<Record<string, () => Promise<AddCommand>>> = {
  quickstart: async () => {
    const { addQuickstartCommand } = await import("./commands/quickstart.ts");
    return (program) => addQuickstartCommand(program, PROCESS_CONTEXT);
  },
  run: async () => {
    const { addRunCommand } = await import("./commands/run.ts");
    return (program) => addRunCommand(program, PROCESS_CONTEXT);
  },
  plan: async () => {
    const { addPlanCommand } = await import("./commands/plan.ts");
    return (program) => addPlanCommand(program, PROCESS_CONTEXT);
  },
  export: async () => {
    const { addExportCommand } = await import("./commands/export.ts");
    return (program) => addExportCommand(program, PROCESS_CONTEXT);
  },
  generate: async () => {
    const { addGenerateCommand } = await import("./commands/generate.ts");
    return (program) => addGenerateCommand(program, PROCESS_CONTEXT);
  },
  coordinator: async () => (await import("./commands/coordinator.ts")).addCoordinatorCommand,
  worker: async () => (await import("./commands/worker.ts")).addWorkerCommand,
  job: async () => {
    const { addJobCommands } = await import("./commands/job.ts");
    return (program) => addJobCommands(program, PROCESS_CONTEXT);
  },
  workers: async () => {
    const { addWorkersCommand } = await import("./commands/workers.ts");
    return (program) => addWorkersCommand(program, PROCESS_CONTEXT);
  },
  doctor: async () => {
    const { addDoctorCommand } = await import("./commands/doctor.ts");
    return (program) => addDoctorCommand(program, PROCESS_CONTEXT);
  },
};

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

try {
  const wanted = COMMANDS[process.argv[2] ?? ""];
  // Help, and the nearest name for a typo, need them all.
  for (const load of wanted === undefined ? Object.values(COMMANDS) : [wanted]) {
    (await load())(program);
  }
  await program.parseAsync();
} catch (error) {
  printLines(process.stderr, errorLines(error));
  process.exitCode = exitCodeOf(error);
}
