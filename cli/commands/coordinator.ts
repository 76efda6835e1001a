import type { Command } from "commander";
import { startCoordinator } from "../../coordinator/coordinator-daemon.ts";
import { daemonLogger, runDaemon } from "../daemon.ts";
import { envOption, hostPort } from "../option-values.ts";
import { withLogLevel } from "./log-level.ts";

interface CoordinatorFlags {
  readonly listen: string;
  readonly http: string;
  readonly dataRoot?: string;
  readonly logLevel: string;
}

export function addCoordinatorCommand(program: Command): void {
  const command = program
    .command("coordinator")
    .description("serve the job API and lead the workers")
    .addOption(
      envOption("--listen <host:port>", "gRPC address to bind", "LISTEN")
        .default("127.0.0.1:50051")
        .argParser(hostPort),
    )
    .addOption(
      envOption("--http <host:port>", "address of /metrics", "HTTP")
        .default("127.0.0.1:8080")
        .argParser(hostPort),
    )
    .addOption(
      envOption(
        "--data-root <dir>",
        "folder that jobs' paths are relative to and may not leave; without it every path is refused",
        "DATA_ROOT",
      ),
    );
  withLogLevel(command).action(async (flags: CoordinatorFlags) => {
    const logger = daemonLogger("coordinator", flags.logLevel);
    await runDaemon("coordinator", logger, () =>
      startCoordinator({
        listen: flags.listen,
        http: flags.http,
        files:
          flags.dataRoot === undefined ? { kind: "none" } : { kind: "root", dir: flags.dataRoot },
        logger,
      }),
    );
  });
}
