import type { Command } from "commander";
import { envOption } from "../option-values.ts";

/** `--log-level` / RANKMESH_LOG_LEVEL. */
export function withLogLevel(command: Command): Command {
  return command.addOption(
    envOption("--log-level <level>", "least level that is logged", "LOG_LEVEL")
      .choices(["trace", "debug", "info", "warn", "error", "fatal", "silent"])
      .default("info"),
  );
}
