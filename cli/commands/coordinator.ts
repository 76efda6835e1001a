import type { Command } from "commander";
import { startCoordinator } from "../../coordinator/coordinator-daemon.ts";
import { daemonLogger, runDaemon } from "../daemon.ts";
import { envOption, hostNames, hostPort } from "../option-values.ts";
import { withLogLevel } from "./log-level.ts";

interface CoordinatorFlags {
  readonly listen: string;
  readonly http: string;
  readonly httpHost: readonly string[];
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
      envOption("--http <host:port>", "address of the status page and /metrics", "HTTP")
        .default("127.0.0.1:8080")
        .argParser(hostPort),
    )
    .addOption(
      envOption(
        "--http-host <name>",
        "a host name under which browsers may open the status page, beside addresses, localhost and this machine's own; again for several, or a comma list",
        "HTTP_HOST",
      )
        .default([] as string[], "none")
        .argParser(hostNames),
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
        httpHosts: flags.httpHost,
        files:
          flags.dataRoot === undefined ? { kind: "none" } : { kind: "root", dir: flags.dataRoot },
        logger,
      }),
    );
  });
}
