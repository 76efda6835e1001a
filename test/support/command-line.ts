/** The command line's own description of itself, to check commands of documents by. */
import { Command } from "commander";
import type { CommandContext } from "../../cli/command-context.ts";
import { addCoordinatorCommand } from "../../cli/commands/coordinator.ts";
import { addDoctorCommand } from "../../cli/commands/doctor.ts";
import { addExportCommand } from "../../cli/commands/export.ts";
import { addGenerateCommand } from "../../cli/commands/generate.ts";
import { addJobCommands } from "../../cli/commands/job.ts";
import { addPlanCommand } from "../../cli/commands/plan.ts";
import { addQuickstartCommand } from "../../cli/commands/quickstart.ts";
import { addRunCommand } from "../../cli/commands/run.ts";
import { addWorkerCommand } from "../../cli/commands/worker.ts";
import { addWorkersCommand } from "../../cli/commands/workers.ts";

/** All commands, for looking at: nothing of it is run. */
export function describedCommandLine(): Command {
  const program = new Command("rankmesh").version("0");
  const silent = { write: () => true };
  const context: CommandContext = { stdout: silent, stderr: silent };
  addCoordinatorCommand(program);
  addDoctorCommand(program, context);
  addExportCommand(program, context);
  addGenerateCommand(program, context);
  addJobCommands(program, context);
  addPlanCommand(program, context);
  addQuickstartCommand(program, context);
  addRunCommand(program, context);
  addWorkerCommand(program);
  addWorkersCommand(program, context);
  return program;
}

/**
 * What is wrong with `rankmesh ...words`; undefined when such a command line exists. Values are not looked at.
 * @param inPart arguments and flags that the command must have may be missing, as where a text names a command
 */
export function usageFault(
  program: Command,
  words: readonly string[],
  inPart = false,
): string | undefined {
  let command = program;
  const flags = new Set<string>();
  let positional = 0;
  const rest = [...words];
  for (let word = rest.shift(); word !== undefined; word = rest.shift()) {
    if (word === "...") continue;
    if (word.startsWith("-") && word !== "-") {
      const [name = "", value] = word.split(/=(.*)/s);
      if (["--help", "-h"].includes(name)) return undefined;
      const option = command.options.find(({ long, short }) => long === name || short === name);
      if (option === undefined) return `${pathOf(command)} has no option ${name}`;
      flags.add(option.attributeName());
      if (option.required && value === undefined && rest.shift() === undefined)
        return `${pathOf(command)} ${name} needs a value`;
      continue;
    }
    if (command.commands.length > 0) {
      const found = command.commands.find((each) => each.name() === word);
      if (found === undefined) return `${pathOf(command)} has no command ${word}`;
      command = found;
    } else {
      positional++;
    }
  }
  if (inPart) return undefined;
  if (command.commands.length > 0 && flags.size === 0)
    return `${pathOf(command)} alone does nothing`;
  const missing = command.options.find(
    (option) =>
      option.mandatory && option.defaultValue === undefined && !flags.has(option.attributeName()),
  );
  if (missing !== undefined) return `${pathOf(command)} needs ${missing.long ?? missing.flags}`;
  const wanted = command.registeredArguments;
  const least = wanted.filter(({ required }) => required).length;
  const most = wanted.some(({ variadic }) => variadic) ? Number.POSITIVE_INFINITY : wanted.length;
  if (positional < least || positional > most)
    return `${pathOf(command)} takes ${least === most ? least : `${least} to ${most}`} arguments, not ${positional}`;
  return undefined;
}

function pathOf(command: Command): string {
  const parents: string[] = [];
  for (let at: Command | null = command; at !== null; at = at.parent) parents.unshift(at.name());
  return parents.join(" ");
}
